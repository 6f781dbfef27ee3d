"""The controls of an experiment that need activations of their own, each as an experiment of its own.

Those that show the same model something else share its cache; random weights have a cache of theirs; the picture
towers alone read what the experiment may have stored already.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

from mllm_probe.cache.store import Store
from mllm_probe.config.run import RunConfig
from mllm_probe.config.sweep import (
    BLANK,
    CONNECTOR_ONLY,
    RANDOM,
    SHUFFLED,
    TEXT_ONLY,
    VISION_ONLY,
    drawn_from,
    draws_of,
)
from mllm_probe.data.duplicates import grouped
from mllm_probe.data.pictures import write_blank
from mllm_probe.experiment.cache_identity import identity_of
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.files.digests import Digests

Change = Callable[[Experiment, Digests], Experiment]


def with_variants(experiment: Experiment, config: RunConfig, digests: Digests) -> Experiment:
    """Raises DataError, ConfigError."""
    changes = {**_shown(config), **random_draws(config)}  # in this order, so that one model is loaded after the other
    made = [
        replace(change(experiment, digests), control=name)
        for name, change in changes.items()
        if drawn_from(name) in experiment.controls
    ]
    return experiment.about(experiment.collection, experiment.examples, experiment.run, variants=tuple(made))


def _shown(config: RunConfig) -> dict[str, Change]:
    """What shows the same model something else, or reads its picture towers alone."""
    near_duplicates = config.splits.near_duplicates
    return {
        TEXT_ONLY: _unpictured,
        BLANK: _blank,
        SHUFFLED: partial(_shuffled, seed=config.data.seed, near_duplicates=near_duplicates),
        VISION_ONLY: lambda experiment, _: experiment,
        CONNECTOR_ONLY: lambda experiment, _: experiment,
    }


def random_draws(config: RunConfig) -> dict[str, Change]:
    """Untrained models, each of a seed of its own; none is the experiment's own model where that is untrained, too."""
    own = config.model.seed if config.model.weights == "random" else None
    seeds = (seed for seed in count(config.model.seed) if seed != own)
    names = draws_of(RANDOM, config.random_draws)
    return {name: partial(loaded_otherwise, weights="random", adapter=None, seed=next(seeds)) for name in names}


def _unpictured(experiment: Experiment, digests: Digests) -> Experiment:
    from mllm_probe.tasks.controls import without_picture

    return replace(experiment, examples=without_picture(experiment.examples))


def _blank(experiment: Experiment, digests: Digests) -> Experiment:
    folder = experiment.outputs.dataset("blank", "grey")

    @cache
    def blank(path: Path) -> tuple[Path, str]:
        made = write_blank(path, folder)
        return made, digests.of(made)

    from mllm_probe.tasks.controls import blank_picture

    return replace(experiment, examples=blank_picture(experiment.examples, blank))


def _shuffled(experiment: Experiment, digests: Digests, seed: int, near_duplicates: bool) -> Experiment:
    """Near-duplicates are not shown for each other, whether or not the splits keep them together."""
    from mllm_probe.tasks.controls import shares, shuffled_picture

    pictures = experiment.collection.pictures
    if not near_duplicates:
        pictures = grouped(pictures, digests)
    alike = {picture.digest: picture.group for picture in pictures}
    examples = shuffled_picture(experiment.examples, seed, alike)
    return replace(experiment, examples=examples, facts=shares(experiment.examples, examples, alike))


def loaded_otherwise(experiment: Experiment, digests: Digests, **settings: Any) -> Experiment:
    """The same samples read by the same checkpoint under other settings of the model: a cache of its own."""
    model = replace(experiment.model, **settings)
    identity = identity_of(experiment.checkpoint, model, experiment.prompt, experiment.extract, digests)
    return replace(
        experiment, model=model, identity=identity, store=Store(experiment.outputs.cache(identity.digest), digests)
    )
