"""Values that a setting's type allows and nobody can mean: refused for all settings alike, before anything is done."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from mllm_probe.errors import ConfigError

LARGEST = 2**63 - 1  # what a whole number of 64 bits holds
NEEDED = ("positions", "towers", "parts", "measures", "answers", "representations", "range")  # no empty list
NAMES = ("name", "path", "adapter", "bundled", "hub_id", "root", "file", "outputs", "run", "table")  # no empty text


def refuse_odd(config: Any) -> None:
    """Raises ConfigError for a number without bounds, a name without a letter, an empty or doubled list, and plugins
    that cannot be imported. `config`: a dataclass of settings."""
    for where, value in _values(config, ""):
        if wrong := _number(value) or _text(where, value) or _list(where, value):
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


def _number(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    return "is too large a number" if isinstance(value, int) and abs(value) > LARGEST else ""


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or where.rpartition(".")[2] not in NAMES:
        return ""
    if not value.strip():
        return "must not be empty"
    return "" if value.isprintable() else "must hold letters that can be shown"


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
