"""The short table `geometry` ends with. Computes nothing but what the table sums up."""

from itertools import pairwise
from math import nan
from statistics import fmean
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mllm_probe.report.terminal.printing import escaped, framed, say

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("measure", "position")


def print_relations(table: "pd.DataFrame", console: Console | None = None) -> None:
    """One row per measure and position: mean over neighbouring layers, the two ends, the least pair, the highest null;
    then the layers measured alone. Neighbours and ends only where a position is compared with itself."""
    say(console, *relation_views(table))


def relation_views(table: "pd.DataFrame") -> list[Table]:
    """The tables of print_relations."""
    table = escaped(table)
    pairs, alone = table[table.site_b != ""], table[table.site_b == ""]
    found = (_pairs_table(pairs) if len(pairs) else None, _alone_table(alone) if len(alone) else None)
    return [view for view in found if view is not None]


def _pairs_table(pairs: "pd.DataFrame") -> Table:
    numbers = ("rows", "next layer", "first to last", "least", "null", "empty")
    caption = "null: 95 % quantile of shuffled rows"
    view = framed(f"{pairs.model.iloc[0]}: layers against layers", NAMES, numbers, fold_numbers=True, caption=caption)
    for (measure, position), rows in pairs.groupby(["measure", "position"], sort=False):
        grid = rows.pivot(index="site_a", columns="site_b", values="value")
        first, second = list(dict.fromkeys(rows.site_a)), list(dict.fromkeys(rows.site_b))
        measured = [site for site in first if site in grid and grid.loc[site].notna().any()] if first == second else []
        steps = [step for pair in pairwise(measured) if (step := grid.at[pair]) == step]
        found = (
            fmean(steps) if steps else nan,
            grid.at[measured[0], measured[-1]] if measured else nan,
            rows.value.min(),
            rows.null_high.max(),
        )
        view.add_row(measure, position, str(rows.n.max()), *map(_short, found), str(int(rows.value.isna().sum())))
    return view


def _alone_table(alone: "pd.DataFrame") -> Table:
    view = framed(f"{alone.model.iloc[0]}: layers alone", NAMES, ("rows", "first", "highest", "last"))
    for (measure, position), rows in alone.groupby(["measure", "position"], sort=False):
        found = rows.dropna(subset="value")
        cells = ["", "", ""]
        if len(found):
            peak = found.loc[found.value.idxmax()]
            cells = [_short(found.value.iloc[0]), f"{_short(peak.value)} {peak.site_a}", _short(found.value.iloc[-1])]
        view.add_row(measure, position, str(rows.n.max()), *cells)
    return view


def _short(value: float) -> str:
    return "" if value != value else f"{value:.3g}" if abs(value) >= 1 else f"{value:.2f}"
