"""report.html of `run task=regions`, from its own files: in words first, then layer by layer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import THUMBS
from mllm_probe.files.paths import RunPaths
from mllm_probe.report.html.charts import Chart, site_chart
from mllm_probe.report.html.pictured.under_tokens import viewer_of
from mllm_probe.report.html.pieces import Part, known_command, picture_uri, write_other
from mllm_probe.report.tables.regions import Line, Panel, panels
from mllm_probe.report.terminal.layers.regions import regions_view
from mllm_probe.spatial.grid_file import RegionGrids

if TYPE_CHECKING:
    import pandas as pd


def regions_page(
    paths: RunPaths,
    table: "pd.DataFrame",
    summary: Mapping[str, Any],
    grids: RegionGrids | None = None,
    pictures: str = THUMBS,
) -> None:
    """The sentences, the charts, the table, and pictures to be looked at; `pictures` as in ReportSettings."""
    first = table.iloc[0]
    charts = [panel_chart(panel, table) for panel in panels(table)]
    parts = [
        Part("What was found", list(summary.get("said", ()))),
        Part("Layer by layer", (), charts, picture_uri(paths.places("png")), [regions_view(table)]),
    ]
    if grids is not None and grids.pictures:
        said = [
            "Test pictures with the most objects, and what the probe of the first seed says at every token, of objects "
            "that are there and of some that are not."
        ]
        parts.insert(1, Part("Look", said, viewer=viewer_of(grids, paths.root, pictures, "probe")))
    title = f"{first.model} ({first.quantization}): where in the picture"
    about = [f"single tokens of {summary.get('pictures', '')} pictures of {first.dataset}"]
    write_other(paths.page, "mllm-probe run task=regions", title, about, parts, known_command(paths))


def panel_chart(panel: Panel, table: "pd.DataFrame") -> Chart:
    """The curves of a panel, its name at the axis of values."""
    found = site_chart(panel.name, [(line.label, _placed(line, table), line.colour, line.dash) for line in panel.lines])
    found["layout"]["yaxis"]["title"] = {"text": panel.name}
    return found


def _placed(line: Line, table: "pd.DataFrame") -> "pd.DataFrame":
    """A floor stands at every site."""
    if not line.floor:
        return line.rows
    sites = table[table.site != ""].drop_duplicates("site")[["site", "tower", "layer", "part", "depth"]]
    same = line.rows.iloc[0].drop(["site", "tower", "layer", "part", "depth"])
    return sites.assign(**same)
