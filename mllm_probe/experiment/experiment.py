"""What extraction and scoring work on: an experiment with its examples, cache, keys and controls. Loads no weight.

What a run extracted is kept for its summary attempt by attempt, those that were killed among them.
"""

import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.cache.coverage import Coverage, Identity
from mllm_probe.cache.store import Store, write_json
from mllm_probe.config.model import ModelSettings, PromptSettings
from mllm_probe.config.run import ExtractSettings, LayerSettings
from mllm_probe.config.sweep import CONNECTOR_ONLY, TEXT_ONLY, VISION_ONLY, SweepSettings
from mllm_probe.errors import CacheError, ConfigError
from mllm_probe.experiment.cache_identity import storage_dtype
from mllm_probe.extraction.estimate import check_keys, select_keys, select_sites
from mllm_probe.extraction.sharing import Work
from mllm_probe.files.paths import OutputPaths
from mllm_probe.files.store_paths import PartPaths, prune
from mllm_probe.models.loading.checkpoint import connector_reads
from mllm_probe.records.problems import Compute
from mllm_probe.records.protocols import Dataset, Feature, Probe, Task
from mllm_probe.records.samples import Collection, Examples
from mllm_probe.records.sites import ANSWER, PICTURE_POSITIONS, Anatomy, Key, Site, of_picture
from mllm_probe.tasks.answer_words import bound
from mllm_probe.tasks.splits import Folds

if TYPE_CHECKING:
    from mllm_probe.experiment.places import Places
    from mllm_probe.features.controls import Arms
    from mllm_probe.models.blueprint import Blueprint

OPTIONAL = (TEXT_ONLY, VISION_ONLY, CONNECTOR_ONLY)  # what some models cannot be shown, or have no place to be read
FLOORS: Mapping[str, Callable[[Anatomy], Key]] = {
    VISION_ONLY: lambda anatomy: Key(Site("vision", anatomy.blocks.get("vision", 0)), "mean_image"),
    CONNECTOR_ONLY: lambda anatomy: Key(Site("connector"), "mean_image"),
}


