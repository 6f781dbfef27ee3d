"""One typed config per command, its border checks, and `build`, which turns a `_target_` node into an object.

Hydra stops here: below this file there are plain dataclasses and objects, never a DictConfig.
"""

import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf

from mllm_probe import __version__
from mllm_probe.errors import ConfigError, choices
from mllm_probe.settings import (
    DataSettings,
    ExtractSettings,
    FidelitySettings,
    GeometrySettings,
    LayerSettings,
    ModelSettings,
    PathSettings,
    PromptSettings,
    SplitSettings,
    SweepSettings,
    TrainSettings,
)
from mllm_probe.types import Examples, digest
from mllm_probe.vision_settings import EncoderSettings, FitSettings, PairSettings, PolicySettings, ScoreSettings

T = TypeVar("T")


@dataclass
class RunConfig:
    """`run`, `extract` and `sweep`: the whole experiment and its two halves take the same settings.

    `dataset`, `task` and `probe` are `_target_` nodes; the constructor they name is their schema. `features` holds one
    or several such nodes by name. `controls` is a list, or all, or none. `local` holds a second task with its own
    `extract.positions` and `extract.answers`; a study then compares the layers of both. `guards` stop a run that cannot
    be right, or only note it. `device` auto = CUDA where there is one. `plugins` are packages whose classes are built.
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    dataset: Any = MISSING
    task: Any = MISSING
    probe: Any = MISSING
    features: Any = MISSING
    layers: LayerSettings = field(default_factory=LayerSettings)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    data: DataSettings = field(default_factory=DataSettings)
    splits: SplitSettings = field(default_factory=SplitSettings)
    extract: ExtractSettings = field(default_factory=ExtractSettings)
    sweep: SweepSettings = field(default_factory=SweepSettings)
    controls: Any = field(default_factory=lambda: ["control_task"])
    guards: str = "stop"
    local: Any = None
    paths: PathSettings = field(default_factory=PathSettings)
    device: str = "auto"
    plugins: list[str] = field(default_factory=list)


@dataclass
class GeometryConfig(RunConfig):
    """`geometry`: the settings of the run whose cache is read, and how its layers are compared."""

    geometry: GeometrySettings = field(default_factory=GeometrySettings)


@dataclass
class FidelityConfig(RunConfig):
    """`fidelity`: the settings of a run of the quantised model, and what it is held against."""

    fidelity: FidelitySettings = field(default_factory=FidelitySettings)


@dataclass
class TuneConfig:
    """`tune`: what is trained (`target`, a `_target_` node; `connector` is that target's own), on which captions."""

    model: ModelSettings = field(default_factory=ModelSettings)
    dataset: Any = MISSING
    target: Any = MISSING
    connector: str = "dci"
    train: TrainSettings = field(default_factory=TrainSettings)
    prompt: PromptSettings = field(default_factory=lambda: PromptSettings(chat="off"))
    data: DataSettings = field(default_factory=DataSettings)
    splits: SplitSettings = field(default_factory=SplitSettings)
    paths: PathSettings = field(default_factory=PathSettings)
    device: str = "auto"
    plugins: list[str] = field(default_factory=list)


@dataclass
class VisionScoreConfig:
    """`vision score`: `representations` are encoders by name, or several joined by a plus sign (null = each alone).

    `mllms` {representation: folder, bundled name or hub id} are multimodal models whose connectors were trained on it,
    for the A scores; they are loaded as `model` is, whose language model gives the states of the captions.
    """

    encoders: dict[str, EncoderSettings] = field(default_factory=dict)
    representations: list[str] | None = None
    mllms: dict[str, str] = field(default_factory=dict)
    model: ModelSettings = field(default_factory=ModelSettings)
    dataset: Any = MISSING
    data: DataSettings = field(default_factory=DataSettings)
    pairs: PairSettings = field(default_factory=PairSettings)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    paths: PathSettings = field(default_factory=PathSettings)
    device: str = "auto"
    plugins: list[str] = field(default_factory=list)


@dataclass
class InspectConfig(RunConfig):
    """`inspect`: the settings of a run, and how many of its samples are shown, `n`."""

    n: int = 3


@dataclass
class VisionFitConfig:
    """`vision fit`: a table of vision representations."""

    fit: FitSettings = field(default_factory=FitSettings)
    paths: PathSettings = field(default_factory=PathSettings)


@dataclass
class VisionPolicyConfig(VisionFitConfig):
    """`vision policy`: the same table, and how many of its rows are to be trained."""

    policy: PolicySettings = field(default_factory=PolicySettings)


@dataclass
class ReportConfig:
    """`report`: the folder of a finished run."""

    run: str | None = None
    paths: PathSettings = field(default_factory=PathSettings)


SCHEMAS: dict[str, type] = {
    "run": RunConfig,
    "extract": RunConfig,
    "sweep": RunConfig,
    "geometry": GeometryConfig,
    "fidelity": FidelityConfig,
    "tune": TuneConfig,
    "inspect": InspectConfig,
    "vision_score": VisionScoreConfig,
    "vision_fit": VisionFitConfig,
    "vision_policy": VisionPolicyConfig,
    "report": ReportConfig,
}
# Settings that change where and how fast, not what; model and data are digested by their content.
HOW = ("micro_batch", "prefix", "workers", "shard", "num_shards", "gpus", "wait_s", "max_disk_gb")
NOT_SCIENCE = (
    "paths",
    "device",
    "plugins",
    "model",
    "dataset.root",
    "dataset.file",
    "splits.file",
    "sweep.max_memory_gb",
    *(f"extract.{name}" for name in HOW),
)


def register_schemas() -> None:
    """Name the dataclasses so that the primary YAML files can begin with them."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for command, schema in SCHEMAS.items():
        store.store(name=f"{command}_schema", node=schema)


def typed(config: DictConfig, command: str) -> Any:
    """The composed config as its dataclass. Raises ConfigError for keys that `+key=value` smuggled in."""
    found = OmegaConf.to_object(config)
    _refuse_unknown(found, SCHEMAS[command], "")
    return found


def _refuse_unknown(node: Any, schema: Any, where: str) -> None:
    names = {f.name for f in dataclasses.fields(schema)}
    for key, value in vars(node).items():
        if key not in names:
            raise ConfigError(f"'{where}{key}' is no setting; {choices(key, names)}")
        if dataclasses.is_dataclass(value):
            _refuse_unknown(value, type(value), f"{where}{key}.")


def plain(config: Any) -> dict[str, Any]:
    """The config as nested plain values, `_target_` nodes included."""
    return dataclasses.asdict(config)


def save_config(config: Any, path: Path) -> None:
    """The whole resolved configuration as YAML."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))


def run_digest(config: RunConfig, cache: str, examples: Examples) -> str:
    """Digest of everything that can change a score: this release, settings, the cache's identity and the decisions.

    Where files lie, the device and how the work is cut up do not count.
    """
    settings = plain(config)
    for place in NOT_SCIENCE:
        *groups, name = place.split(".")
        node = settings
        for group in groups:
            node = node[group]
        node.pop(name, None)
    asked = [
        (d.uid, d.label, d.group, d.mark, d.pair, d.type, d.side, d.head, d.template, d.given)
        for d in examples.decisions
    ]
    return digest(__version__, settings, cache, asked, examples.kind, sorted(examples.folds.items()))


def build(node: Mapping[str, Any], expected: type[T], plugins: tuple[str, ...] = (), **more: Any) -> T:
    """The object that a `_target_` node describes; `more` are arguments the code supplies.

    Only classes of mllm_probe and of the packages named in `plugins` are accepted, only the arguments their
    constructors declare, and only objects that satisfy `expected`. Raises ConfigError.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"a node with _target_ is needed to build a {expected.__name__}, found {node!r}")
    target = str(node["_target_"])
    if target.split(".")[0] not in ("mllm_probe", *plugins):
        raise ConfigError(f"_target_={target} is refused: list its package in plugins to allow it")
    made = _locate(target)
    given = {name: value for name, value in node.items() if name != "_target_"}
    accepted = inspect.signature(made).parameters
    for name, value in given.items():
        if name in more:
            raise ConfigError(f"'{name}' of {target} cannot be set here; it follows data.{name}")
        if name not in accepted:
            raise ConfigError(f"'{name}' is no setting of {target}; {choices(name, accepted)}")
        _check_type(value, accepted[name].annotation, f"{name} of {target}")
    thing = made(**given, **{name: value for name, value in more.items() if name in accepted})
    lacking = [name for name in dir(expected) if not name.startswith("_") and not hasattr(thing, name)]
    if lacking:
        raise ConfigError(f"{target} is no {expected.__name__}: it lacks {', '.join(lacking)}")
    return thing


def _check_type(value: Any, annotation: Any, what: str) -> None:
    """Refuse "many" where a number is declared; annotations that are no plain types are not checked."""
    if typing.get_origin(annotation) is Sequence:
        if not isinstance(value, list):
            raise ConfigError(f"{what} is {value!r}, but must be a list")
        for item in value:
            _check_type(item, typing.get_args(annotation)[0], what)
        return
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    allowed = typing.get_args(annotation) if union else (annotation,)
    if any(option not in (int, float, str, bool, type(None)) for option in allowed):
        return
    exact = type(value) in allowed or (type(value) is int and float in allowed)
    if not exact:
        names = " or ".join("null" if option is type(None) else option.__name__ for option in allowed)
        raise ConfigError(f"{what} is {value!r}, but must be {names}")


def _locate(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"_target_={target} cannot be imported ({error})") from error
    if not inspect.isclass(made):
        raise ConfigError(f"_target_={target} is no class, and only classes are built")
    return made
