"""The trials of a sweep and their rows of scores.csv, key by key; controls follow, baselines come last."""

from collections.abc import Iterator
from functools import cache, partial

from mllm_probe.experiment.experiment import FLOORS
from mllm_probe.fitting.baseline_trials import baselines
from mllm_probe.fitting.model_answers import answers
from mllm_probe.fitting.readout import Source
from mllm_probe.fitting.resume import Parts
from mllm_probe.fitting.trials import Probing, Trial
from mllm_probe.records.score import Score
from mllm_probe.records.sites import Key
from mllm_probe.scoring.aggregate import Scoring
from mllm_probe.scoring.analyses import Analyses
from mllm_probe.scoring.integrations import Integrations, places, shown_at
from mllm_probe.scoring.subsets import Subsets


def steps(probing: Probing) -> int:
    """How many keys and baselines a sweep goes through."""
    experiment = probing.experiment
    shown = sum(len(one.keys) if one.control in FLOORS else len(experiment.keys) for one in experiment.variants)
    own = sum(1 + (key.site.layer == experiment.anatomy.blocks["lm"]) for key in experiment.answer_keys)
    made = sum(1 + len(place.arms.controls) + len(shown_at(experiment)) for place in places(experiment))
    return len(experiment.keys) + made + shown + own + len(baselines(probing))


def trials_and_scores(scoring: Scoring, source: Source, parts: Parts) -> Iterator[tuple[list[Trial], list[Score]]]:
    """The trials of each key and the rows of scores.csv; controls follow, baselines that read no layer come last."""
    probing, experiment, subsets = scoring.probing, scoring.probing.experiment, Subsets(scoring)
    analyses = Analyses(scoring, parts, source.readout)
    for key in experiment.keys:
        data = cache(partial(source.readout, key))
        trials = parts.get(str(key), lambda key=key, data=data: probing.trials(key, data(), probing.controls))  # type: ignore[misc]
        yield trials, [*scoring.scores(trials), *subsets.scores(trials), *analyses.rows(key, data)]
    yield from Integrations(probing, source, scoring, parts).found()
    yield from _controls(probing, scoring, parts)
    for trials in answers(probing, source):
        yield trials, scoring.scores(trials)
    for name, make in baselines(probing).items():
        trials = parts.get(name, make)
        yield trials, scoring.scores(trials)


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
