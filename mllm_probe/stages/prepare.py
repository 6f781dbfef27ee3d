"""What every stage needs before a weight is loaded: examples, the cache they belong to, the keys asked for."""

from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.cache.coverage import Coverage
from mllm_probe.cache.identity import Identity, folder_digests, identify
from mllm_probe.cache.store import Store, write_json
from mllm_probe.config import RunConfig, build, save_config
from mllm_probe.data.coco import Selection
from mllm_probe.digests import open_digests
from mllm_probe.errors import CacheError, ConfigError, choices
from mllm_probe.extract.layers import check_keys, select_keys, select_sites
from mllm_probe.models.checkpoint import check_settings, find_checkpoint, needs
from mllm_probe.models.prompt import check_position
from mllm_probe.paths import OutputPaths, RunPaths
from mllm_probe.protocols import Dataset, Probe, Reporter, Task
from mllm_probe.settings import (
    ANALYSES,
    CONTROLS,
    DEVICES,
    DTYPES,
    GUARDS,
    PADDING_SIDES,
    PREFIXES,
    ExtractSettings,
    SweepSettings,
)
from mllm_probe.tasks.folds import Folds
from mllm_probe.types import Anatomy, Collection, Examples, Key, Site

if TYPE_CHECKING:
    from mllm_probe.models.blueprint import Blueprint


@dataclass(frozen=True)
class Prepared:
    """One experiment, ready to extract or to sweep."""

    config: RunConfig
    dataset: Dataset
    task: Task
    probe: Probe
    folds: Folds
    collection: Collection
    examples: Examples
    checkpoint: Path
    identity: Identity
    store: Store

    @cached_property
    def blueprint(self) -> "Blueprint":
        """The model without its weights; importing transformers costs seconds, so only on demand."""
        from mllm_probe.models.blueprint import Blueprint

        return Blueprint(self.checkpoint, self.config.model, self.config.prompt, self.config.extract.padding_side)

    @cached_property
    def anatomy(self) -> Anatomy:
        """From the manifest where the cache has one, else from the checkpoint's config."""
        seen = self.store.provenance()
        if seen:
            return Anatomy(seen["blocks"], seen["widths"], seen["causal"], seen["max_tokens"])
        return self.blueprint.anatomy

    @cached_property
    def controls(self) -> tuple[str, ...]:
        return chosen_controls(self.config.controls)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        return select_sites(self.config.layers, self.anatomy)

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        keys = select_keys(self.sites, self.config.extract.positions)
        check_keys(keys, self.sites, self.config.extract.positions)
        return keys


def prepare(config: RunConfig, paths: RunPaths, reporter: Reporter) -> Prepared:
    """Everything that can be wrong without loading the model is found here, cheapest first; then config.yaml."""
    _check(config)
    plugins = tuple(config.plugins)
    dataset = build(config.dataset, Dataset, plugins)  # type: ignore[type-abstract]
    task = build(config.task, Task, plugins, seed=config.data.seed, on_bad_row=config.data.on_bad_row)  # type: ignore[type-abstract]
    probe = build(config.probe, Probe, plugins)  # type: ignore[type-abstract]
    splits = config.splits
    folds = Folds(splits.test, splits.val, splits.blocks, seed=config.data.seed)
    if size := needs(config.model):
        reporter.note(size)
    checkpoint = find_checkpoint(config.model)
    outputs = OutputPaths(Path(config.paths.outputs))
    digests = open_digests(outputs.digests)
    collection = dataset.load(outputs.root, Selection(**asdict(config.data)), digests)
    for row in collection.skipped:
        reporter.note(f"skipped: {row}")
    identity = identify(folder_digests(checkpoint, digests), **_requested(config))
    digests.save()
    store = Store(outputs.cache(identity.digest), digests)
    examples = task.examples(collection, folds)
    for row in examples.skipped:
        reporter.note(f"skipped: {row}")
    folds.check(examples, config.sweep.seeds)
    save_config(config, paths.config)
    write_json(paths.identity, identity.to_json())
    return Prepared(config, dataset, task, probe, folds, collection, examples, checkpoint, identity, store)


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


