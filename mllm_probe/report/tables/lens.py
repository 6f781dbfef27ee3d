"""The curves of lens.csv, chosen and named once for figure, page and terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mllm_probe.config.sweep import RANDOM, drawn_from
from mllm_probe.report.figures.style import BLUE, CHANCE, DASHES, GREEN, ORANGE
from mllm_probe.report.tables.regions import Line, Panel
from mllm_probe.results.lenses.lens import ELSEWHERE, EXCHANGED, LOCAL, OBJECTS, PRESENCE

if TYPE_CHECKING:
    import pandas as pd

HEADS = {  # {(metric, top): what it is called}
    (LOCAL, 1): ("local, nearest word", BLUE, "solid"),
    (LOCAL, 5): ("local, nearest five", BLUE, "dash"),
    (ELSEWHERE, 1): ("elsewhere, nearest word", ORANGE, "solid"),
}


def lens_panels(table: "pd.DataFrame") -> Iterator[Panel]:
    """A panel a lens, of tokens on objects; then what confidence tells of a picture."""
    for lens, own in table[table.tokens == OBJECTS].groupby("lens", sort=False):
        if lines := list(_lines(own)):
            yield Panel(f"{lens} lens: share of tokens on objects", lines)
    rows = table[(table.metric == PRESENCE) & (table.site != "")]
    if len(rows):
        kinds = (
            ("model", rows[rows.control == ""], GREEN, "solid"),
            ("random weights", _random(rows), DASHES[RANDOM][0], "dot"),
        )
        found = [Line(label, own, colour, dash) for label, own, colour, dash in kinds if len(own)]
        yield Panel("AUROC of what is in the picture, by confidence", found, 0.5)


def _lines(rows: "pd.DataFrame") -> Iterator[Line]:
    for (metric, top), (label, colour, dash) in HEADS.items():
        own = rows[(rows.metric == metric) & (rows.top == top)]
        if len(real := own[own.control == ""]):
            yield Line(label, real, colour, dash)
    for label, top in (("local by chance, nearest word", 1), ("local by chance, nearest five", 5)):
        luck = rows[(rows.metric == LOCAL) & (rows.top == top) & (rows.control == EXCHANGED)]
        if len(luck):
            yield Line(label, luck, CHANCE, "dot" if top == 1 else "dash")
    drawn = _random(rows[(rows.metric == LOCAL) & (rows.top == 1)])
    if len(drawn):
        yield Line("local, random weights", drawn, DASHES[RANDOM][0], "dot")


def _random(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Of the first draw alone."""
    drawn = rows[rows.control.map(drawn_from) == RANDOM]
    return drawn[drawn.control == drawn.control.iloc[0]] if len(drawn) else drawn
