"""What a reader of the scores should know of the fits: constant columns, ties, fits that did not converge."""

from collections.abc import Sequence

import numpy as np

from mllm_probe.fitting.readout import Source
from mllm_probe.fitting.trials import NAMED, Trial
from mllm_probe.records.protocols import Reporter
from mllm_probe.scoring.aggregate import Scoring
from mllm_probe.scoring.integrations import places


class Remarks:
    """Trials are given key by key; `found` {remark: the keys and integrations that it holds of}."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self.found: dict[str, list[str]] = {}

    def add(self, trials: Sequence[Trial]) -> None:
        for remark in remarks_on(trials, self._scoring.probing.kind):
            self.found.setdefault(remark, []).append(_subject(trials))

    def tell(self, source: Source, reporter: Reporter) -> None:
        """All of it, and what could not be fitted."""
        probing = self._scoring.probing
        keys = len(probing.experiment.keys) + len(places(probing.experiment))
        for remark, named in self.found.items():
            rest = "" if len(named) <= NAMED else f" and {len(named) - NAMED} more"
            reporter.note(f"at {len(named)} of {keys} keys {remark}: {', '.join(named[:NAMED])}{rest}")
        for said in (probing.left_out, probing.undecided(source), *self._scoring.bounds_said()):
            if said:
                reporter.note(said)


def remarks_on(trials: Sequence[Trial], kind: str) -> list[str]:
    """What a reader of the scores should know of the fits of a key or an integration."""
    if not trials or trials[0].key is None or trials[0].control or trials[0].features == "answer":
        return []
    found = {
        "some columns are constant in training and carry no information": any(
            trial.facts.get("constant_columns", 0) for trial in trials
        ),
        "the probe predicts the same for every row": any(
            np.ptp(trial.logits[trial.read], axis=0).max() == 0 for trial in trials
        ),
        "some decisions are ties and count half": kind != "number" and any(map(_tied, trials)),
        "some fits did not converge": not all(trial.facts["converged"] for trial in trials),
    }
    return [remark for remark, holds in found.items() if holds]


def _tied(trial: Trial) -> bool:
    """Whether some decisions are ties, though not all rows say the same."""
    said = trial.logits[trial.read]
    if np.ptp(said, axis=0).max(initial=0) == 0:
        return False
    return bool((said == 0).any() if said.ndim == 1 else ((said == said.max(1, keepdims=True)).sum(1) > 1).any())


def _subject(trials: Sequence[Trial]) -> str:
    key, features = trials[0].key, trials[0].features
    return f"{features} at {key.position}" if key and features != "single" else str(key)
