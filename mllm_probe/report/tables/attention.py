"""The curves of attention.csv, chosen and named once for figure, page and terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mllm_probe.config.sweep import RANDOM, drawn_from
from mllm_probe.report.figures.style import BLUE, CHANCE, DASHES, GREEN, ORANGE, PINK, SKY
from mllm_probe.report.tables.regions import Line, Panel
from mllm_probe.results.lenses.attention import AREA, LAST, NEUTRAL, OBJECT, OWN, PICTURE, RELATIVE, SPANS, STATEMENT

if TYPE_CHECKING:
    import pandas as pd

SPAN_CALLED = {STATEMENT: "the statement's tokens", LAST: "the last token"}
MAPS = {  # {map: (what it is called, colour, dash)}
    OWN: ("attention", BLUE, "solid"),
    RELATIVE: ("relative to a neutral question", ORANGE, "solid"),
    NEUTRAL: ("of the neutral question", GREEN, "dash"),
}


def attention_panels(table: "pd.DataFrame") -> Iterator[Panel]:
    """How much lies on the picture; then for each span how much of that lies on the object."""
    whole = table[table["head"].isna()]
    lines = []
    for span, colour in zip(SPANS, (SKY, PINK), strict=True):
        rows = whole[(whole.metric == PICTURE) & (whole.position == span)]
        lines.append(Line(SPAN_CALLED[span], rows[rows.control == ""], colour))
        if len(drawn := _random(rows)):
            lines.append(Line(f"{SPAN_CALLED[span]}, random weights", drawn, colour, "dot"))
    yield Panel("attention that lies on the picture", lines)
    for span in SPANS:
        rows = whole[(whole.metric == OBJECT) & (whole.position == span)]
        if len(rows):
            yield Panel(f"of it, on the object: {SPAN_CALLED[span]}", list(_on_object(rows, whole)))


def _on_object(rows: "pd.DataFrame", table: "pd.DataFrame") -> Iterator[Line]:
    for name, (label, colour, dash) in MAPS.items():
        own = rows[(rows.kind == name) & (rows.control == "")]
        if len(own):
            yield Line(label, own, colour, dash)
    if len(drawn := _random(rows[rows.kind == OWN])):
        yield Line("attention, random weights", drawn, DASHES[RANDOM][0], "dot")
    area = table[(table.metric == AREA) & (table.control == "")]
    if len(area):
        yield Line("the object's share of the picture", area, CHANCE, "dot")


def _random(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Of the first draw alone."""
    drawn = rows[rows.control.map(drawn_from) == RANDOM]
    return drawn[drawn.control == drawn.control.iloc[0]] if len(drawn) else drawn
