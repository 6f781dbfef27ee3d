"""The trials of a sweep and their rows of scores.csv, key by key; controls follow, baselines come last."""

from collections.abc import Iterator
from functools import cache, partial

from mllm_probe.experiment.experiment import FLOORS
from mllm_probe.fitting.baseline_trials import baselines
from mllm_probe.fitting.model_answers import answers
from mllm_probe.fitting.readout import Source
from mllm_probe.fitting.resume import Parts
from mllm_probe.fitting.trials import Bench, Trial
from mllm_probe.records.score import Score
from mllm_probe.records.sites import Key
from mllm_probe.scoring.aggregate import Scoring
from mllm_probe.scoring.analyses import Analyses
from mllm_probe.scoring.integrations import Integrations, places, shown_at
from mllm_probe.scoring.subsets import Subsets


def steps(bench: Bench) -> int:
    """How many keys and baselines a sweep goes through."""
    ready = bench.ready
    shown = sum(len(one.keys) if one.control in FLOORS else len(ready.keys) for one in ready.variants)
    own = sum(1 + (key.site.layer == ready.anatomy.blocks["lm"]) for key in ready.answer_keys)
    made = sum(1 + len(place.arms.controls) + len(shown_at(ready)) for place in places(ready))
    return len(ready.keys) + made + shown + own + len(baselines(bench))


def trials_and_scores(scoring: Scoring, source: Source, parts: Parts) -> Iterator[tuple[list[Trial], list[Score]]]:
    """The trials of each key and the rows of scores.csv; controls follow, baselines that read no layer come last."""
    bench, ready, subsets = scoring.bench, scoring.bench.ready, Subsets(scoring)
    analyses = Analyses(scoring, parts, source.readout)
    for key in ready.keys:
        data = cache(partial(source.readout, key))
        trials = parts.get(str(key), lambda key=key, data=data: bench.trials(key, data(), bench.controls))  # type: ignore[misc]
        yield trials, [*scoring.scores(trials), *subsets.scores(trials), *analyses.rows(key, data)]
    yield from Integrations(bench, source, scoring, parts).found()
    yield from _controls(bench, scoring, parts)
    for trials in answers(bench, source):
        yield trials, scoring.scores(trials)
    for name, make in baselines(bench).items():
        trials = parts.get(name, make)
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
            make = partial(_read, bench, name, key, source)
            trials = parts.get(f"{key}.{name}", make)
            yield trials, scoring.scores(trials)


def _read(bench: Bench, control: str, key: Key, source: Source) -> list[Trial]:
    return bench.shown(control, key, source.readout(key))