class Attempts:
    """This attempt at a run, and those before it. Until `begin` nothing is noted: not all that extracts is a run."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._earlier: list[dict[str, Any]] = []
        self._own = {"samples": 0, "forward_passes": 0}
        self._started = time.monotonic()

    def begin(self, paths: PartPaths) -> None:
        self._earlier = [found for path in paths.attempts() if (found := _read(path))]
        self._file, self._started = paths.attempt(secrets.token_hex(8)), time.monotonic()

    def wrote(self, samples: int, passes: int) -> None:
        """A shard is on disk, which held so many samples and took so many forward passes."""
        if self._file is not None:
            self._own = {
                "samples": self._own["samples"] + samples,
                "forward_passes": self._own["forward_passes"] + passes,
            }
            write_json(self._file, {**self._own, "seconds": round(time.monotonic() - self._started, 2)})

    def summed(self, done: Mapping[str, Any]) -> dict[str, Any]:
        """What this attempt has done, as `fill_missing` says it, with what those before it did."""
        if self._file is not None and not done["hit"]:
            write_json(self._file, done)
        both = (*self._earlier, done)
        passes = [one["forward_passes"] for one in both]
        return {
            **{name: value for one in both for name, value in one.items()},
            "samples": sum(one["samples"] for one in both),
            "forward_passes": None if None in passes else sum(passes),
            "seconds": round(sum(one["seconds"] for one in both), 2),
            "hit": done["hit"] and not self._earlier,
        }


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
        return {"samples": 0, "forward_passes": 0, "seconds": 0.0, **found}
    except (OSError, ValueError, TypeError):
        return None  # another attempt has just ended, and removed it


@dataclass(frozen=True)
class Experiment:
    """One experiment, or one of its controls, from which a cache is filled and swept.

    `group_word` is what a group of pictures is called, `run` the digest of all that can change a score. `control` is
    empty for the experiment itself, whose `variants` are the controls that need passes of their own; `facts` are what a
    control says of itself. `attempts` is one for an experiment and its controls.
    """

    dataset: Dataset
    task: Task
    probe: Probe
    features: tuple[Feature, ...]
    folds: Folds
    collection: Collection
    examples: Examples
    checkpoint: Path
    identity: Identity
    store: Store
    outputs: OutputPaths
    model: ModelSettings
    prompt: PromptSettings
    layers: LayerSettings
    extract: ExtractSettings
    sweep: SweepSettings
    controls: tuple[str, ...]
    guards: str
    device: str
    group_word: str
    run: str = ""
    control: str = ""
    variants: tuple["Experiment", ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    attempts: Attempts = field(default_factory=Attempts)

    @cached_property
    def blueprint(self) -> "Blueprint":
        """The model without its weights; importing transformers costs seconds, so only on demand."""
        from mllm_probe.models.blueprint import Blueprint

        return Blueprint(self.checkpoint, self.model, self.prompt, self.extract.padding_side)

    @cached_property
    def anatomy(self) -> Anatomy:
        """From the manifest where the cache has one, else from the checkpoint's config."""
        seen = self.store.provenance()
        if not seen or "inside" not in seen:  # nothing stored yet, or by a release that read whole blocks alone
            return self.blueprint.anatomy
        try:
            return _anatomy(seen)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            root = self.store.paths.root
            raise CacheError(
                f"a manifest in {root} is damaged: its provenance does not describe a model ({error!r}); "
                f"{prune(f'{root.name} --yes', root.parents[1])} removes this cache, and the same command fills it "
                "again"
            ) from error

    @property
    def storage(self) -> str:
        """The dtype of stored states."""
        return storage_dtype(self.model, self.extract)

    @property
    def work(self) -> Work:
        """How this process takes part in filling the cache."""
        own = self.extract
        return Work(self.storage, own.workers, own.shard, own.num_shards, own.wait_s, self.attempts.wrote)

    @cached_property
    def places(self) -> "Places":
        """Its pictures on the model's token grid; asked for where a task is about places."""
        from mllm_probe.experiment.places import Places

        return Places(self.collection, self.blueprint)

    def about(self, collection: Collection, examples: Examples, run: str = "", **more: Any) -> "Experiment":
        """The same of these."""
        experiment = replace(self, collection=collection, examples=examples, run=run, **more)
        self.share(experiment)
        return experiment

    def share(self, other: "Experiment") -> None:
        """What costs seconds is not made twice for another experiment with the same model."""
        kept = ("blueprint", "anatomy", *(["places"] if other.collection is self.collection else []))
        vars(other).update({name: vars(self)[name] for name in kept if name in vars(self)})

    @property
    def compute(self) -> Compute:
        """Where probes are fitted."""
        from mllm_probe.models.loading.device import pick_device

        return Compute(pick_device(self.device), int(self.sweep.max_memory_gb * 1e9))

    @property
    def told(self) -> dict[str, Mapping[str, Any]]:
        """{control: what it says of itself}."""
        return {variant.control: variant.facts for variant in self.variants if variant.facts}

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        return select_sites(self.layers, self.anatomy)

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """What is probed."""
        if self.control in FLOORS:
            floor = FLOORS[self.control](self.anatomy)
            return (floor,) if floor.site.tower in self.anatomy.widths else ()
        keys = select_keys(self.sites, self.extract.positions, self.anatomy)
        check_keys(keys, self.sites, self.extract.positions)
        return tuple(key for key in keys if self.has(key))

    def has(self, key: Key) -> bool:
        """Whether a key exists here: without a picture there are no picture positions."""
        return self.control != TEXT_ONLY or (key.site.tower == "lm" and not of_picture(key.position))

    @cached_property
    def answer_keys(self) -> tuple[Key, ...]:
        """The model's own answer at the blocks asked for, where each prompt asks one thing and its end is read."""
        words, decisions = bound(self.extract.answers, self.examples), self.examples.decisions
        asked = len({d.sample for d in decisions}) == len({(d.sample, d.head) for d in decisions})
        open_ended = self.control or any(decision.side for decision in decisions)
        if not words or open_ended or not asked or "last" not in self.extract.positions:
            return ()
        blocks = [site for site in self.sites if site.tower == "lm" and site.part == "block"]
        return tuple(Key(site, f"{ANSWER}:{'/'.join(words)}") for site in blocks)

    @property
    def stored(self) -> tuple[Key, ...]:
        """What the cache must hold."""
        return tuple(dict.fromkeys((*self.keys, *self.answer_keys, *self.integrated)))

    @cached_property
    def arms(self) -> "Mapping[str, Arms]":
        """{name: integration and controls} of `features`, none for single layers. Raises ConfigError."""
        blocks = self.anatomy.blocks.get("vision", 0)
        final = connector_reads(self.checkpoint, blocks)
        return {one.name: made for one in self.features if (made := one.arms(blocks, final))}

    @cached_property
    def integrated(self) -> tuple[Key, ...]:
        """What integrations draw on, whatever `layers` selects; of a control they have no controls of their own.

        Raises ConfigError.
        """
        if not self.arms or self.control in FLOORS:
            return ()
        read = {layer for arms in self.arms.values() for layer in (arms.own if self.control else arms).layers}
        positions = dict.fromkeys(p for p in self.extract.positions if p in PICTURE_POSITIONS)
        if not positions:
            raise ConfigError(
                f"features={next(iter(self.arms))} reads a vision tower, where extract.positions="
                f"{self.extract.positions} do not exist; add one of: {', '.join(PICTURE_POSITIONS)}"
            )
        keys = (Key(Site("vision", layer), position) for position in positions for layer in sorted(read))
        return tuple(key for key in keys if self.has(key))


