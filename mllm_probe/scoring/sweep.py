"""A sweep: probes on every key of a filled cache, their scores and comparisons, and all the files of a run."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mllm_probe.errors import CacheError
from mllm_probe.experiment.experiment import OPTIONAL, Experiment, filled
from mllm_probe.files.paths import RunPaths
from mllm_probe.fitting.readout import Source
from mllm_probe.fitting.resume import FITS, LOGITS, Parts
from mllm_probe.fitting.trials import Probing
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.score import Score
from mllm_probe.results.score_file import ScoreFile
from mllm_probe.scoring.aggregate import Scoring
from mllm_probe.scoring.guards import Guards
from mllm_probe.scoring.per_key import steps, trials_and_scores
from mllm_probe.scoring.prediction_rows import save_decided
from mllm_probe.scoring.remarks import Remarks
from mllm_probe.scoring.shown_examples import save_examples
from mllm_probe.scoring.summary import save_splits, save_summary, summarised
from mllm_probe.scoring.verdicts.all_tests import Comparisons
from mllm_probe.scoring.verdicts.best_layers import save_tests
from mllm_probe.scoring.verdicts.hypotheses import Curve


@dataclass(frozen=True)
class Swept:
    """A sweep whose files are written.

    `curves`: one for each position where the language model was read at three blocks or more. `clear` removes what was
    kept for a killed run; without it the same sweep is only joined again.
    """

    summary: dict[str, Any]
    curves: Mapping[str, Curve]
    clear: Callable[[], None]


def check_filled(experiment: Experiment, reporter: Reporter) -> None:
    """Raises CacheError where the cache lacks something; a control that not every model has is only told."""
    for each in (experiment, *experiment.variants):
        try:
            filled(each)
        except CacheError as error:
            if each.control not in OPTIONAL:
                raise
            reporter.note(f"{each.control}: not applicable: {error}")


def sweep_cached(
    experiment: Experiment, paths: RunPaths, reporter: Reporter, extraction: Mapping[str, Any], template: str
) -> Swept:
    """Write every file of the run, when no other process is at the same one. `extraction`: what filled the cache, and
    `template`: how prompts are wrapped, both for the summary."""
    scoring = Scoring(Probing(experiment))
    parts = Parts(experiment.outputs.parts(scoring.run))
    with parts.turn(reporter):
        return _swept(scoring, parts, paths, reporter, {"template": template, "extraction": dict(extraction)})


def _swept(scoring: Scoring, parts: Parts, paths: RunPaths, reporter: Reporter, given: Mapping[str, Any]) -> Swept:
    """scores.csv grows key by key, and is whole when the layers have been compared."""
    probing, experiment = scoring.probing, scoring.probing.experiment
    started, source, table = time.monotonic(), Source(experiment), ScoreFile(paths.scores)
    guards, remarks = Guards(probing, reporter), Remarks(scoring)
    guards.first(scoring, source)
    comparisons, total = Comparisons(scoring, source), steps(probing)
    scores: list[Score] = []
    for done, (trials, rows) in enumerate(trials_and_scores(scoring, source, parts), 1):
        for each in (guards, remarks, comparisons):
            each.add(trials)
        table.add(rows)
        scores += rows
        reporter.progress("sweep", done, total, "keys")
    scores += comparisons.floors()
    tests, compared = comparisons.tests(scores, reporter)
    remarks.tell(source, reporter)
    scores = comparisons.tested(scores, tests)
    save_tests(paths.tests, tests)
    table.replace(scores)
    _save(probing, parts, paths)
    more = {
        "fingerprint": probing.scored.fingerprint,
        "template": given["template"],
        "remarks": remarks.found,
        "guards": guards.said,
        "intervals": scoring.bounds_said(),
        "controls": experiment.told,
        **compared,
        "seconds": {"extract": given["extraction"].get("seconds"), "sweep": round(time.monotonic() - started, 2)},
        "extraction": given["extraction"],
    }
    summary = summarised(paths.root, experiment, scores, scoring.headline, more)
    save_examples(paths, experiment, probing.scored, summary)
    save_decided(paths, probing, summary, reporter)
    save_summary(paths, summary)
    return Swept(summary, comparisons.curves, parts.clear)


def _save(probing: Probing, parts: Parts, paths: RunPaths) -> None:
    """Splits, predictions and probes."""
    save_splits(paths.splits, probing.splits)
    parts.join(LOGITS, paths.predictions, probing.scored.metadata())
    parts.join(FITS, paths.probes, {"facts": json.dumps(parts.facts())})
