"""Why two runs share a cache or do not: their identities side by side. Knows the files of a run, opens no cache."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from mllm_probe.cache.upkeep import read_json
from mllm_probe.config.sentences import flat, show
from mllm_probe.errors import CacheError
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import read_config
from mllm_probe.report.terminal.printing import add_row, bare, wide_console

ABSENT = "-"
REQUEST = ("layers", "extract.positions", "data", "dataset", "task", "splits")  # what decides over keys and samples


def why(one: RunPaths, two: RunPaths) -> None:
    """Print it. Raises CacheError for a folder that is no run's, DataError for one whose config.yaml is damaged."""
    first, second = _identity(one), _identity(two)
    if first["digest"] != second["digest"]:
        print(f"different caches, {first['digest']} and {second['digest']}: these fields of their identities differ")
        _side_by_side(_fields(first), _fields(second), one, two)
        return
    print(f"same cache {first['digest']}")
    if not (one.config.exists() and two.config.exists()):
        print("config.yaml is missing from one of the runs, so their requests cannot be compared")
        return
    asked = _request(one), _request(two)
    if asked[0] == asked[1]:
        print("both runs requested the same")
        return
    print("the runs requested different parts of it; a wider request extracts only what is missing")
    _side_by_side(*asked, one, two)


def _identity(run: RunPaths) -> dict[str, Any]:
    found = read_json(run.identity)
    if found is None or "digest" not in found or not isinstance(found.get("fields"), Mapping):
        state = "is not a readable identity" if run.identity.exists() else "does not exist"
        raise CacheError(f"{run.identity} {state}; name the folder of a run, such as outputs/run/DATE/TIME")
    return found


def _fields(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name, the checkpoint's files by their own with shortened digests."""
    fields = dict(identity["fields"])
    files = fields.pop("files", {})
    return {**{f"file {name}": value[:8] for name, value in files.items()}, **flat(fields)}


def _request(run: RunPaths) -> dict[str, Any]:
    """The settings that decide which keys and samples are asked for."""
    settings = flat(read_config(run.config))
    return {name: value for name, value in settings.items() if _asks(name)}


def _asks(name: str) -> bool:
    return any(name == group or name.startswith(f"{group}.") for group in REQUEST)


def _side_by_side(first: Mapping[str, Any], second: Mapping[str, Any], one: RunPaths, two: RunPaths) -> None:
    table = bare()
    for title in ("field", escape(str(one.root)), escape(str(two.root))):
        table.add_column(title, overflow="fold")
    for name in dict.fromkeys((*first, *second)):
        cells = [show(side[name]) if name in side else ABSENT for side in (first, second)]
        if cells[0] != cells[1]:
            add_row(table, name, *cells)
    wide_console().print(table)
