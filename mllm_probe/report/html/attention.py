"""report.html of `lens lens=[attention]`, from its own files: in words first, then layer by layer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mllm_probe.files.paths import RunPaths
from mllm_probe.report.html.pieces import Part, known_command, picture_uri, write_other
from mllm_probe.report.html.regions import panel_chart
from mllm_probe.report.tables.attention import attention_panels
from mllm_probe.report.terminal.layers.attention import attention_views

if TYPE_CHECKING:
    import pandas as pd


def attention_page(paths: RunPaths, table: "pd.DataFrame", summary: Mapping[str, Any]) -> None:
    """The sentences, the charts, the tables."""
    first = table.iloc[0]
    charts = [panel_chart(panel, table) for panel in attention_panels(table)]
    figure = picture_uri(paths.lens("png", "attention"))
    parts = [
        Part("What was found", list(summary.get("said", ()))),
        Part("Layer by layer", (), charts, figure, attention_views(table)),
    ]
    title = f"{first.model} ({first.quantization}): where statements look"
    about = [
        f"{summary.get('statements', '')} statements about {summary.get('pictures', '')} pictures of {first.dataset}"
    ]
    write_other(paths.page, "mllm-probe lens", title, about, parts, known_command(paths))
