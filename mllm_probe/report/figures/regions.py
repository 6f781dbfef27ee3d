"""regions.png and regions.pdf: what single picture tokens know, layer by layer. Reads the table of regions.csv only."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.report.figures.geometry import in_order, name_sites
from mllm_probe.report.figures.layers import legend_below
from mllm_probe.report.figures.saving import save
from mllm_probe.report.figures.style import COLUMN, STYLES, wrapped
from mllm_probe.report.tables.regions import Line, Panel, panels

if TYPE_CHECKING:
    import pandas as pd

PANEL, HEIGHT = 3.3, 3.6  # inches
DASHES = {"solid": "-", "dash": (0, (4, 2)), "dot": ":"}


def draw_regions(table: "pd.DataFrame", paths: Sequence[Path], settings: ReportSettings = DEFAULT) -> str:
    """A panel a question, a line for the probe and one for each control."""
    return draw_panels(list(panels(table)), "Where in the picture", table, paths, settings)


def draw_panels(
    found: Sequence[Panel], title: str, table: "pd.DataFrame", paths: Sequence[Path], settings: ReportSettings
) -> str:
    """Panels of a table side by side, for a paper's column one below the other."""
    from matplotlib.figure import Figure

    look = STYLES[settings.style]
    across = 1 if look.paper else len(found)
    down = -(-len(found) // across)
    size = (COLUMN, 2.2 * down + 0.6) if look.paper else (max(6.0, PANEL * across + 0.6), HEIGHT + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    sites = in_order(set(table.site) - {""})
    for axis, panel in zip(axes, found, strict=True):
        for line in panel.lines:
            _draw(axis, line, sites)
        if panel.level is not None:
            axis.axhline(panel.level, color="0.45", linewidth=0.8)
        name_sites(axis, sites)
        axis.set_title(wrapped(panel.name, size[0] / across - 0.3, look.text), fontsize=look.text)
    first = table.iloc[0]
    figure.suptitle(f"{title}: {first.model} ({first.quantization}) on {first.dataset}", fontsize=look.title)
    legend_below(figure, list(axes), width=look.entry, size=look.small if look.paper else 9)
    return save(figure, paths, settings)


def _draw(axis: Any, line: Line, sites: Sequence[str]) -> None:
    """Towers are not joined to each other; a floor runs through."""
    style = {"color": line.colour, "linestyle": DASHES[line.dash], "linewidth": 1.3}
    if line.floor:
        axis.axhline(line.rows.value.iloc[0], label=line.label, **style)
        return
    for _, rows in line.rows.groupby("tower", sort=False):
        x = [sites.index(site) for site in rows.site]
        axis.plot(x, rows.value, marker="o", markersize=2.5, label=line.label, **style)
        axis.fill_between(x, rows.low, rows.high, color=line.colour, alpha=0.15, linewidth=0)
