"""fit.png and fit.pdf: the plane of A and C, a panel a benchmark, with the law's level lines and the representations.

Reads the tables of fit.csv and points.csv only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.report.figures.saving import save
from mllm_probe.report.figures.style import LETTER
from mllm_probe.report.terminal.law import r2
from mllm_probe.vision.law import LAW, MODELS, Surface, terms

if TYPE_CHECKING:
    import pandas as pd

MAP = "viridis"
WIDTH, HEIGHT, ACROSS = 3.0, 2.7, 4  # inches of a panel, panels in a row
EDGE = 0.06  # room beyond the outermost representation, as a share of the plane
STEPS, LEVELS = 120, 8


def draw_laws(
    laws: "pd.DataFrame", points: "pd.DataFrame", paths: Sequence[Path], settings: ReportSettings = DEFAULT
) -> str:
    """Colours are the benchmark's own unit: where a point's differs from the ground, the law errs."""
    figure, panels = panels_for(list(dict.fromkeys(points.benchmark)))
    for name, panel in panels.items():
        here = points[points.benchmark == name]
        law = laws[(laws.benchmark == name) & (laws.model == LAW)].iloc[0]
        _draw_surface(panel, here, law)
        name_points(panel, here)
        panel.set_title(f"{name}: R² {r2(law.r2, 2)}, left out {r2(law.r2_left_out, 2)}", fontsize=9)
    first = laws.iloc[0]
    figure.suptitle(f"Performance by A and C score: {first.table}, contour lines of the law", fontsize=11)
    label(figure, points, first.a, first.c, "star: best; the colour scale covers the measured range")
    return save(figure, paths, settings)


def panels_for(names: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """A figure and {name: panel}, in rows."""
    from matplotlib.figure import Figure

    across = min(ACROSS, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(max(WIDTH * across, 2 * WIDTH), HEIGHT * down + 1.0), layout="constrained")
    every = figure.subplots(down, across, squeeze=False).ravel()
    for panel in every[len(names) :]:
        panel.set_visible(False)
    return figure, dict(zip(names, every, strict=False))


def name_points(panel: Any, here: "pd.DataFrame") -> None:
    """Numbers beside the representations, counted in the order of the table."""
    for number, row in enumerate(here.itertuples(), 1):
        panel.annotate(str(number), (row.a, row.c), (3, 3), textcoords="offset points", fontsize=6.5, zorder=5)
    panel.tick_params(labelsize=7.5)
    panel.spines[["top", "right"]].set_visible(False)


def label(figure: Any, points: "pd.DataFrame", a: str, c: str, more: str) -> None:
    """What the axes are and, below them, what the numbers stand for."""
    words = [f"{number} {name}" for number, name in enumerate(dict.fromkeys(points.representation), 1)]
    room = max(1, int(figure.get_figwidth() / max(1.25, LETTER * 8.5 * (4 + max(map(len, words))))))
    lines = ["    ".join(words[i : i + room]) for i in range(0, len(words), room)]
    figure.supxlabel("\n".join([f"A: {a}", *lines, more]), fontsize=8.5)
    figure.supylabel(f"C: {c}", fontsize=8.5)


def _draw_surface(panel: Any, here: "pd.DataFrame", law: Any) -> None:
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    known = here[here.value.notna()]
    low, high = known.value.min(), known.value.max()
    side = np.linspace(-EDGE, 1 + EDGE, STEPS)
    unit = np.stack(np.meshgrid(side, side), axis=-1)
    weights = law[["weight_a", "weight_c", "weight_aa", "weight_ac", "weight_cc"]].to_numpy(float)
    surface = Surface(weights, np.asarray(law.intercept), np.asarray(len(weights)))
    ground = low + (high - low) * surface.at(terms(unit, MODELS[LAW]))
    axes = [here[name].min() + side * (here[name].max() - here[name].min()) for name in ("a", "c")]
    levels = MaxNLocator(LEVELS).tick_values(low, high)
    panel.contourf(*axes, ground, levels, cmap=MAP, vmin=low, vmax=high, alpha=0.55, extend="both")
    lines = panel.contour(*axes, ground, levels, colors="0.25", linewidths=0.6)
    panel.clabel(lines, fontsize=6, fmt="%g")
    marks = {"cmap": MAP, "vmin": low, "vmax": high, "edgecolors": "black", "linewidths": 0.6, "zorder": 4}
    panel.scatter(known.a, known.c, c=known.value, s=26, **marks)
    best = known.loc[[known.value.idxmax()]]
    panel.scatter(best.a, best.c, c=best.value, s=110, marker="*", **marks)
    waiting = here[here.value.isna()]
    panel.scatter(waiting.a, waiting.c, s=26, facecolors="none", edgecolors="black", linewidths=0.8, zorder=4)
