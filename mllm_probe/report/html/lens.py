"""report.html of `lens`, from its own files: in words first, then layer by layer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mllm_probe.files.paths import RunPaths
from mllm_probe.report.html.pieces import Part, known_command, picture_uri, write_other
from mllm_probe.report.html.regions import panel_chart
from mllm_probe.report.tables.lens import lens_panels
from mllm_probe.report.terminal.layers.lens import lens_views

if TYPE_CHECKING:
    import pandas as pd


def lens_page(paths: RunPaths, table: "pd.DataFrame", summary: Mapping[str, Any]) -> None:
    """The sentences, the charts, the table."""
    first = table.iloc[0]
    charts = [panel_chart(panel, table) for panel in lens_panels(table)]
    parts = [
        Part("What was found", list(summary.get("said", ()))),
        Part("Layer by layer", (), charts, picture_uri(paths.lens("png")), lens_views(table)),
    ]
    title = f"{first.model} ({first.quantization}): the words that picture tokens stand for"
    about = [f"single tokens of {summary.get('pictures', '')} pictures of {first.dataset}"]
    write_other(paths.page, "mllm-probe lens", title, about, parts, known_command(paths))
