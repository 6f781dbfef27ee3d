"""One typed config per command, and its border checks.

Hydra stops here: below this file there are plain dataclasses and objects, never a DictConfig.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from mllm_probe import __version__
from mllm_probe.config.build import first_named
from mllm_probe.config.data import DataSettings, SplitSettings
from mllm_probe.config.extract import CacheSettings, ExtractSettings, LayerSettings, PathSettings
from mllm_probe.config.geometry import AlignSettings, FidelitySettings, GeometrySettings
from mllm_probe.config.model import ModelSettings, PromptSettings
from mllm_probe.config.ranges import refuse_odd
from mllm_probe.config.report import ReportSettings
from mllm_probe.config.sweep import SweepSettings
from mllm_probe.config.tune import LabelSettings, TrainSettings
from mllm_probe.config.vision import EncoderSettings, FitSettings, PairSettings, PolicySettings, ScoreSettings
from mllm_probe.errors import ConfigError, choices
from mllm_probe.files.model_names import settled
from mllm_probe.records.samples import Examples, digest


@dataclass
class RunConfig:
    """`run`, `extract` and `sweep`: the whole experiment and its two halves take the same settings.

    `dataset`, `task` and `probe` are `_target_` nodes; the constructor they name is their schema. `features` holds one
    or several such nodes by name. `controls` is a list, or all, or none; of random_weights `random_draws`
    models are drawn. `local` holds a second task with its own `extract.positions` and `extract.answers`; a study then
    compares the layers of both. `test.dataset` is another data set whose pictures are tested in the place of the test
    pictures of `dataset`. `guards` stop a run that cannot be right, or only note it. `loggers`, one or a list,
    are told of the finished run. `device` auto = CUDA where there is one. `plugins` are packages whose classes are
    built.
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
    random_draws: int = 3
    guards: str = "stop"
    loggers: Any = field(default_factory=list)
    local: Any = None
    test: Any = field(default_factory=lambda: {"dataset": None})
    report: ReportSettings = field(default_factory=ReportSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    paths: PathSettings = field(default_factory=PathSettings)
    device: str = "auto"
    plugins: list[str] = field(default_factory=list)


@dataclass
class GeometryConfig(RunConfig):
    """`geometry`: the settings of the run whose cache is read, and how its layers are compared."""

    geometry: GeometrySettings = field(default_factory=GeometrySettings)


@dataclass
class AlignConfig(RunConfig):
    """`align`: the settings of a run, whose task gives the captions and their negatives, and what is compared."""

    align: AlignSettings = field(default_factory=AlignSettings)


@dataclass
class FidelityConfig(RunConfig):
    """`fidelity`: the settings of a run of the quantised or adapted model, and what it is held against."""

    fidelity: FidelitySettings = field(default_factory=FidelitySettings)


@dataclass
class TuneConfig:
    """`tune`: what is trained (`target`, a `_target_` node; `connector` and `labels` are one target's own), on which
    captions, and the commands that follow with the trained model: {name: command line}."""

    model: ModelSettings = field(default_factory=ModelSettings)
    dataset: Any = MISSING
    target: Any = MISSING
    connector: str = "dci"
    labels: LabelSettings = field(default_factory=LabelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    prompt: PromptSettings = field(default_factory=lambda: PromptSettings(chat="off"))
    data: DataSettings = field(default_factory=DataSettings)
    splits: SplitSettings = field(default_factory=SplitSettings)
    after: dict[str, str] = field(default_factory=dict)
    cache: CacheSettings = field(default_factory=CacheSettings)
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
    cache: CacheSettings = field(default_factory=CacheSettings)
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
    """`report`: the folder of a finished run, and how it is shown."""

    run: str | None = None
    report: ReportSettings = field(default_factory=ReportSettings)
    paths: PathSettings = field(default_factory=PathSettings)


SCHEMAS: dict[str, type] = {
    "run": RunConfig,
    "extract": RunConfig,
    "sweep": RunConfig,
    "geometry": GeometryConfig,
    "fidelity": FidelityConfig,
    "align": AlignConfig,
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
    "report",
    "test",  # its decisions are digested
    "paths",
    "cache",
    "device",
    "plugins",
    "loggers",
    "model",
    "dataset.root",
    "dataset.file",
    "dataset.id_column",
    "dataset.columns",
    "data.links",
    "task.labels",
    "task.rare",
    "splits.file",
    "sweep.max_memory_gb",
    *(f"extract.{name}" for name in HOW),
)


@cache
def register_schema(command: str) -> None:
    """Name the dataclass of a command so that its primary YAML file can begin with it."""
    from hydra.core.config_store import ConfigStore

    schema = SCHEMAS[command]
    name = next(name for name, one in SCHEMAS.items() if one is schema)
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)


def typed(config: DictConfig, command: str, words: Sequence[str] = ()) -> Any:
    """The composed config as its dataclass; `words` are those that the user typed. Raises ConfigError for keys that
    `+key=value` smuggled in or `~key` took out, and for values that nobody can mean."""
    _refuse_removed(config, SCHEMAS[command], "")
    found: Any = OmegaConf.to_object(config)
    _refuse_unknown(found, SCHEMAS[command], "")
    refuse_odd(found)
    if hasattr(found, "model"):
        found.model = settled(found.model, words)
    return found


def _refuse_removed(node: Any, schema: Any, where: str) -> None:
    for entry in dataclasses.fields(schema):
        if OmegaConf.is_missing(node, entry.name):
            raise ConfigError(f"{where}{entry.name} has no value; give it one")
        if entry.name not in node:
            raise ConfigError(f"'{where}{entry.name}' cannot be removed with ~; leave that word out")
        if dataclasses.is_dataclass(entry.type):
            _refuse_removed(node[entry.name], entry.type, f"{where}{entry.name}.")


def _refuse_unknown(node: Any, schema: Any, where: str) -> None:
    names = {f.name for f in dataclasses.fields(schema)}
    for key, value in vars(node).items():
        if key not in names:
            raise ConfigError(f"'{where}{key}' is no setting; {choices(key, names)}")
        if dataclasses.is_dataclass(value):
            _refuse_unknown(value, type(value), f"{where}{key}.")


def plain(config: Any) -> dict[str, Any]:
    """The config as nested plain values, as digests take it: with the first names of classes that have moved."""
    return dict(first_named(dataclasses.asdict(config)))


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
        (d.uid, d.label, d.group, d.mark, d.pair, d.type, d.side, d.head, d.template, d.given, d.covariates)
        for d in examples.decisions
    ]
    return digest(__version__, settings, cache, asked, examples.kind, sorted(examples.folds.items()))
