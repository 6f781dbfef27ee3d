"""losses.png and losses.pdf of a training, arms.png and arms.pdf of several side by side."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.report.figures.saving import save
from mllm_probe.report.figures.style import LOSSES, on_page
from mllm_probe.report.html.charts import Chart

if TYPE_CHECKING:
    import pandas as pd
from textwrap import fill

from mllm_probe.report.figures.layers import legend_below
from mllm_probe.report.figures.style import of_arms
from mllm_probe.report.terminal.arms import what
from mllm_probe.results.training import DRAWN, PLAIN, Effect

SMOOTHED = 0.05  # the share of all steps that the drawn mean goes over


def loss_chart(losses: "pd.DataFrame", names: Sequence[str]) -> Chart:
    """The columns `names` of a training, step by step."""
    data = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": escape(DRAWN[name]),
            "x": losses.step.tolist(),
            "y": losses[name].tolist(),
            "hovertemplate": f"step %{{x}}<br><b>%{{y:.4g}}</b> {escape(DRAWN[name])}<extra></extra>",
            "line": {"color": on_page(LOSSES[name]), "width": 1.6},
        }
        for name in names
    ]
    axes = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": "loss"}}}
    return {"name": "losses", "data": data, "layout": axes | {"showlegend": len(names) > 1}}


def draw_losses(losses: Any, paths: Sequence[Path], settings: ReportSettings = DEFAULT) -> str:
    """Each loss that was written down, step by step and as a moving mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.2), layout="constrained")
    panel = figure.subplots()
    names = [name for name in DRAWN if name in losses.columns]
    for name in names:
        colour = LOSSES[name]
        mean = losses[name].rolling(max(1, round(SMOOTHED * len(losses))), min_periods=1).mean()
        panel.plot(losses.step, losses[name], color=colour, alpha=0.3, linewidth=0.7)
        panel.plot(losses.step, mean, color=colour, linewidth=1.4, label=DRAWN[name])
    panel.set_xlabel("step")
    panel.set_ylabel("loss")
    figure.suptitle("Losses by step (thin) and their moving mean (thick)", fontsize=10)
    panel.grid(axis="y", color="0.92")
    panel.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        panel.legend(frameon=False, fontsize=8)
    return save(figure, paths, settings)


NAME = 36  # letters of a line of a measure beside a panel


def draw_arms(rows: Sequence[Effect], paths: Sequence[Path], settings: ReportSettings = DEFAULT) -> str:
    """A panel a unit: the difference of each arm to captions alone, measure by measure; dots are seeds."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.against == PLAIN]
    units = list(dict.fromkeys(row.unit for row in shown))
    heights = [len({what(row) for row in shown if row.unit == unit}) for unit in units]
    arms = list(dict.fromkeys(row.arm for row in shown))
    height = 1.4 + (0.14 + 0.07 * len(arms)) * sum(heights)
    figure = Figure(figsize=(6.8, height), layout="constrained")
    panels = figure.subplots(len(units), squeeze=False, height_ratios=heights)[:, 0]
    for panel, unit in zip(panels, units, strict=True):
        _draw_unit(panel, [row for row in shown if row.unit == unit], arms)
        panel.set_xlabel(f"difference to {PLAIN} in {unit}", fontsize=9)
    figure.suptitle("Change by each training, compared with the caption loss alone", fontsize=11)
    legend_below(figure, list(panels), width=1.2)
    return save(figure, paths, settings)


def _draw_unit(panel: Any, rows: Sequence[Effect], arms: Sequence[str]) -> None:
    names = list(dict.fromkeys(map(what, rows)))
    for i, (arm, colour) in enumerate((arm, of_arms(arms)[arm]) for arm in arms):
        offset = 0.7 * ((i + 0.5) / len(arms) - 0.5)
        for j, row in enumerate(row for row in rows if row.arm == arm):
            y = names.index(what(row)) + offset
            label = arm if j == 0 else None
            panel.plot([row.low, row.high], [y, y], color=colour, linewidth=1.4)
            panel.plot(row.value, y, "o", color=colour, markersize=4, label=label)
            each = [float(one) for one in row.seeds.split()]
            panel.plot(each, [y] * len(each), ".", color=colour, markersize=2.5, alpha=0.6)
    panel.axvline(0, color="0.45", linewidth=0.8)
    panel.set_yticks(range(len(names)), [fill(name, NAME) for name in names], fontsize=8)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.spines[["top", "right"]].set_visible(False)
