"""policy.png and .pdf, whom the policy draws on the plane of A and C; recall.png and .pdf, how often it finds the best.

Reads the tables of policy.csv and recall.csv only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.report.figures.law import label, name_points, panels_for
from mllm_probe.report.figures.saving import save
from mllm_probe.report.figures.style import DRAWN, LISTED, PLAN, READINGS, TOP, TRAINED, UNSEEN
from mllm_probe.results.policy import A_ALONE, A_PLUS_C, FIRST_HIT, FIXED, RANDOM

if TYPE_CHECKING:
    import pandas as pd

CURVES = {FIXED: "in the shortlist after k runs", FIRST_HIT: "in the shortlist at any time up to k runs"}
FLAT = {A_ALONE: "--", A_PLUS_C: ":"}


def draw_plan(plan: "pd.DataFrame", paths: Sequence[Path], settings: ReportSettings = DEFAULT) -> str:
    """A panel a benchmark: the cells of the levels that were drawn from, who was drawn, who is listed."""
    figure, panels = panels_for(list(dict.fromkeys(plan.benchmark)))
    for name, panel in panels.items():
        here = plan[plan.benchmark == name]
        _draw_cells(panel, here)
        _draw_candidates(panel, here)
        name_points(panel, here)
        panel.set_title(name, fontsize=9)
    first = plan.iloc[0]
    figure.suptitle(f"Which representations the policy trains: {first.table}", fontsize=11)
    marks = "filled: trained; orange: selected (#: order); ring: in the shortlist; star: best"
    label(figure, plan, first.a_column, first.c_column, marks)
    return save(figure, paths, settings)


def _draw_cells(panel: Any, here: "pd.DataFrame") -> None:
    deepest = int(here.level.max()) if here.level.notna().any() else 1
    for level in range(deepest, 0, -1):
        style = {"color": "0.6" if level == 1 else "0.8", "linewidth": 1.4 / level, "zorder": 1}
        for i in range(2**level + 1):
            for name, line in (("a", panel.axvline), ("c", panel.axhline)):
                low, high = here[name].min(), here[name].max()
                line(low + (high - low) * i / 2**level, **style)


def _draw_candidates(panel: Any, here: "pd.DataFrame") -> None:
    edge = {"edgecolors": "black", "linewidths": 0.7, "zorder": 3}
    state = [DRAWN if row.turn == row.turn else TRAINED if row.seen else UNSEEN for row in here.itertuples()]
    panel.scatter(here.a, here.c, s=30, c=[PLAN[one] for one in state], **edge)
    short, drawn = here[here.shortlisted], here[here.turn.notna()]
    panel.scatter(short.a, short.c, s=120, facecolors="none", edgecolors=PLAN[LISTED], linewidths=1.5, zorder=4)
    if here.value.notna().all():
        best = here.loc[[here.value.idxmax()]]
        panel.scatter(best.a, best.c, s=150, marker="*", facecolors="none", edgecolors=PLAN[TOP], zorder=5)
    for row in drawn.itertuples():
        turn = (f"#{row.turn:.0f}", (row.a, row.c), (-5, -3))
        panel.annotate(*turn, textcoords="offset points", fontsize=7.5, weight="bold", ha="right", zorder=5)


def draw_recall(recall: "pd.DataFrame", paths: Sequence[Path], settings: ReportSettings = DEFAULT) -> str:
    """Both readings: a thin line a benchmark, a thick one their mean; beside them random and what needs no run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    for panel, (reading, title) in zip(figure.subplots(1, 2, sharey=True), CURVES.items(), strict=True):
        mean = 100 * recall.groupby(["reading", "budget"]).recall.mean()
        for _, line in recall[recall.reading == reading].groupby("benchmark", sort=False):
            panel.plot(line.budget, 100 * line.recall, color=READINGS["policy"], linewidth=0.6, alpha=0.45)
        panel.plot(mean[reading], color=READINGS["policy"], marker="o", markersize=3, linewidth=2, label="policy, mean")
        panel.plot(mean[RANDOM], color=READINGS[RANDOM], linewidth=1.2, label="random, k + shortlist runs")
        for name, dashes in FLAT.items():
            words = "A alone, no run" if name == A_ALONE else "A + C, no run"
            panel.axhline(mean[name].iloc[0], color=READINGS[name], linestyle=dashes, linewidth=1.3, label=words)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("k representations trained")
        panel.set_ylim(-2, 102)
        panel.grid(axis="y", color="0.92")
        panel.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("trials that find the best, %")
    figure.axes[1].legend(frameon=False, fontsize=8.5, loc="lower right")
    first = recall.iloc[0]
    figure.suptitle(f"How often the policy finds the best: {first.table}, {first.trials} trials", fontsize=11)
    return save(figure, paths, settings)
