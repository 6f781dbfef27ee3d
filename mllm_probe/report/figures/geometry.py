"""geometry.png and geometry.pdf: a heat map per measure and position, and a curve per layer measured alone.

Reads the table of geometry.csv only.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.report.figures.layers import TITLES as TOWERS
from mllm_probe.report.figures.saving import save
from mllm_probe.report.figures.style import of_positions

if TYPE_CHECKING:
    import pandas as pd

MAP = "cividis"  # sequential, and read alike with and without colour vision
SCALES = {"transfer": (0.5, 1.0)}  # an accuracy of two balanced classes; every similarity runs from 0 to 1
TITLES = {
    "cka": "CKA (unbiased)",
    "cka_biased": "CKA (biased)",
    "svcca": "SVCCA",
    "rsa": "RSA",
    "mutual_knn": "mutual kNN",
    "transfer": "probe transfer (accuracy)",
    "intrinsic_dimension": "intrinsic dimension (TwoNN)",
    "entropy": "matrix entropy (nats)",
}
EMPTY = "0.85"
TICKS = 12  # at most so many names along an axis
PANEL, ROW, CURVE = 2.7, 3.1, 2.3  # inches: width and height of a heat map, height of a curve


def draw_geometry(table: "pd.DataFrame", paths: Sequence[Path], settings: ReportSettings = DEFAULT) -> str:
    """Rows of panels are positions, columns are measures; below them the curves, one line a position."""
    from matplotlib.figure import Figure

    pairs, alone = table[table.site_b != ""], table[table.site_b == ""]
    rows, columns = pairs.position.nunique(), max(pairs.measure.nunique(), 1)
    heights = [height for height in (ROW * rows, CURVE * bool(len(alone))) if height]
    figure = Figure(figsize=(max(PANEL * columns, 5.0) + 1.2, sum(heights) + 0.9), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if rows:
        _draw_pairs(parts[0], pairs)
    if len(alone):
        _draw_curves(parts[-1], alone)
    figure.suptitle(f"Similarity of the layers of {table.model.iloc[0]}", fontsize=11)
    return save(figure, paths, settings)


def _draw_pairs(part: Any, pairs: "pd.DataFrame") -> None:
    positions, measures = list(dict.fromkeys(pairs.position)), list(dict.fromkeys(pairs.measure))
    panels = part.subplots(len(positions), len(measures), squeeze=False)
    for row, position in enumerate(positions):
        for column, measure in enumerate(measures):
            panel = panels[row, column]
            cells = pairs[(pairs.position == position) & (pairs.measure == measure)]
            image = _draw_panel(panel, cells, measure)
            panel.set_title(TITLES.get(measure, measure) if row == 0 else "", fontsize=9.5)
            if column == 0:
                panel.set_ylabel(position, fontsize=9.5)
            else:
                panel.set_yticklabels([])
            if row == len(positions) - 1:
                bar = part.colorbar(image, ax=panels[:, column], location="bottom", aspect=30, shrink=0.9, pad=0.01)
                bar.set_ticks([image.norm.vmin, (image.norm.vmin + image.norm.vmax) / 2, image.norm.vmax])
                bar.ax.tick_params(labelsize=7.5, length=2)
                bar.outline.set_visible(False)
    legend = "grey: no value;  dot: not above 95 % of shuffles"
    if "transfer" in measures:
        legend += ";  transfer: trained on the row, tested on the column"
    part.supxlabel(legend, fontsize=8, color="0.35")


def _draw_panel(panel: Any, cells: "pd.DataFrame", measure: str) -> Any:
    """One matrix, first layer in the lower left corner; returns the image for its colour bar."""
    import numpy as np

    first, second = list(dict.fromkeys(cells.site_a)), list(dict.fromkeys(cells.site_b))
    grid, bound = (
        cells.pivot(index="site_a", columns="site_b", values=name).loc[first, second].to_numpy(float)
        for name in ("value", "null_high")
    )
    low, high = SCALES.get(measure, (0.0, 1.0))
    panel.set_facecolor(EMPTY)
    image = panel.imshow(np.ma.masked_invalid(grid), cmap=MAP, vmin=low, vmax=high, origin="lower", aspect="auto")
    rows, columns = np.nonzero(grid <= bound)
    panel.scatter(columns, rows, s=min(6.0, 120 / len(first)), color="white", linewidths=0)
    for names, axis, line in ((second, panel.xaxis, panel.axvline), (first, panel.yaxis, panel.axhline)):
        shown = _shown(names)
        axis.set_ticks(shown, [names[i] for i in shown], fontsize=6.5)
        for edge in (i for i in range(1, len(names)) if _tower(names[i]) != _tower(names[i - 1])):
            line(edge - 0.5, color="white", linewidth=1.0)
    panel.tick_params(axis="x", rotation=90)
    panel.tick_params(length=2, color="0.5")
    panel.spines[:].set_visible(False)
    return image


def _tower(site: str) -> str:
    return site.partition(".")[0]


def in_order(sites: Iterable[str]) -> list[str]:
    """As the data passes them, whichever position was read first."""
    return sorted(sites, key=lambda site: (list(TOWERS).index(_tower(site)), site))


def _shown(names: Sequence[str]) -> list[int]:
    """Which names stand along an axis: the first of each tower and every so many of it, none over another."""
    towers: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        towers.setdefault(_tower(name), []).append(i)
    large = sorted(towers.values(), key=len, reverse=True)
    step, shown = -(-len(names) // TICKS), list[int]()
    for i in (*(tower[0] for tower in large), *(i for tower in large for i in tower[::step])):
        if all(abs(i - j) * 2 * TICKS >= len(names) for j in shown if j != i) and i not in shown:
            shown.append(i)
    return sorted(shown)


def name_sites(panel: Any, sites: Sequence[str]) -> None:
    """Sites along the axis of a panel of curves."""
    shown = _shown(sites)
    panel.set_xticks(shown, [sites[i] for i in shown], fontsize=6.5, rotation=90)
    panel.set_xlim(-0.5, len(sites) - 0.5)
    panel.tick_params(axis="y", labelsize=8)
    panel.grid(axis="y", color="0.92")
    panel.spines[["top", "right"]].set_visible(False)


def _draw_curves(part: Any, alone: "pd.DataFrame") -> None:
    measures = list(dict.fromkeys(alone.measure))
    sites = in_order(set(alone.site_a))
    colours = of_positions(list(dict.fromkeys(alone.position)))
    panels = part.subplots(1, len(measures), squeeze=False)[0]
    for panel, measure in zip(panels, measures, strict=True):
        for position, colour in colours.items():
            line = alone[(alone.measure == measure) & (alone.position == position)]
            places = [sites.index(site) for site in line.site_a]
            panel.plot(places, line.value, marker="o", markersize=3, linewidth=1.3, color=colour, label=position)
        name_sites(panel, sites)
        panel.set_title(TITLES.get(measure, measure), fontsize=9.5)
        panel.set_ylim(bottom=0)
    panels[-1].legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
