"""report.html of the commands that compare layers, `geometry`, `fidelity` and `align`, from their own files."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mllm_probe.paths import RunPaths
from mllm_probe.report.alignment import QUESTIONS, alignment_view, curves
from mllm_probe.report.alignments import STYLES
from mllm_probe.report.charts import Chart, geometry_charts, site_chart
from mllm_probe.report.colours import COLOURS
from mllm_probe.report.fidelity import HOME, MODEL, agreement_view, curve, headline, lost
from mllm_probe.report.figures import positions
from mllm_probe.report.geometry import relation_views
from mllm_probe.report.other_page import Part, known_command, picture_uri, write_other

if TYPE_CHECKING:
    import pandas as pd

DASHES = "dot", "solid"


def geometry_page(paths: RunPaths, table: "pd.DataFrame") -> None:
    """How alike the layers of a model are, a heat map a measure and position."""
    model = table.model.iloc[0]
    figure, views = picture_uri(paths.heatmaps("png")), relation_views(table)
    parts = [Part("Layers against layers", (), list(geometry_charts(table)), figure, views)]
    about = [f"one prompt of each of {int(table.n.max())} pictures"]
    title = f"{model}: how its layers lie to each other"
    write_other(paths.page, "mllm-probe geometry", title, about, parts, known_command(paths))


def fidelity_page(paths: RunPaths, table: "pd.DataFrame") -> None:
    """What a model differs by from its reference, in words first."""
    first = table.iloc[0]
    views = [agreement_view(table[table.position == position], position) for position in positions(table)]
    figure = picture_uri(paths.precision("png"))
    parts = [
        Part("What differs", list(lost(table))),
        Part("Layer by layer", (), list(_probe_charts(table)), figure, views),
    ]
    title = f"{first.model}: {first.quantization} against {first.reference}"
    about = [f"{first.task} on {first.dataset}"]
    write_other(paths.page, "mllm-probe fidelity", title, about, parts, known_command(paths))


def _probe_charts(table: "pd.DataFrame") -> Iterator[Chart]:
    """The scores of probes on both sides, a chart a position."""
    for position in positions(table):
        here = table[table.position == position]
        lines = [
            (name, curve(here, *sides).rename(columns={"measure": "metric"}), colour, "solid")
            for name, sides, colour in (("reference", HOME, COLOURS[0]), ("model", (MODEL, MODEL), COLOURS[1]))
        ]
        if found := [line for line in lines if len(line[1])]:
            yield site_chart(f"{headline(table)} at {position}".replace("_", " "), found)


def alignment_page(paths: RunPaths, table: "pd.DataFrame") -> None:
    """How well pictures and captions match that are read alone, a chart a question."""
    first = table.iloc[0]
    figure = picture_uri(paths.alignments("png"))
    parts = [Part("Layer by layer", (), list(_question_charts(table)), figure, [alignment_view(table)])]
    title = f"{first.model} ({first.quantization}): where pictures and captions meet"
    about = [f"pictures and captions of {first.dataset}, read alone"]
    write_other(paths.page, "mllm-probe align", title, about, parts, known_command(paths))


def _question_charts(table: "pd.DataFrame") -> Iterator[Chart]:
    """A colour a position and kind of states, a dash where sequences are compared more simply."""
    for question in QUESTIONS:
        named = list(curves(question.rows(table)))
        kinds = list(dict.fromkeys((features, position) for (features, _, position), _ in named))
        colour = dict(zip(kinds, COLOURS * 9, strict=False))
        lines = [
            (f"{position}, {features}, {how}", rows, colour[features, position], DASHES[STYLES[how] == "-"])
            for (features, how, position), rows in named
        ]
        if lines:
            yield site_chart(question.name, lines)
