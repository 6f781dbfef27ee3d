"""report.html of the commands that compare layers, `geometry`, `fidelity` and `align`, from their own files."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mllm_probe.files.paths import RunPaths
from mllm_probe.report.figures.align import STYLES
from mllm_probe.report.figures.style import SIDES, of_positions
from mllm_probe.report.html.charts import Chart, geometry_charts, site_chart
from mllm_probe.report.html.pieces import Part, known_command, picture_uri, write_other
from mllm_probe.report.terminal.layers.align import alignment_view
from mllm_probe.report.terminal.layers.fidelity import agreement_view, lost
from mllm_probe.report.terminal.layers.geometry import relation_views
from mllm_probe.results.align import QUESTIONS, curves
from mllm_probe.results.fidelity import HOME, MODEL, curve, headline
from mllm_probe.results.selection import positions

if TYPE_CHECKING:
    import pandas as pd

DASHES = {  # of states that are so, compared as the figure has it with intervals, or more simply
    ("centred", True): "solid",
    ("centred", False): "dot",
    ("mapped", True): "dash",
    ("mapped", False): "dashdot",
}


def geometry_page(paths: RunPaths, table: "pd.DataFrame") -> None:
    """How alike the layers of a model are, a heat map a measure and position."""
    model = table.model.iloc[0]
    figure, views = picture_uri(paths.heatmaps("png")), relation_views(table)
    parts = [Part("Layers against layers", (), list(geometry_charts(table)), figure, views)]
    about = [f"one prompt of each of {int(table.n.max())} pictures"]
    title = f"{model}: similarity of its layers"
    write_other(paths.page, "mllm-probe geometry", title, about, parts, known_command(paths))


def fidelity_page(paths: RunPaths, table: "pd.DataFrame") -> None:
    """What a model differs by from its reference, in words first."""
    first = table.iloc[0]
    views = [agreement_view(table[table.position == position], position) for position in positions(table)]
    figure = picture_uri(paths.precision("png"))
    parts = [
        Part("Differences", list(lost(table))),
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
            (name, curve(here, *sides).rename(columns={"measure": "metric"}), SIDES[sides], "solid")
            for name, sides in (("reference", HOME), ("model", (MODEL, MODEL)))
        ]
        if found := [line for line in lines if len(line[1])]:
            yield site_chart(f"{headline(table)} at {position}".replace("_", " "), found)


def alignment_page(paths: RunPaths, table: "pd.DataFrame") -> None:
    """How well pictures and captions match that are read alone, a chart a question."""
    first = table.iloc[0]
    figure = picture_uri(paths.alignments("png"))
    parts = [Part("Layer by layer", (), list(_question_charts(table)), figure, [alignment_view(table)])]
    title = f"{first.model} ({first.quantization}): similarity of pictures and captions"
    about = [f"pictures and captions of {first.dataset}, read separately"]
    write_other(paths.page, "mllm-probe align", title, about, parts, known_command(paths))


def _question_charts(table: "pd.DataFrame") -> Iterator[Chart]:
    """A colour a position; dashes say what the states are and how sequences are compared."""
    for question in QUESTIONS:
        named = list(curves(question.rows(table)))
        colour = of_positions(list(dict.fromkeys(position for (_, _, position), _ in named)))
        lines = [
            (f"{position}, {features}, {how}", rows, colour[position], DASHES[features, STYLES[how] == "-"])
            for (features, how, position), rows in named
        ]
        if lines:
            yield site_chart(question.name, lines)