def filled(ready: Prepared) -> Coverage:
    """What the cache holds. Raises CacheError where something that was asked for has not been extracted."""
    coverage, samples = ready.store.coverage(), ready.examples.samples
    missing = coverage.missing(ready.keys, (sample.uid for sample in samples))
    if missing:
        raise CacheError(
            f"{ready.store.paths.root} lacks activations of {len(missing)} of {len(samples)} samples; "
            "run `mllm-probe extract` with the same settings first"
        )
    return coverage


def _check(config: RunConfig) -> None:
    check_settings(config.model, config.prompt)
    for position in config.extract.positions:
        check_position(position)
    side, dtype = config.extract.padding_side, config.extract.dtype
    if side not in PADDING_SIDES:
        raise ConfigError(f"extract.padding_side={side} is unknown; {choices(side, PADDING_SIDES)}")
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"extract.dtype={dtype} is unknown; {choices(dtype, DTYPES)}")
    _check_work(config.extract)
    _check_sweep(config.sweep)
    chosen_controls(config.controls)
    if config.guards not in GUARDS:
        raise ConfigError(f"guards={config.guards} is unknown; {choices(config.guards, GUARDS)}")
    if config.device not in DEVICES:
        raise ConfigError(f"device={config.device} is unknown; {choices(config.device, DEVICES)}")


def _check_sweep(sweep: SweepSettings) -> None:
    for name in ("draws", "permutations"):
        if (value := getattr(sweep, name)) < 1:
            raise ConfigError(f"sweep.{name}={value} must be 1 or more")
    for name in ("ci_level", "margin"):
        if not 0 < (share := getattr(sweep, name)) < 1:
            raise ConfigError(f"sweep.{name}={share} must lie between 0 and 1")
    for name in sweep.analyses:
        if name not in ANALYSES:
            raise ConfigError(f"sweep.analyses names '{name}', which is unknown; {choices(name, ANALYSES)}")
    for name in ("max_memory_gb", "enough_bits"):
        if (amount := getattr(sweep, name)) <= 0:
            raise ConfigError(f"sweep.{name}={amount} must be above 0")
    if not sweep.seeds or len(set(sweep.seeds)) < len(sweep.seeds):
        raise ConfigError(f"sweep.seeds={sweep.seeds} must hold at least one seed, each once")


def _check_work(extract: ExtractSettings) -> None:
    if extract.prefix not in PREFIXES:
        raise ConfigError(f"extract.prefix={extract.prefix} is unknown; {choices(extract.prefix, PREFIXES)}")
    for name, least in (("micro_batch", 1), ("workers", 0), ("num_shards", 1), ("gpus", 1)):
        if (value := getattr(extract, name)) is not None and value < least:
            raise ConfigError(f"extract.{name}={value} must be {least} or more")
    if not 0 <= extract.shard < extract.num_shards:
        raise ConfigError(
            f"extract.shard={extract.shard} must lie between 0 and {extract.num_shards - 1}, "
            f"since extract.num_shards={extract.num_shards}"
        )
    if extract.gpus > 1 and extract.num_shards > 1:
        raise ConfigError("extract.gpus and extract.num_shards both share out the shards; set one of them")


def _requested(config: RunConfig) -> dict[str, Any]:
    """The settings that can change a stored number."""
    model = config.model
    return {
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


def storage_dtype(config: RunConfig) -> str:
    return config.extract.dtype or config.model.dtype


def claim_cache(store: Store, identity: Identity, model: str) -> None:
    """Write the identity's fields beside what they digest to, for whoever looks at the folder.

    `model` is what the first run called it: a name for people, and no part of what is digested.
    """
    if not store.paths.identity.exists():
        write_json(store.paths.identity, {**identity.to_json(), "model": model})
