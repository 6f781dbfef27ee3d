"""fit.csv, groups.csv and points.csv, and what `vision fit` ends with: a table, and in words what the fits are worth.

Fits nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mllm_probe.report.markup import escaped, screen
from mllm_probe.vision.law import A_ALONE, C_ALONE, COEFFICIENTS, LAW, LINEAR, RANDOM

if TYPE_CHECKING:
    import pandas as pd

SHOWN = {LAW: "A and C", A_ALONE: "A alone", C_ALONE: "C alone", LINEAR: "linear"}


@dataclass(frozen=True)
class LawRow:
    """One fit; a row of fit.csv.

    `a` and `c` are the columns of `table` the scores came from. `weight_*` are the coefficients of A, C, A², AC and C²
    on A, C and performance scaled to [0, 1]. R² in sample, adjusted, and with every point predicted by the others;
    `rank_left_out` is Spearman's between these predictions and what was measured, `r2_noise` the R² to expect of as
    many random regressors.
    """

    run: str
    table: str
    a: str
    c: str
    benchmark: str
    model: str
    n: int
    coefficients: int
    intercept: float = nan
    weight_a: float = nan
    weight_c: float = nan
    weight_aa: float = nan
    weight_ac: float = nan
    weight_cc: float = nan
    r2: float = nan
    r2_adjusted: float = nan
    r2_left_out: float = nan
    rank_left_out: float = nan
    r2_noise: float = nan


MEASURES = ("r2", "r2_adjusted", "r2_left_out", "rank_left_out", "r2_noise")


@dataclass(frozen=True)
class GroupRow:
    """Plain means of fit.csv over the benchmarks of a group; a row of groups.csv."""

    run: str
    group: str
    benchmarks: int
    model: str
    r2: float
    r2_adjusted: float
    r2_left_out: float
    rank_left_out: float
    r2_noise: float


@dataclass(frozen=True)
class PointRow:
    """One representation on one benchmark; a row of points.csv.

    A and C as in the table and scaled; `value` measured, `predicted` by the law fitted to all that were measured,
    `left_out` by the law fitted to all others, in the benchmark's own unit.
    """

    run: str
    benchmark: str
    representation: str
    a: float
    c: float
    unit_a: float
    unit_c: float
    value: float
    predicted: float
    left_out: float


def print_laws(laws: "pd.DataFrame", groups: "pd.DataFrame", console: Console | None = None) -> None:
    """One row a benchmark and one a group; then what may be said of each group."""
    console, laws, groups = console or screen(), escaped(laws), escaped(groups)
    first = laws.iloc[0]
    view = Table(
        title=f"{first.table}: performance as a quadratic in {first.a} and {first.c}",
        caption="R²: in sample / each point predicted by the others; adj: of A and C, adjusted; rank: Spearman of "
        "what A and C predict of points left out; random: mean R² of as many random scores",
        collapse_padding=True,
    )
    view.add_column("benchmark", no_wrap=True)
    for name in ("n", *SHOWN.values(), "adj", "rank", "random"):
        view.add_column(name, justify="right", no_wrap=True)
    for name, rows in laws.groupby("benchmark", sort=False):
        view.add_row(str(name), str(rows.n.iloc[0]), *_cells(rows))
    view.add_section()
    for name, rows in groups.groupby("group", sort=False):
        view.add_row(f"{name}, mean", "", *_cells(rows))
    console.print(view)
    for line in (*_groups(groups, first.a), *_few(laws)):
        console.print(line, highlight=False)


def _cells(rows: "pd.DataFrame") -> Iterator[str]:
    of = {row.model: row for row in rows.itertuples()}
    yield from (f"{_short(of[model].r2)}/{_short(of[model].r2_left_out)}" for model in SHOWN)
    numbers = (of[LAW].r2_adjusted, of[LAW].rank_left_out, of[RANDOM].r2)
    yield from ("" if value != value else _short(value) for value in numbers)


def _short(value: float) -> str:
    """For a table that fits 80 columns: `.95`, `-.13`."""
    return r2(value, 2).replace("0.", ".", 1)


def r2(value: float, digits: int = 3) -> str:
    """How far it lies below nothing says nothing."""
    return f"{value:.{digits}f}" if value > -1 else "< -1"


def _groups(groups: "pd.DataFrame", a: str) -> Iterator[str]:
    """Does C help to predict what was not fitted?"""
    for name, rows in groups.groupby("group", sort=False):
        of = {row.model: row for row in rows.itertuples()}
        law, alone = of[LAW].r2_left_out, of[A_ALONE].r2_left_out
        gain = law - max(alone, 0)
        found = f"adds {gain:.3f}" if gain > 0 else "adds nothing"
        yield (
            f"{name}: R² of A and C is {r2(of[LAW].r2)} in sample, {r2(law)} left out, of A alone {r2(alone)} left "
            f"out: C {found} out of sample with {a}"
        )


def _few(laws: "pd.DataFrame") -> Iterator[str]:
    """One left out of seven leaves six."""
    few = laws[(laws.model == LAW) & (laws.n <= COEFFICIENTS + 1)]
    for row in few.itertuples():
        yield (
            f"{row.benchmark}: {row.n} representations are too few: the law passes through any {COEFFICIENTS}, "
            "whatever was measured"
        )
