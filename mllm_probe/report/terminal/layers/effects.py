"""What `intervene` ends with: a table of its headline metric, and in words what was shown and what was not."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mllm_probe.records import units
from mllm_probe.records.score import ALPHA
from mllm_probe.report.tables.effects import Line, caption, headed, lines, metrics, of_window, place, sentences
from mllm_probe.report.terminal.printing import escaped, framed, say
from mllm_probe.results.effects import ABOVE, PATCHING
from mllm_probe.results.selection import many_of
from mllm_probe.scoring.alarms import few_groups

if TYPE_CHECKING:
    import pandas as pd


def print_effects(table: "pd.DataFrame", summary: Mapping[str, Any], console: Console | None = None) -> None:
    """The headline metric at every layer, then the sentences of summary.json."""
    say(console, *effect_views(table, metrics(table)[0]), *sentences(summary))
    groups = f"pairs of {many_of(table)}" if table.kind.iloc[0] == PATCHING else many_of(table)
    if few := few_groups(int(table.n_groups.max()), groups):
        say(console, few)


def effect_views(table: "pd.DataFrame", metric: str) -> Iterator[Table]:
    """A row a layer, a column an edge, span or direction; a table for each way of patching, part of a block, and what
    is cut in all higher blocks."""
    safe = escaped(table)
    apart: dict[tuple[str, bool], list[Line]] = {}
    for line in lines(safe, metric):
        apart.setdefault((line.label.removeprefix(line.what), line.what == ABOVE), []).append(line)
    for (way, _), found in apart.items():
        yield _view(safe, metric, way, found)


def _view(table: "pd.DataFrame", metric: str, way: str, found: Sequence[Line]) -> Table:
    first = table.iloc[0]
    cells: dict[str, dict[str, str]] = {}
    for line in found:
        for row in line.rows.itertuples():
            cells.setdefault(place(row), {})[line.what] = _cell(row, metric)
    view = framed(
        f"{first.model}, {first.task}: {first.kind}{way}, {headed(table, metric)}",
        ["blocks" if of_window(table) else "layer"],
        [line.what.replace("->", "->\n") for line in found],
        caption=caption(table, metric),
        collapse_padding=True,
    )
    for name, row in cells.items():
        view.add_row(name, *(row.get(line.what, "") for line in found))
    return view


def _cell(row: Any, metric: str) -> str:
    star = "*" if row.p_max_t == row.p_max_t and row.p_max_t <= ALPHA else ""
    return "" if row.value != row.value else f"{units.number(row.value, metric, sign=True)}{star}"
