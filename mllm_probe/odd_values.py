"""Values that a setting's type allows and nobody can mean: refused for all settings alike, before anything is done."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from mllm_probe.errors import ConfigError

LARGEST = 2**63 - 1  # what a whole number of 64 bits holds
NEEDED = ("positions", "towers", "parts", "measures", "answers", "representations", "range")  # no empty list
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
    "table",
    "system",
)  # no empty text

# Numbers, by the names of their settings: from 0, from 1, above 0, between 0 and 1. Others are bounded by data or model
FROM_0 = (
    *("extract.workers", "extract.wait_s", "extract.max_disk_gb", "sweep.seeds", "model.download_gb"),
    *("align.seed", "fidelity.seed", "train.weight_decay"),
)
FROM_1 = (
    *("extract.micro_batch", "extract.num_shards", "extract.gpus", "random_draws"),
    *("train.batch", "train.micro_batch", "train.save_every", "train.steps", "labels.micro_batch"),
)
ABOVE_0 = (
    *("sweep.max_memory_gb", "sweep.enough_bits", "fidelity.clip"),
    *("train.lr", "train.epochs", "train.clip", "labels.delta"),
)
DRAWN = ("sweep.draws", "sweep.permutations")  # each is held in memory, for all decisions
SHARES = ("sweep.ci_level", "sweep.margin")
RANGES: tuple[tuple[tuple[str, ...], str, Callable[[float], bool]], ...] = (
    (FROM_0, "must be 0 or more", lambda value: value >= 0),
    (FROM_1, "must be 1 or more", lambda value: value >= 1),
    (DRAWN, "must be 1 to 1,000,000", lambda value: 1 <= value <= 1_000_000),
    (ABOVE_0, "must be above 0", lambda value: value > 0),
    (SHARES, "must lie between 0 and 1", lambda value: 0 < value < 1),
)


def refuse_odd(config: Any) -> None:
    """Raises ConfigError for a number without bounds or out of its range, a text without a letter, an empty or doubled
    list, and plugins that cannot be imported. `config`: a dataclass of settings."""
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


def _number(where: str, value: Any) -> str:
    if not isinstance(value, int | float):
        return ""
    if not math.isfinite(value):
        return "must be a finite number"
    if abs(value) > LARGEST:
        return "is too large a number"
    return next((said for names, said, fits in RANGES if where in names and not fits(value)), "")


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
    return "holds the same twice" if value and _doubled(value) else ""


def _doubled(value: list[Any]) -> bool:
    return all(isinstance(item, str) for item in value) and len(set(value)) < len(value)


def _importable(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False
