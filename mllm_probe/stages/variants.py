"""The controls of an experiment that need activations of their own, each as an experiment of its own.

Those that show the same model something else share its cache; random weights have a cache of theirs; the picture
towers alone read what the experiment may have stored already.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from mllm_probe.cache.store import Store
from mllm_probe.data.pictures import write_blank
from mllm_probe.digests import Digests
from mllm_probe.paths import OutputPaths
from mllm_probe.settings import BLANK, CONNECTOR_ONLY, RANDOM, SHUFFLED, TEXT_ONLY, VISION_ONLY
from mllm_probe.stages.prepared import Prepared, identified
from mllm_probe.tasks.controls import blank_picture, shuffled_picture, without_picture
from mllm_probe.types import Examples

Change = Callable[[Prepared, Digests], Prepared]


def with_variants(ready: Prepared, digests: Digests) -> Prepared:
    """Raises DataError, ConfigError."""
    made = [replace(CHANGES[name](ready, digests), control=name) for name in CHANGES if name in ready.controls]
    return replace(ready, variants=tuple(made))


def _examples(change: Callable[[Examples], Examples]) -> Change:
    return lambda ready, _: replace(ready, examples=change(ready.examples))


def _blank(ready: Prepared, digests: Digests) -> Prepared:
    folder = OutputPaths(Path(ready.config.paths.outputs)).dataset("blank", "grey")

    @cache
    def blank(path: Path) -> tuple[Path, str]:
        made = write_blank(path, folder)
        return made, digests.of(made)

    return replace(ready, examples=blank_picture(ready.examples, blank))


def _shuffled(ready: Prepared, _: Digests) -> Prepared:
    return replace(ready, examples=shuffled_picture(ready.examples, ready.config.data.seed))


def loaded_otherwise(ready: Prepared, digests: Digests, **settings: Any) -> Prepared:
    """The same samples read by the same checkpoint under other settings of the model: a cache of its own."""
    config = replace(ready.config, model=replace(ready.config.model, **settings))
    identity = identified(config, ready.checkpoint, digests)
    outputs = OutputPaths(Path(config.paths.outputs))
    return replace(ready, config=config, identity=identity, store=Store(outputs.cache(identity.digest), digests))


CHANGES: Mapping[str, Change] = {  # in this order, so that one model is loaded after the other and none twice
    TEXT_ONLY: _examples(without_picture),
    BLANK: _blank,
    SHUFFLED: _shuffled,
    VISION_ONLY: lambda ready, _: ready,
    CONNECTOR_ONLY: lambda ready, _: ready,
    RANDOM: partial(loaded_otherwise, weights="random", adapter=None),
}
