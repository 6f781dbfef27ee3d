"""What `features` makes of several layers of the vision tower, fitted like any key, each with its controls.

Its rows of scores.csv stand at the final layer's site; `control` names what was done instead of the integration.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mllm_probe.errors import ProbeError
from mllm_probe.experiment.experiment import FLOORS, Experiment
from mllm_probe.fitting.readout import Readout, Source
from mllm_probe.fitting.resume import Parts
from mllm_probe.fitting.trials import Probing, Trial
from mllm_probe.records.score import Score
from mllm_probe.records.sites import Key, Site
from mllm_probe.scoring.aggregate import Scoring
from mllm_probe.stats.peak import preferred

if TYPE_CHECKING:
    from mllm_probe.features.controls import Arms
    from mllm_probe.features.derived import Derived
    from mllm_probe.features.recipes import Recipe

Found = tuple[list[Trial], list[Score]]


@dataclass(frozen=True)
class Place:
    """An integration at one position; `key` is that of the final layer, `features` the name in scores.csv."""

    key: Key
    features: str
    arms: "Arms"

    @property
    def position(self) -> str:
        return self.key.position

    def at(self, layer: int) -> Key:
        return Key(Site("vision", layer), self.position)


def places(experiment: Experiment) -> list[Place]:
    """Position by position. A mean over STI's tokens is a feature of its own name: only a weighted sum of layers."""
    if not experiment.integrated:
        return []
    from mllm_probe.features.recipes import STI

    found = []
    for position in dict.fromkeys(key.position for key in experiment.integrated):
        for name, arms in experiment.arms.items():
            pooled = arms.own.kind == STI and not position.startswith("tokens:")
            key = Key(Site("vision", arms.own.final), position)
            found.append(Place(key, f"{name}_mean" if pooled else name, arms))
    return found


def shown_at(experiment: Experiment) -> list[Experiment]:
    """The controls that showed the model something else, or another one."""
    return [variant for variant in experiment.variants if variant.control not in FLOORS]


class Integrations:
    """Their trials, kept part by part as all others are."""

    def __init__(self, probing: Probing, source: Source, scoring: Scoring, parts: Parts) -> None:
        self._probing, self._source, self._scoring, self._parts = probing, source, scoring, parts

    def found(self) -> Iterator[Found]:
        """The trials of each integration and their rows of scores.csv, then those of each of its controls."""
        for place in places(self._probing.experiment):
            yield self._own(place)
            for control in place.arms.controls:
                trials = self._controls(place, control)
                yield trials, self._scores(place, control, trials)
            for variant in shown_at(self._probing.experiment):
                trials = self._shown(place, variant)
                yield trials, self._scores(place, variant.control, trials)

    def _own(self, place: Place) -> Found:
        probing = self._probing

        def make() -> list[Trial]:
            readout = integrated(self._source, place, place.arms.own)
            return probing.trials(place.key, readout, probing.controls, place.features)

        trials = self._parts.get(f"{place.key}.{place.features}", make)
        return trials, self._scoring.scores(trials)

    def _scores(self, place: Place, control: str, trials: Sequence[Trial]) -> list[Score]:
        missing = [self._scoring.not_applicable(place.key, control, place.features)]
        return self._scoring.scores(trials) if trials else missing

    def _controls(self, place: Place, control: str) -> list[Trial]:
        """None where there is no such control of this integration."""
        from mllm_probe.features.controls import BEST, PCA, RELU

        own = place.arms.own
        if control == BEST:
            return self._best(place)
        if control in (RELU, PCA):
            return self._kept(place, control, lambda: self._derived(place, control)) if own.width > 1 else []
        other = place.arms.others[control]
        if other is None:
            return []
        return self._kept(place, control, lambda: self._fitted(place, control, self._source, other))

    def _kept(self, place: Place, control: str, make: Callable[[], list[Trial]]) -> list[Trial]:
        return self._parts.get(f"{place.key}.{place.features}.{control}", make)

    def _fitted(self, place: Place, control: str, source: Source, recipe: "Recipe") -> list[Trial]:
        return self._probing.shown(control, place.key, integrated(source, place, recipe), place.features)

    def _shown(self, place: Place, variant: Experiment) -> list[Trial]:
        source, own = Source(variant), place.arms.own
        if not all(variant.has(place.at(layer)) and source.holds(place.at(layer)) for layer in own.layers):
            return []
        return self._kept(place, variant.control, lambda: self._fitted(place, variant.control, source, own))

    def _derived(self, place: Place, control: str) -> list[Trial]:
        """Fitted on the training rows of each seed, which also draws its random features."""
        from mllm_probe.features.controls import RELU
        from mllm_probe.features.derived import reduced, widened
        from mllm_probe.features.recipes import MLP, Recipe

        own, probing = place.arms.own, self._probing
        final = integrated(self._source, place, Recipe(MLP, own.final))
        base = final if control == RELU else integrated(self._source, place, own)
        width = final.data.width
        found = []
        for seed in probing.seeds:
            problem = probing.problem("", seed)
            train = problem.train[base.who]
            rows: Derived = (
                widened(base.data, train, width * (own.width - 1), seed)
                if control == RELU
                else reduced(base.data, train, width)
            )
            blank = Trial.blank(place.key, control, seed, place.features)
            (trial,) = probing.fitted(_with(base, rows), [problem], [blank])
            found.append(replace(trial, arrays={**trial.arrays, **rows.arrays()}))
        return found

    def _best(self, place: Place) -> list[Trial]:
        """Of the single layers up to the final one, each fitted as if `layers` had chosen it."""
        from mllm_probe.features.controls import BEST

        probing = self._probing
        found = []
        for layer in range(place.arms.own.final + 1):
            key = place.at(layer)
            trials = self._parts.get(
                str(key),
                lambda key=key: probing.trials(key, self._source.readout(key), probing.controls),  # type: ignore[misc]
            )
            found.append([trial for trial in trials if not trial.control])
        best = found[preferred(np.asarray([self._scoring.validation(trials) for trials in found]))]
        return [replace(trial, control=BEST, features=place.features) for trial in best]


def integrated(source: Source, place: Place, recipe: "Recipe") -> Readout:
    """The rows of a recipe, read from those of its layers where they are sliced. Raises ProbeError."""
    from mllm_probe.features.integrated_rows import Pooled, Strung
    from mllm_probe.features.recipes import STI

    readouts = {layer: source.readout(place.at(layer)) for layer in recipe.layers}
    base = readouts[recipe.final]
    layers = {layer: readout.data.rows for layer, readout in readouts.items()}
    named = replace(base.data, name=f"{place.features} at {place.position}")
    if recipe.kind != STI or base.data.bounds is None:
        return replace(base, data=replace(named, rows=Pooled(recipe, layers)))
    fewest = int(np.diff(base.data.bounds).min())
    if fewest < recipe.pooled:
        raise ProbeError(
            f"{named.name} averages {recipe.pooled} tokens and a picture has {fewest}; set fewer as `pooled`"
        )
    strung = Strung(recipe, layers, base.data.bounds)
    return replace(base, data=replace(named, rows=strung, bounds=strung.bounds))


def _with(readout: Readout, rows: "Derived") -> Readout:
    return replace(readout, data=replace(readout.data, rows=rows))
