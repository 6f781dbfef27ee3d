"""The table that `vision score` ends with. Computes nothing."""

from typing import TYPE_CHECKING

from rich.console import Console

from mllm_probe.report.terminal.printing import escaped, framed, say
from mllm_probe.results.vision import PERCENT, headline

if TYPE_CHECKING:
    import pandas as pd


def print_vision(table: "pd.DataFrame", console: Console | None = None) -> None:
    """The headline rows, one section for each measure."""
    table = escaped(table)
    names, numbers = ("measure", "representation"), ("value", "interval", "null", "n")
    view = framed("vision encoders", names, numbers, caption=_caption(table))
    for measure, rows in headline(table).groupby("measure", sort=False):
        view.add_section()
        for number, row in enumerate(rows.itertuples()):
            factor = 100 if measure in PERCENT else 1
            between = "" if row.low != row.low else f"\\[{_short(factor * row.low)}, {_short(factor * row.high)}]"
            null = row.null_high if row.null_high == row.null_high else row.chance
            numbers = (_short(factor * row.value), between, _short(null), str(row.n))
            view.add_row("" if number else str(measure), row.representation, *numbers)
    say(console, view)


def _caption(table: "pd.DataFrame") -> str:
    alphas = headline(table).alpha.dropna()
    within = f"c_pck: % within {alphas.iloc[0]:g} of the object; " if len(alphas) else ""
    return f"{within}interval: over pictures; null: shuffled captions"


def _short(value: float) -> str:
    return "" if value != value else f"{value:.3g}"
