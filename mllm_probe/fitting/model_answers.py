"""The model's own answers, layer by layer, as trials: to compare with probes. Fits nothing.

At the top they are the zero-shot answers of the checkpoint, below it the logit lens (nostalgebraist 2020).
"""

from collections.abc import Iterator

import numpy as np

from mllm_probe.fitting.readout import Source
from mllm_probe.fitting.trials import Probing, Trial
from mllm_probe.records.score import LENS, ZERO_SHOT
from mllm_probe.records.sites import Key

FEATURES = "answer"


def answers(probing: Probing, source: Source) -> Iterator[list[Trial]]:
    """One list of trials a block; those of the top, where it is read, once more as the baseline of no layer."""
    for key in probing.experiment.answer_keys:
        logits = said(probing, source, key)
        yield _trials(probing, Key(key.site, "last"), "", LENS, logits)
        if key.site.layer == probing.experiment.anatomy.blocks["lm"]:
            yield _trials(probing, None, ZERO_SHOT, FEATURES, logits)


def said(probing: Probing, source: Source, key: Key) -> np.ndarray:
    """The model's answers at a key as a probe's logits: log-odds [N] of two labels, a logit a class [N, C] of more."""
    logits = source.readout(key).data.rows[:].double().numpy()
    return ((logits[:, 0] - logits[:, 1]) if probing.kind == "binary" else logits).astype(np.float32)


def _trials(probing: Probing, key: Key | None, control: str, probe: str, logits: np.ndarray) -> list[Trial]:
    """They need no seed, but validation rows differ by it."""
    facts = {"converged": 1.0, "log_odds": 1.0, "answer": 1.0}
    return [Trial(key, control, probe, seed, logits, facts, {}, FEATURES) for seed in probing.seeds]
