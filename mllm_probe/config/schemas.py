"""Which dataclass types the settings of a command, and what is refused at this border.

Hydra stops here: below this file there are plain dataclasses and objects, never a DictConfig. The settings of a command
are imported when they are asked for.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mllm_probe.config.sentences import show
from mllm_probe.errors import ConfigError, choices
from mllm_probe.files.model_names import settled

SCHEMAS = {  # {command: its dataclass below mllm_probe.config}
    "run": "run.RunConfig",
    "extract": "run.RunConfig",
    "sweep": "run.RunConfig",
    "geometry": "geometry.GeometryConfig",
    "fidelity": "geometry.FidelityConfig",
    "align": "geometry.AlignConfig",
    "intervene": "intervene.InterveneConfig",
    "lens": "lens.LensConfig",
    "tune": "tune.TuneConfig",
    "inspect": "run.InspectConfig",
    "vision_score": "vision.VisionScoreConfig",
    "vision_fit": "vision.VisionFitConfig",
    "vision_policy": "vision.VisionPolicyConfig",
    "report": "run.ReportConfig",
}
LARGEST = 2**63 - 1  # what a whole number of 64 bits holds
NEEDED = ("positions", "towers", "parts", "measures", "answers", "representations", "range", "lens")  # no empty list
NAMES = (
    "name",
    "path",
    "adapter",
    "bundled",
    "hub_id",
    "root",
    "file",
    "outputs",
    "run",
    "probe_run",
    "regions_run",
    "table",
    "system",
    "neutral",
)  # no empty text
FLAT = tuple(kind for item in (str, int, float) for kind in (list[item], list[item] | None))  # type: ignore[valid-type]
MOST = 1000  # numbers in a list


def schema_of(command: str) -> Any:
    """The dataclass of a command's settings."""
    module, _, name = SCHEMAS[command].partition(".")
    return getattr(import_module(f"mllm_probe.config.{module}"), name)


@cache
def register_schema(command: str) -> None:
    """Name the dataclass of a command so that its primary YAML file can begin with it."""
    from hydra.core.config_store import ConfigStore

    name = next(name for name, one in SCHEMAS.items() if one == SCHEMAS[command])
    ConfigStore.instance().store(name=f"{name}_schema", node=schema_of(command))


def typed(config: DictConfig, command: str, words: Sequence[str] = ()) -> Any:
    """The composed config as its dataclass; `words` are those that the user typed. Raises ConfigError for keys that
    `+key=value` smuggled in or `~key` took out, and for values that nobody can mean."""
    schema = schema_of(command)
    _refuse_removed(config, schema, "")
    found: Any = OmegaConf.to_object(config)
    _refuse_unknown(found, schema, "")
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


def _from(low: float, high: float, *names: str) -> tuple[tuple[str, ...], str, Callable[[float], bool]]:
    """Both ends included; `high` keeps what is drawn, held or repeated from going on for ever."""
    said = f"{low} or more" if high == math.inf else f"{low} to {high:,}"
    return names, f"must be {said}", lambda value: low <= value <= high


