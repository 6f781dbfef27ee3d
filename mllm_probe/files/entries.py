"""Objects in JSON files, which somebody may have cut or edited: their entries are of the kinds that are asked for.

A kind is a type, a list of one kind, or a mapping {name: kind}, where {str: kind} is for any names.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

NUMBER = int | float
WORDS = {str: "text", bool: "true or false", int: "whole number", float: "number", list: "list", dict: "object"}
HELD = {NoneType: "null", bool: "true or false", list: "a list", str: "a text"}


def read_object(path: Path) -> dict[str, Any]:
    """The object that a file holds. Raises ValueError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError) as error:
        raise ValueError(error) from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds {HELD.get(type(found), 'a number')} and no object")
    return found


def check_entries(found: Mapping[str, Any], kinds: Mapping[Any, Any]) -> None:
    """Raises ValueError for the first entry that is not there or not of its kind."""
    for said in _misfits(found, kinds, ""):
        raise ValueError(said)


def _misfits(value: Any, kind: Any, where: str) -> Iterator[str]:
    outer = list if isinstance(kind, list) else dict if isinstance(kind, Mapping) else kind
    if not _fits(value, outer):
        yield f"its entry '{where}' is no {_name(outer)}"
    elif isinstance(kind, list):
        for number, item in enumerate(value):
            yield from _misfits(item, kind[0], f"{where}[{number}]")
    elif isinstance(kind, Mapping):
        for name in value if str in kind else kind:
            inside = f"{where}.{name}" if where else name
            if name in value:
                yield from _misfits(value[name], kind[str] if str in kind else kind[name], inside)
            else:
                yield f"it lacks the entry '{inside}'"


def _fits(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _name(kind: Any) -> str:
    """Of several types the widest, for whole numbers are numbers; that null is allowed goes without saying."""
    types = [one for one in get_args(kind) if one is not NoneType] if isinstance(kind, UnionType) else [kind]
    return WORDS[types[-1]]
