"""A sweep: probes on every key of a filled cache, their scores and comparisons, and all the files of a run.

Keys come first, controls follow, baselines come last.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from mllm_probe.errors import CacheError
from mllm_probe.experiment.experiment import FLOORS, OPTIONAL, Experiment, filled
from mllm_probe.files.paths import RunPaths
from mllm_probe.fitting.baseline_trials import answers, baselines
from mllm_probe.fitting.readout import Readout, Source
from mllm_probe.fitting.resume import FITS, LOGITS, KeptFits, Parts
from mllm_probe.fitting.trials import Probing, Trial
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import label_said
from mllm_probe.records.score import ASKED, Score
from mllm_probe.records.sites import Key
from mllm_probe.results.predictions import load_logits, prediction_table, save_predictions
from mllm_probe.results.score_file import ScoreFile
from mllm_probe.scoring.aggregate import Scoring
from mllm_probe.scoring.guards import Guards, Remarks
from mllm_probe.scoring.subsets import Subsets
from mllm_probe.scoring.summary import below, folder_of, save_examples, save_splits, save_summary, summarised
from mllm_probe.scoring.verdicts.all_tests import Comparisons
from mllm_probe.scoring.verdicts.best_layers import Curve, save_tests

if TYPE_CHECKING:
    from mllm_probe.scoring.integrations import Place


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
    kept = KeptFits(experiment.outputs.fits) if experiment.sweep.reuse else None
    scoring = Scoring(Probing(experiment, kept))
    parts = Parts(experiment.outputs.parts(scoring.run))
    with parts.turn(reporter):
        swept = _swept(scoring, parts, paths, reporter, {"template": template, "extraction": dict(extraction)})
    for said in kept.said() if kept else ():
        reporter.note(said)
    return swept


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
    remarks.tell(len(experiment.keys) + len(_places(experiment)), source, reporter)
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


def steps(probing: Probing) -> int:
    """How many keys and baselines a sweep goes through."""
    experiment = probing.experiment
    elsewhere = [one for one in experiment.variants if one.control not in FLOORS]
    shown = sum(len(one.keys) for one in experiment.variants if one.control in FLOORS)
    shown += len(elsewhere) * len(experiment.keys)
    own = sum(1 + (key.site.layer == experiment.anatomy.blocks["lm"]) for key in experiment.answer_keys)
    made = sum(1 + len(place.arms.controls) + len(elsewhere) for place in _places(experiment))
    return len(experiment.keys) + made + shown + own + len(baselines(probing))


def trials_and_scores(scoring: Scoring, source: Source, parts: Parts) -> Iterator[tuple[list[Trial], list[Score]]]:
    """The trials of each key and the rows of scores.csv; controls follow, baselines that read no layer come last."""
    probing, experiment, subsets = scoring.probing, scoring.probing.experiment, Subsets(scoring)
    analysed = _analyses(scoring, source, parts)
    for key in experiment.keys:
        data = cache(partial(source.readout, key))
        trials = parts.get(str(key), lambda key=key, data=data: probing.trials(key, data(), probing.controls))  # type: ignore[misc]
        yield trials, [*scoring.scores(trials), *subsets.scores(trials), *analysed(key, data)]
    if experiment.integrated:
        from mllm_probe.scoring.integrations import Integrations

        yield from Integrations(probing, source, scoring, parts).found()
    yield from _controls(probing, scoring, parts)
    for trials in answers(probing, source):
        yield trials, scoring.scores(trials)
    for name, make in baselines(probing).items():
        trials = parts.get(name, make)
        yield trials, scoring.scores(trials)


def _places(experiment: Experiment) -> "Sequence[Place]":
    """Where integrations are fitted; a run of single layers imports nothing of them."""
    if not experiment.integrated:
        return ()
    from mllm_probe.scoring.integrations import places

    return places(experiment)


def _analyses(
    scoring: Scoring, source: Source, parts: Parts
) -> Callable[[Key, Callable[[], Readout]], Sequence[Score]]:
    """The rows of a key that `sweep.analyses` asks for; a run that asks for none imports nothing of them."""
    if not scoring.probing.experiment.sweep.analyses:
        return lambda key, data: ()
    from mllm_probe.scoring.analyses import Analyses

    return Analyses(scoring, parts, source.readout).rows


def _controls(probing: Probing, scoring: Scoring, parts: Parts) -> Iterator[tuple[list[Trial], list[Score]]]:
    """The real labels on what a control read; where it read nothing, a row says so."""
    for variant in probing.experiment.variants:
        source, name = Source(variant), variant.control
        keys = variant.keys if name in FLOORS else probing.experiment.keys
        for key in keys:
            if not variant.has(key) or not source.holds(key):
                yield [], [scoring.not_applicable(key, name)]
                continue
            make = partial(_read, probing, name, key, source)
            trials = parts.get(f"{key}.{name}", make)
            yield trials, scoring.scores(trials)


def _read(probing: Probing, control: str, key: Key, source: Source) -> list[Trial]:
    return probing.shown(control, key, source.readout(key))


def save_decided(paths: RunPaths, probing: Probing, summary: Mapping[str, Any], reporter: Reporter) -> None:
    """Of a run whose validation chose a layer; nothing where it chose none."""
    chosen = {(position, entry["site"]): f"{entry['site']}@{position}" for position, entry in summary["chosen"].items()}
    if not chosen:
        return
    logits = {
        place: load_logits(paths.predictions, key, probing.experiment.probe.name) for place, key in chosen.items()
    }
    table = prediction_table(_asked(probing.experiment), probing.scored, logits, probing.split_of, summary["metric"])
    if said := save_predictions(paths, table):
        reporter.note(said)


def _asked(experiment: Experiment) -> dict[str, list[Any]]:
    """{column: a cell for each decision}."""
    examples, folder = experiment.examples, folder_of(experiment.examples.samples)
    samples = {sample.uid: sample for sample in examples.samples}
    rows = {(row.picture.digest, row.number): row for row in experiment.collection.rows}
    own = tuple(getattr(experiment.dataset, "columns", ()))
    told = []
    for one in examples.decisions:
        sample = samples[one.sample]
        row = rows.get((sample.digests[0], one.row)) if one.row is not None else None
        label = label_said(examples.names, one.label) if examples.names else one.label
        pictures = "; ".join(below(folder, path) for path in sample.images)
        cells = [one.uid, one.row, row.id if row else "", pictures, sample.text, one.head or "", one.target, label]
        told.append([*cells, one.group, *(row.columns.get(name, "") if row else "" for name in own)])
    return {name: [cells[i] for cells in told] for i, name in enumerate((*ASKED, *own))}
