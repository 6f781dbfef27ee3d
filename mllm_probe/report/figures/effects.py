"""effects.png and effects.pdf: what interventions change, layer by layer. read_and_used.png and .pdf: the same, below
the curve of a probe of the same model, on one axis of depth.

Reads tables only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.records.score import ALPHA
from mllm_probe.report.figures.layers import PART_MARKS, held_out, legend_below
from mllm_probe.report.figures.saving import save
from mllm_probe.report.figures.style import CHANCE, COLUMN, READ, STYLES, Style, of_effects, wrapped
from mllm_probe.report.tables.effects import CONTROLS, Line, band, headed, lines, metrics, of_window, scaled
from mllm_probe.results.selection import blocks, headline, real

if TYPE_CHECKING:
    import pandas as pd

PANEL, HEIGHT = 3.3, 3.6  # inches
TALL = 2.4, 1.4  # inches of a line beside an axis, on a screen and on paper
DASHED = (0, (4, 2))
KINDS = {
    "knockout": "What cutting attention takes",
    "patching": "What states of the other prompt bring",
    "steering": "What a direction moves",
    "erasure": "What erasing takes",
}
Fact = Mapping[str, Any]  # of summary.json


@dataclass(frozen=True)
class ProbeCurve:
    """The curve of a probe run at a position, and the blocks that may be its best."""

    scores: "pd.DataFrame"
    position: str
    among: tuple[str, ...]

    @property
    def rows(self) -> "pd.DataFrame":
        """By depth."""
        found = blocks(real(headline(self.scores)))
        return found[found.position == self.position].sort_values("depth")

    @property
    def ends(self) -> list[float]:
        """Depths of the first and the last block that may be the best; none where that is not known."""
        depths = self.rows.depth[self.rows.site.isin(self.among)]
        return [float(depths.min()), float(depths.max())] if len(depths) else []


def draw_effects(table: "pd.DataFrame", paths: Sequence[Path], settings: ReportSettings = DEFAULT) -> str:
    """A panel a metric, a line an edge, span or direction; behind them what their controls do."""
    from matplotlib.figure import Figure

    look, names = STYLES[settings.style], metrics(table)
    across = 1 if look.paper else len(names)
    down = -(-len(names) // across)
    size = (COLUMN, 2.2 * down + 0.6) if look.paper else (max(6.0, PANEL * across + 0.6), HEIGHT + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for panel, metric in zip(panels, names, strict=True):
        _draw_metric(panel, table, metric, "layer", look)
        panel.set_xlabel(f"layer{of_window(table)}", fontsize=look.text)
    first = table.iloc[0]
    said = f"{KINDS[first.kind]}, layer by layer: {first.model} ({first.quantization}), {first.task} on {first.dataset}"
    figure.suptitle(said, fontsize=look.title)
    legend_below(figure, list(panels), width=look.entry, size=look.small if look.paper else 9)
    return save(figure, paths, settings)


def draw_read_and_used(
    table: "pd.DataFrame",
    curve: ProbeCurve,
    facts: Sequence[Fact],
    paths: Sequence[Path],
    settings: ReportSettings = DEFAULT,
) -> str:
    """Above what a probe reads at each depth, below what the headline metric says is used there. Bars span the blocks
    that may be the best, and the places where each effect that was shown may be the largest."""
    from matplotlib.figure import Figure

    look = STYLES[settings.style]
    figure = Figure(figsize=(COLUMN, 4.6) if look.paper else (7.4, 6.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    rows, metric = curve.rows, metrics(table)[0]
    label = f"probe at {curve.position}"
    above.plot(rows.depth, rows.value, marker="o", markersize=3, linewidth=1.6, color=READ, label=label)
    above.fill_between(rows.depth, rows.low, rows.high, color=READ, alpha=0.16, linewidth=0)
    above.set_ylabel(wrapped(held_out(curve.scores), TALL[look.paper], look.text), fontsize=look.text)
    _bars(above, [(curve.ends, READ)])
    _draw_metric(below, table, metric, "depth", look)
    own = of_effects(list(dict.fromkeys(line.what for line in lines(table, metric))))
    shown = [one for one in facts if one["metric"] == metric and one["shown"] and one["what"] in own]
    _bars(below, [([min(one["depths"]), max(one["depths"])], own[one["what"]]) for one in shown])
    said = f"relative depth in the language model{of_window(table)}"
    below.set_xlabel(wrapped(said, figure.get_figwidth() - 0.8, look.text), fontsize=look.text)
    for panel, name in ((above, "read"), (below, "used")):
        panel.set_title(name, fontsize=look.text, loc="left")
        _plain(panel, look)
    first = table.iloc[0]
    figure.suptitle(f"Read and used: {first.model} ({first.quantization}), {first.task}", fontsize=look.title)
    legend_below(figure, [above, below], width=look.entry, size=look.small if look.paper else 9)
    return save(figure, paths, settings)


def _draw_metric(panel: Any, table: "pd.DataFrame", metric: str, x: str, look: Style) -> None:
    found = lines(table, metric)
    colour = of_effects(list(dict.fromkeys(line.what for line in found)))
    around = scaled(band(table, metric), metric)
    if len(around):
        name = CONTROLS.get(str(table.kind.iloc[0]), "control")
        panel.fill_between(around[x], around.low, around.high, color=CHANCE, alpha=0.3, linewidth=0, label=name)
    panel.axhline(0, color="0.45", linewidth=0.8)
    for line in found:
        _draw_line(panel, line, scaled(line.rows, metric), x, colour[line.what])
        drawn = scaled(line.control, metric)
        panel.plot(drawn[x], drawn.value, color=colour[line.what], linestyle=":", linewidth=1.2, gid="control")
        panel.fill_between(drawn[x], drawn.low, drawn.high, color=colour[line.what], alpha=0.08, linewidth=0)
    if any(len(line.control) for line in found):
        panel.plot([], [], color="0.3", linestyle=":", linewidth=1.2, label=CONTROLS["knockout"])
    if (table[table.metric == metric].p_max_t <= ALPHA).any():
        panel.plot([], [], color="0.3", linestyle="none", marker="o", markersize=4, label="beyond the control (max-T)")
    panel.set_ylabel(wrapped(headed(table, metric), TALL[look.paper], look.text), fontsize=look.text)
    _plain(panel, look)


def _draw_line(panel: Any, line: Line, rows: "pd.DataFrame", x: str, colour: str) -> None:
    """Filled marks are effects beyond their controls."""
    marker, width = PART_MARKS.get(line.part, PART_MARKS["block"])
    dashes = DASHED if line.way == "noise" else "-"
    size = min(4.0, 130 / max(len(rows), 1))
    style = {"color": colour, "linestyle": dashes, "linewidth": width, "marker": marker, "markersize": size}
    panel.plot(rows[x], rows.value, **style, markerfacecolor="white", label=line.label)
    beyond = rows[rows.p_max_t <= ALPHA]
    panel.plot(beyond[x], beyond.value, color=colour, linestyle="none", marker=marker, markersize=size)
    panel.fill_between(rows[x], rows.low, rows.high, color=colour, alpha=0.13, linewidth=0)


def _bars(panel: Any, found: Sequence[tuple[Sequence[float], str]]) -> None:
    """One above the other over the curves, each from its first to its last depth."""
    low, high = panel.get_ylim()
    step = 0.05 * (high - low)
    known = [(ends, colour) for ends, colour in found if ends]
    if known:
        panel.plot([], [], color="0.5", linewidth=3, alpha=0.55, label="may be the best, or largest (95 %)")
    for place, (ends, colour) in enumerate(known):
        style = {"color": colour, "linewidth": 3, "alpha": 0.55, "marker": "|", "markeredgewidth": 3}
        panel.plot(ends, [high + step * (place + 0.5)] * 2, **style, gid="may be the largest")
    panel.set_ylim(low, high + step * (len(known) + 0.3))


def _plain(panel: Any, look: Style) -> None:
    panel.tick_params(labelsize=look.small)
    panel.grid(axis="y", color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