def columns_of(experiment: Experiment, key: Key | None) -> dict[str, Any]:
    """What every row of results says of the model, the data and a key (None: of no layer)."""
    return {
        "revision": experiment.model.revision or "",
        "quantization": experiment.model.precision,
        "dataset": experiment.collection.name,
        "site": str(key.site) if key else "",
        "tower": key.site.tower if key else "",
        "layer": key.site.layer if key else None,
        "part": key.site.part if key else "",
        "depth": round(experiment.anatomy.depth(key.site), 4) if key else None,
        "position": key.position if key else "",
    }


def _anatomy(seen: Mapping[str, Any]) -> Anatomy:
    blocks, widths = ({tower: int(n) for tower, n in seen[name].items()} for name in ("blocks", "widths"))
    inside = {tower: tuple(parts) for tower, parts in seen["inside"].items()}
    return Anatomy(
        blocks, widths, seen["causal"], int(seen["max_tokens"]), inside, tuple(seen["informed"]), seen["crossed"]
    )


def filled(experiment: Experiment) -> Coverage:
    """What the cache holds. Raises CacheError where something that was asked for has not been extracted."""
    coverage, samples = experiment.store.coverage(), experiment.examples.samples
    missing = coverage.missing(experiment.stored, (sample.uid for sample in samples))
    lacking = sum(map(len, missing.values()))
    if lacking and coverage.damaged:
        raise CacheError(
            f"{coverage.damaged[0].path} is damaged or missing; run `mllm-probe extract` with the same settings, which "
            "extracts it again"
        )
    if lacking:
        there, planned = experiment.store.begun()
        begun = f", and {there} of {planned} shards of an unfinished extraction are there" if planned else ""
        raise CacheError(
            f"{experiment.store.paths.root} lacks activations of {lacking} of {len(samples)} samples{begun}; "
            f"run `mllm-probe extract` with the same settings first{', which continues from them' if begun else ''}"
        )
    return coverage
