"""The shape of a curve: as bars in one line of text, and in words from the rows of tests.csv they rest on: `shape`,
`contender`, `equivalence`, `plateau` and `above_chance` at one position. Tests nothing again."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mllm_probe.records import units
from mllm_probe.records.score import BY_DESIGN
from mllm_probe.records.sites import Site, listed
from mllm_probe.stats.peak import FALLING, FLAT, NOTHING, PEAK, PLATEAU, RISING, UNDECIDED

if TYPE_CHECKING:
    import pandas as pd

EQUAL = {FLAT: ("equivalence",), PLATEAU: ("plateau",), UNDECIDED: ("equivalence", "plateau")}  # told with each word
BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-:=+*#"  # where the encoding of the output has no blocks
GAP = 2  # columns between two cells


def shape_said(here: "pd.DataFrame", blocks: Sequence[str], margin: str) -> str:
    """`a peak at lm.04 to lm.06`, `flat within 1 point`; here: the rows of a position, blocks from the bottom up."""
    row = next(here[here.test == "shape"].itertuples())
    among = list(here.site[(here.test == "contender") & (here.verdict != "")])
    return {
        NOTHING: "nothing above chance",
        FLAT: f"flat within {margin}",
        PEAK: f"a peak at {listed(among, blocks)}" if len(among) == 1 else f"a peak at one of {listed(among, blocks)}",
        PLATEAU: f"a plateau from {row.site} to {row.other}",
        RISING: f"rising to the top block compared, {blocks[-1]}",
        FALLING: f"falling from the bottom block compared, {blocks[0]}",
    }.get(row.verdict, "undecided")


def shape_why(here: "pd.DataFrame", blocks: Sequence[str], margin: str) -> Iterator[str]:
    """The tests behind the word, or what an undecided curve lacks."""
    word = next(here[here.test == "shape"].itertuples()).verdict
    chance = here[(here.test == "above_chance") & here.site.isin(blocks)]
    if word == NOTHING:
        tested = int(chance.p_adjusted.notna().sum())
        yield f"none of the {tested} tested blocks is above chance, smallest {p_said(chance.p_adjusted.min())}"
        return
    contends = here[here.test == "contender"].set_index("site")
    if word in (RISING, FALLING):
        yield f"no other block may be the best, largest {p_said(contends[contends.verdict == ''].p_value.max())}"
    elif word != FLAT:
        yield from _ends(here, contends, blocks)
    for row in here[here.test.isin(EQUAL.get(word, ()))].itertuples():
        ends = f"{blocks[0]} to {blocks[-1]}" if row.test == "equivalence" else f"{row.site} to {row.other}"
        if row.test == "plateau" and word == UNDECIDED and (row.site, row.other) == (blocks[0], blocks[-1]):
            continue  # told of all blocks
        shown = "" if row.verdict else "not shown to be "
        yield f"{ends}: {shown}within {margin} of each other, {p_said(row.p_value)}"
    among = contends.index[contends.verdict != ""]
    if len(chance) and not beyond(chance[chance.site.isin(among)]).any():
        yield "none of the blocks that may be the best is above chance"
    if chance.empty:
        yield "no block could be tested against chance"


def _ends(here: "pd.DataFrame", contends: "pd.DataFrame", blocks: Sequence[str]) -> Iterator[str]:
    """May the bottom and the top block be the best; of one that is `by design` this is known without a test."""
    known = sorted(Site.parse(site) for site in here.site[(here.test == "above_chance") & (here.verdict == BY_DESIGN)])
    known = [site for site in known if (site.tower, site.part) == ("lm", "block")]
    for end, place in (("bottom", 0), ("top", -1)):
        row = contends.loc[blocks[place]]
        outer = sorted([*known, Site.parse(row.name)])[place]
        if outer in known:
            yield f"the {end} block read, {outer}, is at chance by design"
        else:
            verdict = "may be" if row.verdict else "is not"
            yield f"the {end} block compared, {row.name}, {verdict} the best, {p_said(row.p_value)}"


def beyond(rows: "pd.DataFrame") -> "pd.Series[bool]":
    """Which rows of a test against chance, another floor or a covariate found a layer above it."""
    return rows.verdict.isin(("above chance", "above the best constant answer", "beyond the covariate"))


def p_said(p: float) -> str:
    """No p is 0; what was not tested has none."""
    if p != p:
        return "not tested"
    return "p\u00a0<\u00a00.0001" if p < 1e-4 else f"p\u00a0=\u00a0{p:.2g}"


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
