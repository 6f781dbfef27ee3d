"""report.html of `lens lens=[attention]`, from its own files: in words first, then layer by layer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import THUMBS
from mllm_probe.files.paths import RunPaths
from mllm_probe.report.html.pictured.regions import panel_chart
from mllm_probe.report.html.pictured.under_tokens import viewer_of
from mllm_probe.report.html.pieces import Part, known_command, picture_uri, write_other
from mllm_probe.report.tables.attention import attention_panels
from mllm_probe.report.terminal.layers.attention import attention_views
from mllm_probe.spatial.grid_file import RegionGrids

if TYPE_CHECKING:
    import pandas as pd


def attention_page(
    paths: RunPaths,
    table: "pd.DataFrame",
    summary: Mapping[str, Any],
    grids: RegionGrids | None = None,
    pictures: str = THUMBS,
) -> None:
    """The sentences, the charts, the tables, and pictures under their maps; `pictures` as in ReportSettings."""
    first = table.iloc[0]
    whole = table.assign(part="block")  # a dash that tells parts apart would hide what tells curves apart
    charts = [panel_chart(panel, whole) for panel in attention_panels(whole)]
    figure = picture_uri(paths.lens("png", "attention"))
    parts = [
        Part("What was found", list(summary.get("said", ()))),
        Part("Layer by layer", (), charts, figure, attention_views(table)),
    ]
    if grids is not None and grids.pictures:
        said = ["Test pictures, and where the statements about them look, block by block."]
        parts.insert(1, Part("Look", said, viewer=viewer_of(grids, paths.root, pictures, "attention")))
    title = f"{first.model} ({first.quantization}): where statements look"
    about = [
        f"{summary.get('statements', '')} statements about {summary.get('pictures', '')} pictures of {first.dataset}"
    ]
    write_other(paths.page, "mllm-probe lens", title, about, parts, known_command(paths))