# Numbers, by the names of their settings, where * is any. Others are bounded by the data or the model
RANGES: tuple[tuple[tuple[str, ...], str, Callable[[float], bool]], ...] = (
    _from(0, math.inf, "extract.wait_s", "extract.max_disk_gb", "sweep.seeds", "model.download_gb"),
    _from(0, math.inf, "align.seed", "fidelity.seed", "words.seed", "attention.seed", "train.weight_decay"),
    _from(1, math.inf, "extract.micro_batch", "labels.micro_batch", "train.save_every"),
    _from(0, 256, "extract.workers"),
    _from(1, 1000, "random_draws", "extract.gpus", "probe.heads"),
    _from(0, 1000, "features.*.random_sets", "intervention.random_draws", "words.pictures"),
    _from(1, 8192, "encoders.*.size", "target.rank", "target.width", "probe.widths"),
    _from(1, 10_000, "probe.restarts"),
    _from(1, 100_000, "dataset.pictures", "test.dataset.pictures", "extract.num_shards"),
    _from(2, 100_000, "attention.pictures"),
    _from(1, 100_000, "target.documents", "target.held_out", "train.batch", "train.micro_batch"),
    _from(2, 100_000, "align.documents", "align.most"),
    _from(1, 1_000_000, "sweep.draws", "sweep.permutations", "score.draws", "fit.draws", "policy.trials"),
    _from(1, 1_000_000, "probe.max_epochs", "probe.max_steps", "probe.patience"),
    _from(0, 1_000_000, "geometry.permutations", "score.permutations", "align.permutations"),
    _from(1, 100_000_000, "train.steps"),
    (("train.epochs",), "must be above 0, up to 10,000", lambda value: 0 < value <= 10_000),
    (
        (
            *("sweep.max_memory_gb", "sweep.enough_bits", "fidelity.clip", "train.lr", "train.clip", "labels.delta"),
            *("words.max_index_gb", "attention.max_gb"),
        ),
        "must be above 0",
        lambda value: value > 0,
    ),
    (
        ("sweep.ci_level", "sweep.margin", "attention.sink_mass", "attention.sink_prompts"),
        "must be between 0 and 1",
        lambda value: 0 < value < 1,
    ),
)


def refuse_odd(config: Any) -> None:
    """Raises ConfigError for a number without bounds or out of its range, a text without a letter, an empty or doubled
    list, and plugins that cannot be imported. `config`: a dataclass of settings."""
    for where, value in _nested(config, ""):
        raise ConfigError(f"each of {where}={show(value)} must be a plain value, without inner brackets")
    for where, value in _values(config, ""):
        if wrong := _number(where, value) or _text(where, value) or _list(where, value):
            raise ConfigError(f"{where}={value if str(value).strip() else repr(value)} {wrong}")
    for name in getattr(config, "plugins", ()):
        if not _importable(name):
            raise ConfigError(f"plugins names '{name}', which is no package that can be imported here")


def _values(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every value by its dotted name; lists as wholes, then their items."""
    fields = dataclasses.fields(node) if dataclasses.is_dataclass(node) else ()
    inside = {field.name: getattr(node, field.name) for field in fields} if fields else node
    if not isinstance(inside, Mapping):
        yield where, node
        for item in node if isinstance(node, list | tuple) else ():
            yield from _values(item, where)
        return
    for name, value in inside.items():
        yield from _values(value, f"{where}.{name}" if where else str(name))


def _nested(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Lists of texts or of numbers that hold lists or mappings, which OmegaConf takes."""
    for field in dataclasses.fields(node):
        value, name = getattr(node, field.name), f"{where}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _nested(value, f"{name}.")
        elif isinstance(value, list) and field.type in FLAT and any(isinstance(one, list | dict) for one in value):
            yield name, value


def _number(where: str, value: Any) -> str:
    if not isinstance(value, int | float):
        return ""
    if not math.isfinite(value):
        return "must be a finite number"
    if abs(value) > LARGEST:
        return "is too large a number"
    return next(
        (said for names, said, fits in RANGES if any(fnmatch(where, name) for name in names) and not fits(value)), ""
    )


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        return ""
    named = where.rpartition(".")[2] in NAMES
    if not value.strip() and (value or named):
        return "must not be empty"
    return "must hold letters that can be shown" if named and not value.isprintable() else ""


def _list(where: str, value: Any) -> str:
    if not isinstance(value, list):
        return ""
    if not value and where.rpartition(".")[2] in NEEDED:
        return "must hold at least one; leave it out for its default"
    if any(isinstance(item, str) and not item.strip() for item in value):
        return "holds an empty text"
    if sum(isinstance(item, int | float) for item in value) > MOST:
        return f"holds {len(value):,} numbers, and up to {MOST:,} are taken"
    return "holds the same twice" if value and _doubled(value) else ""


def _doubled(value: list[Any]) -> bool:
    return all(isinstance(item, str) for item in value) and len(set(value)) < len(value)


def _importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False
