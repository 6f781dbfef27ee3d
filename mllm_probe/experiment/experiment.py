"""What every stage works on: one experiment with its examples, cache and keys, and its controls. Loads no weight."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.cache.coverage import Coverage
from mllm_probe.cache.identity import Identity, folder_digests, identify, weights_digest
from mllm_probe.cache.store import Store, write_json
from mllm_probe.config.run import RunConfig
from mllm_probe.config.sweep import CONNECTOR_ONLY, CONTROLS, TEXT_ONLY, VISION_ONLY
from mllm_probe.errors import CacheError, ConfigError, choices
from mllm_probe.experiment.attempts import Attempts
from mllm_probe.extraction.keys import check_keys, select_keys, select_sites
from mllm_probe.files.digests import Digests
from mllm_probe.files.store_paths import prune
from mllm_probe.models.loading.checkpoint import connector_reads
from mllm_probe.models.prompts.templates import from_tokenizer
from mllm_probe.records.protocols import Dataset, Feature, Probe, Task
from mllm_probe.records.samples import Collection, Examples
from mllm_probe.records.sites import ANSWER, PICTURE_POSITIONS, Anatomy, Key, Site
from mllm_probe.tasks.answer_words import bound
from mllm_probe.tasks.splits import Folds

if TYPE_CHECKING:
    from mllm_probe.features.controls import Arms
    from mllm_probe.models.blueprint import Blueprint


@dataclass(frozen=True)
class Prepared:
    """One experiment, or one of its controls, ready to extract or to sweep.

    `control` is empty for the experiment itself, whose `variants` are the controls that need passes of their own;
    `facts` are what a control says of itself. `attempts` is one for an experiment and its controls.
    """

    config: RunConfig
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
    control: str = ""
    variants: tuple["Prepared", ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    attempts: Attempts = field(default_factory=Attempts)

    @cached_property
    def blueprint(self) -> "Blueprint":
        """The model without its weights; importing transformers costs seconds, so only on demand."""
        from mllm_probe.models.blueprint import Blueprint

        return Blueprint(self.checkpoint, self.config.model, self.config.prompt, self.config.extract.padding_side)

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

    @cached_property
    def controls(self) -> tuple[str, ...]:
        return chosen_controls(self.config.controls)

    def about(self, collection: Collection, examples: Examples) -> "Prepared":
        """The same of these; what costs seconds is not made twice."""
        ready = replace(self, collection=collection, examples=examples)
        vars(ready).update({name: vars(self)[name] for name in ("blueprint", "anatomy") if name in vars(self)})
        return ready

    @property
    def told(self) -> dict[str, Mapping[str, Any]]:
        """{control: what it says of itself}."""
        return {variant.control: variant.facts for variant in self.variants if variant.facts}

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        return select_sites(self.config.layers, self.anatomy)

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """What is probed."""
        if self.control in FLOORS:
            floor = FLOORS[self.control](self.anatomy)
            return (floor,) if floor.site.tower in self.anatomy.widths else ()
        keys = select_keys(self.sites, self.config.extract.positions, self.anatomy)
        check_keys(keys, self.sites, self.config.extract.positions)
        return tuple(key for key in keys if self.has(key))

    def has(self, key: Key) -> bool:
        """Whether a key exists here: without a picture there are no picture positions."""
        return self.control != TEXT_ONLY or (key.site.tower == "lm" and key.position not in PICTURE_POSITIONS)

    @cached_property
    def answer_keys(self) -> tuple[Key, ...]:
        """The model's own answer at the blocks asked for, where each prompt asks one thing and its end is read."""
        words, decisions = bound(self.config.extract.answers, self.examples), self.examples.decisions
        asked = len({d.sample for d in decisions}) == len({(d.sample, d.head) for d in decisions})
        open_ended = self.control or any(decision.side for decision in decisions)
        if not words or open_ended or not asked or "last" not in self.config.extract.positions:
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
        positions = dict.fromkeys(p for p in self.config.extract.positions if p in PICTURE_POSITIONS)
        if not positions:
            raise ConfigError(
                f"features={next(iter(self.arms))} reads a vision tower, where extract.positions="
                f"{self.config.extract.positions} do not exist; add one of: {', '.join(PICTURE_POSITIONS)}"
            )
        keys = (Key(Site("vision", layer), position) for position in positions for layer in sorted(read))
        return tuple(key for key in keys if self.has(key))


