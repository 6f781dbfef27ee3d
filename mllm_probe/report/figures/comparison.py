"""The figure of several runs of one task: score against relative depth, a panel a position, a line a run.

Reads tables only.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.errors import few
from mllm_probe.report.figures.layers import held_out, legend_below
from mllm_probe.report.figures.saving import save
from mllm_probe.report.figures.style import CHANCE, COLUMN, PAGE, of_others
from mllm_probe.results.selection import blocks, headline, real

if TYPE_CHECKING:
    import pandas as pd

MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # one more than colours: a pair returns after 42 lines
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
WRAPPED = 42  # characters of a label that fit a line of the legend in one column


def draw_comparison(
    runs: Mapping[str, "pd.DataFrame"],
    chosen: Mapping[tuple[str, str], str],
    positions: Sequence[str],
    paths: Sequence[Path],
    every: Sequence[str] = (),
    settings: ReportSettings = DEFAULT,
) -> str:
    """{label: scores} of the language models' blocks; what `chosen` {(label, position): site} names has a ring. A run
    looks as it does in the figures of other tasks, where `every` has the labels of all runs. Says what `save` says."""
    from matplotlib.figure import Figure

    columns = min(2, len(positions))
    rows = ceil(len(positions) / columns)
    page, longest = PAGE if columns > 1 else COLUMN, max(20, *map(len, runs))
    width = 0.55 + 0.055 * min(WRAPPED, longest)  # of a label in the legend, inches
    lines = ceil((len(runs) + 2) / int(page / width)) * ceil(longest / WRAPPED)
    figure = Figure(figsize=(page, 2.3 * rows + 0.2 * lines), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    used = list(panels.flat)[: len(positions)]
    for panel, position in zip(used, positions, strict=True):
        _draw_panel(panel, runs, chosen, position, every or list(runs))
    for panel in list(panels.flat)[len(positions) :]:
        panel.set_visible(False)
    first = next(iter(runs.values()))
    data = few(list(dict.fromkeys(scores.dataset.iloc[0] for scores in runs.values())))
    figure.suptitle(f"How well each run reads {first.task.iloc[0]} on {data}", fontsize=9)
    for panel in used[-columns:]:
        panel.set_xlabel("relative depth in the language model", fontsize=8)
        panel.tick_params(labelbottom=True)
    for panel in panels[:, 0]:
        panel.set_ylabel(held_out(*runs.values()), fontsize=8)
    legend_below(figure, used, width=width, size=8)
    return save(figure, paths, settings)


def _draw_panel(
    panel: Any,
    runs: Mapping[str, "pd.DataFrame"],
    chosen: Mapping[tuple[str, str], str],
    position: str,
    every: Sequence[str],
) -> None:
    own = of_others(every)
    for name, scores in runs.items():
        line = blocks(real(headline(scores)))
        line = line[line.position == position].sort_values("depth")
        i = every.index(name)
        colour, marker, dashes = own[name], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)]
        style = {"marker": marker, "markersize": 3, "linestyle": dashes, "linewidth": 1.2}
        panel.plot(line.depth, line.value, color=colour, label=fill(name, WRAPPED), **style)
        panel.fill_between(line.depth, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
        ring = line[line.site == chosen[name, position]]
        panel.plot(ring.depth, ring.value, "o", markersize=8, markerfacecolor="none", color=colour)
    panel.plot([], [], "o", markersize=8, markerfacecolor="none", color="0.35", label="chosen on validation")
    _draw_chance(panel, runs)
    panel.margins(y=0.08)  # room for a ring
    panel.set_title(position, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(axis="y", color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_chance(panel: Any, runs: Mapping[str, "pd.DataFrame"]) -> None:
    """What always saying the commonest label scores, where that is the same for all runs."""
    rows = [headline(scores) for scores in runs.values()]
    found = {round(float(value), 4) for one in rows for value in one[one.probe == "majority"].value}
    if len(found) == 1:
        panel.axhline(*found, color=CHANCE, linewidth=0.8, linestyle="--", zorder=0.9, label="chance")
