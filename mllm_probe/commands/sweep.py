"""`mllm-probe sweep`: fit every probe on every key of a filled cache, score once on the fixed test pictures."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.config.run import RunConfig
from mllm_probe.errors import CacheError
from mllm_probe.experiment.experiment import FLOORS, OPTIONAL, Prepared, filled
from mllm_probe.experiment.prepare import prepare
from mllm_probe.files.paths import OutputPaths, RunPaths
from mllm_probe.fitting.model_answers import answers
from mllm_probe.fitting.readout import Readout, Source
from mllm_probe.fitting.resume import FITS, LOGITS, Parts
from mllm_probe.fitting.trials import NAMED, Bench, Trial, fitted
from mllm_probe.loggers.chosen import chosen_loggers, log_runs
from mllm_probe.probes.logistic import Logistic
from mllm_probe.probes.majority import Majority
from mllm_probe.probes.solving.question_only import bag_of_words
from mllm_probe.records.problems import LayerData
from mllm_probe.records.protocols import Probe, Reporter
from mllm_probe.records.score import Score
from mllm_probe.records.sites import Key
from mllm_probe.report.html.inspect_files import save_first
from mllm_probe.report.html.page import leave_page
from mllm_probe.results.score_file import ScoreFile
from mllm_probe.scoring.aggregate import Scoring
from mllm_probe.scoring.analyses import Analyses
from mllm_probe.scoring.guards import Guards
from mllm_probe.scoring.integrations import Integrations, places, shown_at
from mllm_probe.scoring.prediction_rows import save_decided
from mllm_probe.scoring.refusals import check_probe, check_reads
from mllm_probe.scoring.shown_examples import save_examples
from mllm_probe.scoring.subsets import Subsets
from mllm_probe.scoring.summary import save_splits, save_summary, summarised
from mllm_probe.scoring.verdicts.all_tests import Comparisons
from mllm_probe.scoring.verdicts.best_layers import save_tests
from mllm_probe.scoring.verdicts.fixed_scores import QUESTION_ONLY
from mllm_probe.scoring.verdicts.hypotheses import Curve

if TYPE_CHECKING:
    import torch

BASELINES = 2  # question-only and majority, in every run


def sweep(config: RunConfig, paths: RunPaths, reporter: Reporter) -> dict[str, Any]:
    """The command: prepare, then sweep what the cache holds. Raises CacheError where it does not hold it."""
    loggers = chosen_loggers(config.loggers)
    ready = prepare(config, paths, reporter, early=check_reads)
    check_probe(ready)
    for each in (ready, *ready.variants):
        try:
            filled(each)
        except CacheError as error:
            if each.control not in OPTIONAL:
                raise
            reporter.note(f"{each.control}: not applicable, for {error}")
    swept = sweep_cached(ready, paths, reporter, extraction={})
    swept.clear()
    leave_page(paths, config.report, reporter)
    log_runs(loggers, [paths], config.paths.outputs, reporter)
    return swept.summary


@dataclass(frozen=True)
class Swept:
    """A sweep whose files are written.

    `curves`: one for each position where the language model was read at three blocks or more. `clear` removes what was
    kept for a killed run; without it the same sweep is only joined again.
    """

    summary: dict[str, Any]
    curves: Mapping[str, Curve]
    clear: Callable[[], None]


def sweep_cached(ready: Prepared, paths: RunPaths, reporter: Reporter, extraction: Mapping[str, Any]) -> Swept:
    """Write every file of the run, when no other process is at the same one."""
    scoring = Scoring(Bench(ready))
    parts = Parts(OutputPaths(Path(ready.config.paths.outputs)).parts(scoring.run))
    with parts.turn(reporter):
        return _swept(scoring, parts, paths, reporter, extraction)


def _swept(scoring: Scoring, parts: Parts, paths: RunPaths, reporter: Reporter, extraction: Mapping[str, Any]) -> Swept:
    """scores.csv grows key by key, and is whole when the layers have been compared."""
    bench, ready = scoring.bench, scoring.bench.ready
    template = save_first(ready, paths, reporter)
    started, source, table = time.monotonic(), Source(ready), ScoreFile(paths.scores)
    guards = Guards(bench, reporter)
    guards.first(scoring, source)
    comparisons = Comparisons(scoring, source)
    scores: list[Score] = []
    remarks: dict[str, list[str]] = {}
    for done, (trials, rows) in enumerate(_per_key(bench, source, scoring, parts)):
        guards.trials(trials)
        for remark in _remarks(trials, bench.kind):
            remarks.setdefault(remark, []).append(_subject(trials))
        table.add(rows)
        scores += rows
        comparisons.add(trials)
        reporter.progress("sweep", done + 1, steps(ready), "keys")
    scores += comparisons.floors()
    tests, compared = comparisons.tests(scores, reporter)
    _tell(remarks, scoring, source, reporter)
    scores = comparisons.tested(scores, tests)
    save_tests(paths.tests, tests)
    table.replace(scores)
    _save(bench, parts, paths)
    times = {"extract": extraction.get("seconds"), "sweep": round(time.monotonic() - started, 2)}
    more = {
        "fingerprint": bench.scored.fingerprint,
        "template": template,
        "remarks": remarks,
        "guards": guards.said,
        "intervals": scoring.bounds_said(),
        "controls": ready.told,
        **compared,
        "seconds": times,
        "extraction": dict(extraction),
    }
    summary = summarised(paths.root, ready, scores, scoring.headline, more)
    save_examples(paths, ready, bench.scored, summary)
    save_decided(paths, bench, summary, reporter)
    save_summary(paths, summary)
    return Swept(summary, comparisons.curves, parts.clear)


def _save(bench: Bench, parts: Parts, paths: RunPaths) -> None:
    """Splits, predictions and probes."""
    save_splits(paths.splits, bench.splits)
    parts.join(LOGITS, paths.predictions, bench.scored.metadata())
    parts.join(FITS, paths.probes, {"facts": json.dumps(parts.facts())})


def steps(ready: Prepared) -> int:
    """How many keys and baselines a sweep goes through."""
    shown = sum(len(one.keys) if one.control in FLOORS else len(ready.keys) for one in ready.variants)
    own = sum(1 + (key.site.layer == ready.anatomy.blocks["lm"]) for key in ready.answer_keys)
    made = sum(1 + len(place.arms.controls) + len(shown_at(ready)) for place in places(ready))
    return len(ready.keys) + made + shown + own + BASELINES + len(ready.examples.decisions[0].covariates)


def _remarks(trials: Sequence[Trial], kind: str) -> list[str]:
    """What a reader of the scores should know of the fits of a key or an integration."""
    if not trials or trials[0].key is None or trials[0].control or trials[0].features == "answer":
        return []
    found = {
        "have columns that are constant in training and say nothing": any(
            trial.facts.get("constant_columns", 0) for trial in trials
        ),
        "have fits that say the same of all rows": any(
            np.ptp(trial.logits[trial.read], axis=0).max() == 0 for trial in trials
        ),
        "have decisions too close to call, which count half": kind != "number" and any(map(_tied, trials)),
        "have fits that did not converge": not all(trial.facts["converged"] for trial in trials),
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


def _tell(remarks: Mapping[str, Sequence[str]], scoring: Scoring, source: Source, reporter: Reporter) -> None:
    """What a reader of the scores should know of the fits, and what could not be fitted."""
    bench = scoring.bench
    keys = len(bench.ready.keys) + len(places(bench.ready))
    for remark, named in remarks.items():
        rest = "" if len(named) <= NAMED else f" and {len(named) - NAMED} more"
        reporter.note(f"{len(named)} of {keys} keys {remark}: {', '.join(named[:NAMED])}{rest}")
    for said in (bench.left_out, bench.undecided(source), *scoring.bounds_said()):
        if said:
            reporter.note(said)


def _per_key(bench: Bench, source: Source, scoring: Scoring, parts: Parts) -> Iterator[tuple[list[Trial], list[Score]]]:
    """The trials of each key and the rows of scores.csv; controls follow, baselines that read no layer come last."""
    ready, subsets = bench.ready, Subsets(scoring)
    analyses = Analyses(scoring, parts, source.readout)
    for key in ready.keys:
        data = cache(partial(source.readout, key))
        trials = parts.get(str(key), lambda key=key, data=data: bench.trials(key, data(), bench.controls))  # type: ignore[misc]
        yield trials, [*scoring.scores(trials), *subsets.scores(trials), *analyses.rows(key, data)]
    yield from Integrations(bench, source, scoring, parts).found()
    yield from _controls(bench, scoring, parts)
    for trials in answers(bench, source):
        yield trials, scoring.scores(trials)
    baselines: dict[str, Callable[[Bench], list[Trial]]] = {QUESTION_ONLY: _question_only, "majority": _majority}
    baselines |= {f"covariate.{i}": partial(_covariate, name=name) for i, name in enumerate(bench.strata)}
    for name, make in baselines.items():
        trials = parts.get(name, partial(make, bench))
        yield trials, scoring.scores(trials)


def _controls(bench: Bench, scoring: Scoring, parts: Parts) -> Iterator[tuple[list[Trial], list[Score]]]:
    """The real labels on what a control read; where it read nothing, a row says so."""
    for variant in bench.ready.variants:
        source, name = Source(variant), variant.control
        keys = variant.keys if name in FLOORS else bench.ready.keys
        for key in keys:
            if not variant.has(key) or not source.holds(key):
                yield [], [scoring.not_applicable(key, name)]
                continue
            make = partial(_shown, bench, name, key, source)
            trials = parts.get(f"{key}.{name}", make)
            yield trials, scoring.scores(trials)


def _shown(bench: Bench, control: str, key: Key, source: Source) -> list[Trial]:
    return bench.shown(control, key, source.readout(key))


def _question_only(bench: Bench) -> list[Trial]:
    return _words(bench, bag_of_words(bench.texts), QUESTION_ONLY)


def _words(bench: Bench, rows: np.ndarray, control: str) -> list[Trial]:
    return _baseline(bench, _words_probe(bench.kind), Readout.of(LayerData(_tensor(rows))), control, "words")


def _words_probe(kind: str) -> Probe:
    if kind != "number":
        return Logistic()
    from mllm_probe.probes.ridge import Ridge

    return Ridge()


def _covariate(bench: Bench, name: str) -> list[Trial]:
    """What the strata of a covariate say by themselves."""
    strata = bench.strata[name]
    return _words(bench, (strata[:, None] == np.unique(strata)).astype(np.float64), f"covariate:{name}")


def _majority(bench: Bench) -> list[Trial]:
    return _baseline(bench, Majority(), Readout.of(LayerData(_tensor(np.zeros((len(bench.y), 0))))), "", "none")


def _baseline(bench: Bench, probe: Probe, data: Readout, control: str, features: str) -> list[Trial]:
    problems = [bench.problem("", seed) for seed in bench.seeds]
    return fitted(probe, data, problems, [Trial.blank(None, control, seed, features) for seed in bench.seeds])


def _tensor(values: np.ndarray) -> "torch.Tensor":
    import torch

    return torch.from_numpy(values)
