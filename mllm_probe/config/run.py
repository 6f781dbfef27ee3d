"""What a user may set of a run, from its pictures to its page, and what of that can change a score."""

import dataclasses
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import MISSING, OmegaConf

from mllm_probe import __version__
from mllm_probe.config.build import first_named
from mllm_probe.config.model import DTYPES, ModelSettings, PromptSettings
from mllm_probe.config.report import ReportSettings
from mllm_probe.config.sweep import SweepSettings
from mllm_probe.errors import ConfigError, choices
from mllm_probe.records.samples import Examples, digest
from mllm_probe.records.sites import TOWERS

PADDING_SIDES = ("right", "left")
PREFIXES = ("auto", "off")
UNITS = ("picture", "row")
OF_A_SIDE = ("positions", "answers")  # what a task of a study sets of `extract`
# Settings that change where and how fast, not what; model and data are digested by their content.
HOW = ("micro_batch", "prefix", "workers", "shard", "num_shards", "gpus", "wait_s", "max_disk_gb")
NOT_SCIENCE = (
    "report",
    "regions_run",  # told beside
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
    "sweep.reuse",
    *(f"extract.{name}" for name in HOW),
)


@dataclass
class LayerSettings:
    """Which sites: `towers` (null = all), then layers `range` (both ends included, null = all) in steps of `stride`
    from its start, and the `parts` of each: what the block returns, what its attention or its mlp adds. `middle`
    takes the middle third of a tower's blocks, `norm` also the state after the final norm."""

    towers: list[str] | None = None
    parts: list[str] = field(default_factory=lambda: ["block"])
    range: list[int] | None = None
    middle: bool = False
    stride: int = 1
    norm: bool = True


@dataclass
class ExtractSettings:
    """What is read, and how the work is divided.

    `positions` are where a prompt is read; states are stored in `dtype`, null = the model's own. `micro_batch` prompts
    go through the model at once, or as many tokens if `prefix` auto lets the statements about a picture share it; null
    = a size that fits the device. `workers` threads prepare pictures in advance. This process is number `shard` of
    `num_shards`; `gpus` starts that many processes here. Processes with the same request share the shards; one that
    finds only shards that others fill waits for `wait_s` seconds. `answers` are words for the labels, by their names
    ({yes: Yes, no: No}; a list if the meaning is clear); their log-odds are the model's own answer (null: no answers).
    Prompts of a batch are padded on `padding_side`. More than `max_disk_gb` is refused.
    """

    positions: list[str] = field(default_factory=lambda: ["last"])
    answers: Any = None
    micro_batch: int | None = None
    dtype: str | None = None
    padding_side: str = "right"
    prefix: str = "auto"
    workers: int = 2
    shard: int = 0
    num_shards: int = 1
    gpus: int = 1
    wait_s: float = 120.0
    max_disk_gb: float = 100.0

    def check(self) -> None:
        """Raises ConfigError."""
        for name, allowed in (("padding_side", PADDING_SIDES), ("prefix", PREFIXES), ("dtype", DTYPES)):
            if (value := getattr(self, name)) is not None and value not in allowed:
                raise ConfigError(f"extract.{name}={value} is unknown; {choices(value, allowed)}")
        if not 0 <= self.shard < self.num_shards:
            raise ConfigError(
                f"extract.shard={self.shard} must be between 0 and {self.num_shards - 1}, since "
                f"extract.num_shards={self.num_shards}"
            )
        if self.gpus > 1 and self.num_shards > 1:
            raise ConfigError("extract.gpus and extract.num_shards both share out the shards; set one of them")


@dataclass
class CacheSettings:
    """When the stored digest of a file is trusted: `trust` stat if size, times and inode are unchanged; sample if
    samples of its content are unchanged too; content never, and reads checkpoints and pictures whole."""

    trust: str = "sample"


@dataclass
class PathSettings:
    """`outputs` is the folder for everything that is written."""

    outputs: str = "outputs"


