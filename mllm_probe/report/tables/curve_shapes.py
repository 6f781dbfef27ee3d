"""The shape of a curve in words, from the rows of tests.csv it rests on: `shape`, `contender`, `equivalence`, `plateau`
and `above_chance` at one position. Tests nothing again.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mllm_probe.records.score import BY_DESIGN
from mllm_probe.records.sites import Site, listed
from mllm_probe.stats.peak import FALLING, FLAT, NOTHING, PEAK, PLATEAU, RISING, UNDECIDED

if TYPE_CHECKING:
    import pandas as pd


EQUAL = {FLAT: ("equivalence",), PLATEAU: ("plateau",), UNDECIDED: ("equivalence", "plateau")}  # told with each word


def shape_said(here: "pd.DataFrame", blocks: Sequence[str], margin: str) -> str:
    """`a peak at lm.04 to lm.06`, `flat within 1 point`; here: the rows of a position, blocks from the bottom up."""
    row = next(here[here.test == "shape"].itertuples())
    among = list(here.site[(here.test == "contender") & (here.verdict != "")])
    return {
        NOTHING: "nothing above chance",
        FLAT: f"flat within {margin}",
        PEAK: f"a peak at {listed(among, blocks)}" if len(among) == 1 else f"a peak at one of {listed(among, blocks)}",
        PLATEAU: f"a plateau from {row.site} to {row.other}",
        RISING: f"rising to the top, {blocks[-1]}",
        FALLING: f"falling from the bottom, {blocks[0]}",
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
            yield f"the {end} block {outer} is at chance by design"
        else:
            yield f"the {end} block {row.name} {'may be' if row.verdict else 'is not'} the best, {p_said(row.p_value)}"


def beyond(rows: "pd.DataFrame") -> "pd.Series[bool]":
    """Which rows of a test against chance, another floor or a covariate found a layer above it."""
    return rows.verdict.isin(("above chance", "above the best constant answer", "beyond the covariate"))


def p_said(p: float) -> str:
    """No p is 0; what was not tested has none."""
    if p != p:
        return "not tested"
    return "p\u00a0<\u00a00.0001" if p < 1e-4 else f"p\u00a0=\u00a0{p:.2g}"
