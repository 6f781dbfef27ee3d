"""report.html of `lens`, from its own files: in words first, then layer by layer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import THUMBS
from mllm_probe.files.paths import RunPaths
from mllm_probe.report.html.pictured.regions import panel_chart
from mllm_probe.report.html.pictured.under_tokens import words_viewer
from mllm_probe.report.html.pieces import Part, known_command, picture_uri, write_other
from mllm_probe.report.tables.lens import lens_panels
from mllm_probe.report.terminal.layers.lens import lens_views
from mllm_probe.results.lenses.lens import load_words
from mllm_probe.spatial.grid_file import load_grids

if TYPE_CHECKING:
    import pandas as pd


def lens_page(paths: RunPaths, table: "pd.DataFrame", summary: Mapping[str, Any], pictures: str = THUMBS) -> None:
    """The sentences, the charts, the table, and the words of every token of some pictures; `pictures` as in
    ReportSettings."""
    first = table.iloc[0]
    charts = [panel_chart(panel, table) for panel in lens_panels(table)]
    parts = [
        Part("What was found", list(summary.get("said", ()))),
        Part("Layer by layer", (), charts, picture_uri(paths.lens("png")), lens_views(table)),
    ]
    grids, words = load_grids(paths.grids()), paths.lens(of="words")
    if grids is not None and grids.pictures and words.is_file():
        said = ["Test pictures, and the nearest words of every token that was read of them, the nearest first."]
        viewer = words_viewer(grids, load_words(words), paths.root, pictures)
        parts.insert(1, Part("Look", said, viewer=viewer))
    title = f"{first.model} ({first.quantization}): the words that picture tokens stand for"
    about = [f"single tokens of {summary.get('pictures', '')} pictures of {first.dataset}"]
    write_other(paths.page, "mllm-probe lens", title, about, parts, known_command(paths))
