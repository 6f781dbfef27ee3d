"""Curves as one line of text each, bars from low to high: what a table of many layers shows at a glance."""

from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mllm_probe.records import units

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-:=+*#"  # where the encoding of the output has no blocks
GAP = 2  # columns between two cells


def sparkline(curve: Sequence[float], low: float, high: float, bars: str = BLOCKS) -> str:
    """A bar a value, the first one at `low` and the last one at `high`."""
    step = (len(bars) - 1) / ((high - low) or 1.0)
    return "".join(bars[round(step * (value - low))] for value in curve)


def print_curves(curves: Mapping[str, Sequence[float]], metric: str, console: Console) -> None:
    """{name: values [L]} on one scale, with their lowest and highest value of a measure.

    Single values are no curve, and what does not fit the width is left out.
    """
    shown = {name: curve for name, curve in curves.items() if len(curve) > 1}
    values = [value for curve in shown.values() for value in curve]
    bars = ASCII if console.options.ascii_only else BLOCKS
    table = Table.grid(padding=(0, GAP, 0, 0))
    rows = [
        (
            name,
            sparkline(curve, min(values), max(values), bars),
            f"{units.number(min(curve), metric)} to {units.value(max(curve), None, None, metric)}",
        )
        for name, curve in shown.items()
    ]
    named = max((cell_len(name) for name in shown), default=0)
    for row in rows:
        if named + sum(map(len, row[1:])) + 2 * GAP <= console.width:
            table.add_row(*map(Text, row))
    if table.row_count:
        console.print(table)