@dataclass
class DataSettings:
    """Which pictures of the data set: `n` of them (null = all), drawn by `seed`. `on_bad_row` stop ends the run at a
    row or picture that cannot be used; skip leaves it out and reports it. `links` follow reads picture files that
    link to files outside the data set's folder; refuse does not."""

    n: int | None = None
    seed: int = 0
    on_bad_row: str = "stop"
    links: str = "follow"


@dataclass
class SplitSettings:
    """Shares of pictures: `test`, and `val` of the `blocks` that the others are cut into, see mllm_probe.tasks.splits.

    `unit` picture keeps a picture on one side, and with `near_duplicates` also pictures that look the same; unit row
    does not, and leaks. `file` is a CSV of picture,split that replaces the shares.
    """

    test: float = 0.25
    val: float = 0.2
    blocks: int = 10
    unit: str = "picture"
    near_duplicates: bool = True
    file: str | None = None


@dataclass
class RunConfig:
    """`run`, `extract` and `sweep`: the whole experiment and its two halves take the same settings.

    `dataset`, `task` and `probe` are `_target_` nodes; the constructor they name is their schema. `features` holds one
    or several such nodes by name. `controls` is a list, or all, or none; random_weights draws `random_draws` models.
    `local` is a second task with its own `extract.positions` and `extract.answers`, null for one task; a study then
    compares the layers of both, and tells what the finished run of task=regions in the folder `regions_run` found.
    `test.dataset` is another data set whose pictures replace the test pictures of `dataset`. `guards` stop a run that
    cannot be valid, or only note it. `loggers`, one or a list, get the finished run. `device` auto = CUDA if available.
    `plugins` are packages whose classes may be built.
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
    regions_run: str | None = None
    test: Any = field(default_factory=lambda: {"dataset": None})
    report: ReportSettings = field(default_factory=ReportSettings)
    cache: CacheSettings = field(default_factory=CacheSettings)
    paths: PathSettings = field(default_factory=PathSettings)
    device: str = "auto"
    plugins: list[str] = field(default_factory=list)


Config = TypeVar("Config", bound=RunConfig)


@dataclass
class InspectConfig(RunConfig):
    """`inspect`: the settings of a run, and how many of its samples are shown, `n`."""

    n: int = 3


@dataclass
class ReportConfig:
    """`report`: the folder of a finished run, and how it is shown."""

    run: str | None = None
    report: ReportSettings = field(default_factory=ReportSettings)
    paths: PathSettings = field(default_factory=PathSettings)


def sides_of(config: Config) -> tuple[Config, Config]:
    """The global experiment and the local one. Raises ConfigError, also for positions that neither reads and the page
    is to show."""
    either = replace(config, report=_of_a_side(config.report), regions_run=None)
    sides = replace(either, local=None), local_side(either)
    positions = dict.fromkeys(position for side in sides for position in side.extract.positions)
    config.report.check_read(positions, config.layers.towers or TOWERS)
    return sides


def local_side(config: Config) -> Config:
    """The experiment with the other task and what that sets of `extract`. Raises ConfigError."""
    given = config.local
    if not isinstance(given, dict) or not {"task"} <= given.keys() <= {"task", "extract"}:
        raise ConfigError(f"local={given!r} must hold a task, and may hold extract; task=study is an example")
    extract = given.get("extract") or {}
    for name in extract:
        if name not in OF_A_SIDE:
            raise ConfigError(
                f"'local.extract.{name}' is set for both tasks by extract.{name}; {choices(name, OF_A_SIDE)}"
            )
    settings: ExtractSettings = replace(config.extract, **{"answers": None, **extract})
    return replace(config, task=given["task"], extract=settings, local=None, regions_run=None)


def refuse_two(config: RunConfig, command: str) -> None:
    """Raises ConfigError for a study, where a command reads one task."""
    if config.local is not None:
        raise ConfigError(
            f"{command} reads one task; name it, as task=entailment does, or give local=null to an experiment of two"
        )


def _of_a_side(report: ReportSettings) -> ReportSettings:
    """Without the positions, of which each side reads its own."""
    return replace(report, positions=None)


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
