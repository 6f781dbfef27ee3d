"""The curves of regions.csv, chosen and named once for figure, page and terminal."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mllm_probe.config.sweep import RANDOM, drawn_from
from mllm_probe.report.figures.style import BLUE, CHANCE, DASHES, GREEN, ORANGE, PINK, SKY, YELLOW
from mllm_probe.results.regions import (
    A_IN,
    A_OUT,
    ALL,
    AUROC,
    AVERAGE_PRECISION,
    BETWEEN,
    COLOUR,
    FEW,
    LOCALITY,
    MIOU,
    POSITION,
    WHOLE,
    WITHIN,
)

if TYPE_CHECKING:
    import pandas as pd

LABELS = {
    WITHIN: "labels exchanged within a picture",
    BETWEEN: "labels of another picture",
    RANDOM: "random weights",
    POSITION: "its place alone",
    COLOUR: "its colour alone",
}
OWN = {WITHIN: YELLOW, BETWEEN: SKY, RANDOM: DASHES[RANDOM][0], POSITION: CHANCE, COLOUR: PINK}
HEADS = {
    AVERAGE_PRECISION: "average precision",
    AUROC: "AUROC",
    MIOU: "mIoU",
    A_IN: "A_in",
    A_OUT: "A_out",
    LOCALITY: "locality",
}


@dataclass(frozen=True)
class Line:
    """A curve over sites; or a floor, one row without a site."""

    label: str
    rows: "pd.DataFrame"
    colour: str
    dash: str = "solid"

    @property
    def floor(self) -> bool:
        return not self.rows.site.iloc[0]


@dataclass(frozen=True)
class Panel:
    """Lines of one axis; `level` is a value that is worth a line of its own."""

    name: str
    lines: Sequence[Line]
    level: float | None = None


def panels(table: "pd.DataFrame") -> Iterator[Panel]:
    """What a token shows of its own place; who knows that an object is there; how local that is."""
    mean = table[(table.seed == ALL) & (table.view == "") & (table.distance == "") & table.value.notna()]
    for metric in (AVERAGE_PRECISION, MIOU):
        if found := list(_place(mean[mean.metric == metric])):
            yield Panel(f"{HEADS[metric]} of what covers a token", found)
    known = [
        Line(label, rows, colour)
        for metric, label, colour in ((A_IN, "from a token inside", BLUE), (A_OUT, "from far away", ORANGE))
        if len(rows := mean[(mean.metric == metric) & (mean.control == "") & (mean.site != "")])
    ]
    if known:
        floors = mean[(mean.metric == A_OUT) & mean.control.isin([POSITION, COLOUR])]
        known += [
            Line(f"from far away, by {LABELS[name]}", own, OWN[name], "dot")
            for name, own in floors.groupby("control", sort=False)
        ]
        yield Panel("AUROC of what is in the picture", known, 0.5)
    rows = mean[(mean.metric == LOCALITY) & (mean.control == "") & (mean.site != "")]
    if len(rows):
        yield Panel("locality: 1 only there, 0 everywhere", [Line("locality", rows, GREEN)], 0.5)


def _place(rows: "pd.DataFrame") -> Iterator[Line]:
    for training, label, dash in ((WHOLE, "probe", "solid"), (FEW, "probe, five pictures a category", "dash")):
        if len(own := rows[(rows.control == "") & (rows.training == training) & (rows.site != "")]):
            yield Line(label, own, BLUE, dash)
    kinds = rows.control.map(drawn_from)
    for kind, label in LABELS.items():
        for _, own in rows[kinds == kind].groupby("control", sort=False):
            yield Line(label, own, OWN[kind], "dot")


def by_site(table: "pd.DataFrame") -> dict[str, Mapping[str, Any]]:
    """{site: {metric: its row}} of the real labels, all pictures in training."""
    own = table[(table.seed == ALL) & (table.view == "") & (table.distance == "") & (table.control == "")]
    own = own[(own.training == WHOLE) & (own.site != "")]
    return {site: {row.metric: row for row in rows.itertuples()} for site, rows in own.groupby("site", sort=False)}
