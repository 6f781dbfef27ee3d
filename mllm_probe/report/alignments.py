"""alignment.png and alignment.pdf: a panel a question, a line for each pair of positions and similarity, by layer."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.report.alignment import QUESTIONS, Question, curves
from mllm_probe.report.figures import COLOURS, DASHES, legend_below, save
from mllm_probe.report.heatmaps import in_order, name_sites
from mllm_probe.settings import RANDOM

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = 2
STYLES = ("-", (0, (4, 2)), (0, (1, 1)))


def draw_alignment(table: "pd.DataFrame", paths: Sequence[Path]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 9.0), layout="constrained")
    panels = figure.subplots(-(-len(QUESTIONS) // COLUMNS), COLUMNS, sharex=True)
    sites = in_order(set(table[table.site != ""].site))
    for panel, question in zip(panels.flat, QUESTIONS, strict=True):
        _draw_panel(panel, question, table, sites)
    first = table.iloc[0]
    figure.suptitle(
        f"{first.model} ({first.quantization}) on {first.dataset}: pictures and captions read alone", fontsize=11
    )
    legend_below(figure, list(panels.flat), width=3.3)
    save(figure, paths)


def _draw_panel(panel: Any, question: Question, table: "pd.DataFrame", sites: Sequence[str]) -> None:
    rows = question.rows(table)
    real = dict(curves(rows))
    colours = dict(zip(dict.fromkeys(position for position, _ in real), COLOURS * 9, strict=False))
    styles = dict(zip(dict.fromkeys(similarity for _, similarity in real), STYLES, strict=False))
    for (position, similarity), line in real.items():
        x = [sites.index(site) for site in line.site]
        style = {"color": colours[position], "linestyle": styles[similarity]}
        panel.plot(x, line.value, marker="o", markersize=3, linewidth=1.4, label=f"{position}, {similarity}", **style)
        if similarity == next(iter(styles)):
            panel.fill_between(x, line.low, line.high, color=colours[position], alpha=0.13, linewidth=0)
    twins = dict(curves(rows, RANDOM))
    if twins:
        name = next(iter(real))
        colour, dashes = DASHES[RANDOM]
        x = [sites.index(site) for site in twins[name].site]
        panel.plot(
            x, twins[name].value, color=colour, linestyle=dashes, linewidth=1.1, label=f"{name[0]}, random weights"
        )
    panel.axhline(
        rows[rows.probe == "chance"].value.iloc[0], color="0.45", linewidth=0.8, linestyle="--", label="chance"
    )
    panel.set_title(question.name, fontsize=10)
    name_sites(panel, sites)