OPTIONAL = (TEXT_ONLY, VISION_ONLY, CONNECTOR_ONLY)  # what some models cannot be shown, or have no place to be read
FLOORS: Mapping[str, Callable[[Anatomy], Key]] = {
    VISION_ONLY: lambda anatomy: Key(Site("vision", anatomy.blocks.get("vision", 0)), "mean_image"),
    CONNECTOR_ONLY: lambda anatomy: Key(Site("connector"), "mean_image"),
}


def chosen_controls(given: Any) -> tuple[str, ...]:
    """`all`, `none` or a list, as names. Raises ConfigError."""
    if given in ("all", "none"):
        return CONTROLS if given == "all" else ()
    if not isinstance(given, list):
        raise ConfigError(f"controls={given} must be all, none or a list; {choices(str(given), CONTROLS)}")
    for name in given:
        if name not in CONTROLS:
            raise ConfigError(f"controls names '{name}', which is unknown; {choices(str(name), CONTROLS)}")
    return tuple(name for name in CONTROLS if name in given)


def _anatomy(seen: Mapping[str, Any]) -> Anatomy:
    blocks, widths = ({tower: int(n) for tower, n in seen[name].items()} for name in ("blocks", "widths"))
    inside = {tower: tuple(parts) for tower, parts in seen["inside"].items()}
    return Anatomy(
        blocks, widths, seen["causal"], int(seen["max_tokens"]), inside, tuple(seen["informed"]), seen["crossed"]
    )


def filled(ready: Prepared) -> Coverage:
    """What the cache holds. Raises CacheError where something that was asked for has not been extracted."""
    coverage, samples = ready.store.coverage(), ready.examples.samples
    missing = coverage.missing(ready.stored, (sample.uid for sample in samples))
    lacking = sum(map(len, missing.values()))
    if lacking and coverage.damaged:
        raise CacheError(
            f"{coverage.damaged[0].path} is damaged or gone; run `mllm-probe extract` with the same settings, which "
            "extracts it again"
        )
    if lacking:
        there, planned = ready.store.begun()
        begun = f", and {there} of {planned} shards of an unfinished extraction are there" if planned else ""
        raise CacheError(
            f"{ready.store.paths.root} lacks activations of {lacking} of {len(samples)} samples{begun}; "
            f"run `mllm-probe extract` with the same settings first{', which goes on behind them' if begun else ''}"
        )
    return coverage


def storage_dtype(config: RunConfig) -> str:
    return config.extract.dtype or config.model.dtype


def name_cache(store: Store, identity: Identity, model: str) -> None:
    """Write the identity's fields beside what they digest to, for whoever looks at the folder.

    `model` is what the first run called it: a name for people, and no part of what is digested.
    """
    if not store.paths.identity.exists():
        write_json(store.paths.identity, {**identity.to_json(), "model": model})


def identified(config: RunConfig, checkpoint: Path, digests: Digests) -> Identity:
    """Raises ConfigError, ModelError for an adapter of another model."""
    files = folder_digests(checkpoint, digests)
    adapted: dict[str, Any] = {}
    if config.model.adapter is not None:
        from mllm_probe.models.loading.adapters import adapter_digests

        adapted["adapter"] = adapter_digests(config.model, weights_digest(files), digests)
    return identify(files, **adapted, **requested(config, checkpoint))


def requested(config: RunConfig, checkpoint: Path) -> dict[str, Any]:
    """The settings that can change a stored number."""
    model = config.model
    rounded = "weights alone" if model.quantization == "int8" else ""  # older caches of int8 rounded what came in, too
    # older releases did not read the tokenizer's
    template = "tokenizer_config.json" if from_tokenizer(checkpoint, config.prompt) else ""
    asked = {
        "chat_template": template,
        "processor": model.processor,
        "blocks": model.blocks.named,
        "trust_remote_code": model.trust_remote_code,
        "rounded": rounded,
    }
    return {
        **{name: value for name, value in asked.items() if value},  # named where they are used, which is seldom
        "weights": model.weights,
        "init_seed": model.seed if model.weights == "random" else None,
        "quantization": model.quantization,
        "quantize": sorted(model.quantize) if model.quantization != "none" else [],
        "dtype": model.dtype,
        "storage": storage_dtype(config),
        "attn": model.attn,
        "prompt": asdict(config.prompt),
        "padding_side": config.extract.padding_side,
        "picture_backend": "torchvision" if find_spec("torchvision") else "pillow",  # they resize differently
    }
