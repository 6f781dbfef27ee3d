"""regions.png and regions.pdf: what single picture tokens know, layer by layer, from the table of regions.csv alone.
grids.png and grids.pdf: where the probe of some layers sees an object in some test pictures, which are read from the
data set's folder, and left out where they are gone or have changed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.data.pictures import open_rgb
from mllm_probe.files.digests import file_digest
from mllm_probe.report.figures.geometry import in_order, name_sites
from mllm_probe.report.figures.layers import legend_below
from mllm_probe.report.figures.saving import save
from mllm_probe.report.figures.style import BLUE, COLUMN, ORANGE, PAGE, STYLES, wrapped
from mllm_probe.report.tables.regions import Line, Panel, panels
from mllm_probe.spatial.grid_file import PictureGrid, RegionGrids, as_numbers

if TYPE_CHECKING:
    import pandas as pd

PANEL, HEIGHT = 3.3, 3.6  # inches
ROWS, ACROSS = 4, 6  # pictures, and layers at even distances
CELL = 1.35  # inches
GRIDS = "Where the probe of a layer sees an object (blue), and where it is (orange)"
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


def draw_grids(
    grids: RegionGrids, run: Path, paths: Sequence[Path], settings: ReportSettings = DEFAULT, title: str = GRIDS
) -> str:
    """A line a picture, of the first thing that is said of it; a column a layer. Blue: the probe says yes, or attention
    lies there; orange: the mask."""
    from matplotlib.figure import Figure

    found = [(one, path) for one in grids.pictures if (path := _there(one, run / grids.folder)) is not None][:ROWS]
    if not found:
        return "no figure of grids: the pictures are not where they were"
    look, columns = STYLES[settings.style], _spread(len(grids.sites))
    width = PAGE if look.paper else CELL * len(columns) + 0.6
    figure = Figure(figsize=(width, width / len(columns) * len(found) + 0.5), layout="constrained")
    panels = figure.subplots(len(found), len(columns), squeeze=False)
    for (one, path), line in zip(found, panels, strict=True):
        pixels, name = np.asarray(open_rgb(path)), next(iter(one.said))
        for axis, column in zip(line, columns, strict=True):
            axis.imshow(pixels, extent=(0, 1, 1, 0), aspect="auto")
            _paint(axis, one, name, column, grids.yes)
        line[0].set_ylabel(wrapped(name, CELL, look.small), fontsize=look.small)
    for axis, column in zip(panels[0], columns, strict=True):
        axis.set_title(grids.sites[column], fontsize=look.small)
    figure.suptitle(wrapped(title, width - 0.3, look.text), fontsize=look.text)
    return save(figure, paths, settings)


def _there(one: PictureGrid, folder: Path) -> Path | None:
    path = folder / one.picture.path
    return path if path.is_file() and file_digest(path) == one.picture.digest else None


def _spread(sites: int) -> list[int]:
    return sorted(set(np.linspace(0, sites - 1, min(ACROSS, sites)).round().astype(int).tolist()))


def _paint(axis: Any, one: PictureGrid, name: str, site: int, least: int) -> None:
    """The first view, which is the only one of most models; `least` is the byte from which on a token is said."""
    from matplotlib.patches import Rectangle

    said, faint = as_numbers(one.said[name][site]), 0.25 if least else 0.0
    covered = as_numbers(one.covered[name]) if name in one.covered else np.zeros(len(said))
    for (left, top, right, bottom), view, yes, share in zip(one.cells, one.views, said, covered, strict=True):
        if view != min(one.views):
            continue
        at = (left, top), right - left, bottom - top
        if yes >= max(least, 1):
            strength = faint + (0.75 - faint) * (float(yes) - least) / (255 - least)
            axis.add_patch(Rectangle(*at, facecolor=BLUE, alpha=strength, linewidth=0))
        if share >= 127.5:
            axis.add_patch(Rectangle(*at, fill=False, edgecolor=ORANGE, linewidth=1.0))
    axis.set_xlim(0, 1)
    axis.set_ylim(1, 0)
    axis.set_xticks([])
    axis.set_yticks([])
