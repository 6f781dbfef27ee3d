"""What `vision fit` ends with: a table, and in words what the fits are worth. Fits nothing."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mllm_probe.report.terminal.printing import escaped, framed, say
from mllm_probe.vision.law import A_ALONE, C_ALONE, COEFFICIENTS, LAW, LINEAR, RANDOM

if TYPE_CHECKING:
    import pandas as pd


SHOWN = {LAW: "A and C", A_ALONE: "A alone", C_ALONE: "C alone", LINEAR: "linear"}


def print_laws(laws: "pd.DataFrame", groups: "pd.DataFrame", console: Console | None = None) -> None:
    """One row a benchmark and one a group; then what may be said of each group."""
    say(console, _view(escaped(laws), escaped(groups)), *_groups(groups, laws.a.iloc[0]), *_few(laws))


def _view(laws: "pd.DataFrame", groups: "pd.DataFrame") -> Table:
    first = laws.iloc[0]
    view = framed(
        f"{first.table}: performance as a quadratic in {first.a} and {first.c}",
        ["benchmark"],
        ("n", *SHOWN.values(), "adj", "rank", "random"),
        caption="R²: in sample / each point predicted by the others; adj: of A and C, adjusted; rank: Spearman of "
        "what A and C predict of points left out; random: mean R² of as many random scores",
        collapse_padding=True,
    )
    for name, rows in laws.groupby("benchmark", sort=False):
        view.add_row(str(name), str(rows.n.iloc[0]), *_cells(rows))
    view.add_section()
    for name, rows in groups.groupby("group", sort=False):
        view.add_row(f"{name}, mean", "", *_cells(rows))
    return view


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
            f"{name}: R² of A and C: {r2(of[LAW].r2)} in sample, {r2(law)} left out; of A alone: {r2(alone)} left "
            f"out; C {found} out of sample ({a})"
        )


def _few(laws: "pd.DataFrame") -> Iterator[str]:
    """One left out of seven leaves six."""
    few = laws[(laws.model == LAW) & (laws.n <= COEFFICIENTS + 1)]
    for row in few.itertuples():
        yield (f"{row.benchmark}: {row.n} representations are too few: the law fits any {COEFFICIENTS} points exactly")
