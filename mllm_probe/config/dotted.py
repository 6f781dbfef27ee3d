"""Nested settings as flat ones with dotted names, a setting as one would type it, and what its type is called."""

import json
import re
from collections.abc import Mapping
from types import NoneType
from typing import Any

TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "one text", NoneType: "null"}
LISTED = "a list in brackets"
MAPPED = "names with values in braces, such as {name: value}"
GROUPED = "settings, each by its own name after a dot"


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    found: dict[str, Any] = {}
    for name, value in node.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def show(value: Any) -> str:
    """A setting as one would type it."""
    if isinstance(value, list):
        return f"[{','.join(map(show, value))}]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def quoted(text: str) -> str:
    """A value as Hydra's grammar takes it, whatever characters it has: backslashes count before a quote alone."""
    text = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return f"'{text}'"
