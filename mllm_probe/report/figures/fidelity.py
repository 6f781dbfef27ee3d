"""fidelity.png and fidelity.pdf: how the states of each layer differ from the reference, and a probe of them.

Reads the table of fidelity.csv only. A column of panels for each position, one tower after the other along the axis.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.records import units
from mllm_probe.report.figures.geometry import in_order, name_sites
from mllm_probe.report.figures.layers import legend_below
from mllm_probe.report.figures.saving import save
from mllm_probe.report.figures.style import SIDES, STATES
from mllm_probe.results.fidelity import CHANGED, MODEL, MOVED, REFERENCE, curve, headline
from mllm_probe.results.selection import positions

if TYPE_CHECKING:
    import pandas as pd

ERRORS = {"relative_error": "relative error", "fvu": "variance unexplained"}
LIKENESS = {"cosine": "cosine", "cka": "CKA (unbiased)"}
CURVES = {  # label: fitted on, read on, dashes
    "reference probe on reference states": (REFERENCE, REFERENCE, "-"),
    "model probe on model states": (MODEL, MODEL, "-"),
    "reference probe on model states": (REFERENCE, MODEL, (0, (4, 2))),
    "model probe on reference states": (MODEL, REFERENCE, (0, (1, 1))),
}
CHANGES = {CHANGED: (SIDES[MODEL, MODEL], "-"), MOVED: (SIDES[REFERENCE, MODEL], (0, (4, 2)))}
NAMES = ("deviation", "similarity", "{metric}", "change{gap}")
COLUMN, ROW = 3.4, 1.75  # inches


def draw_fidelity(table: "pd.DataFrame", paths: Sequence[Path], settings: ReportSettings = DEFAULT) -> str:
    """Rows: how far the states are apart, how alike they are, the probe's curves and how these change."""
    from matplotlib.figure import Figure

    read = positions(table)
    figure = Figure(figsize=(max(6.0, 1.2 + COLUMN * len(read)), ROW * len(NAMES) + 1.5), layout="constrained")
    panels = figure.subplots(len(NAMES), len(read), squeeze=False, sharey="row", sharex="col")
    for position, column in zip(read, panels.T, strict=True):
        _draw_column(column, table[table.position == position])
        column[0].set_title(position, fontsize=10)
    panels[0, 0].set_ylim(bottom=0)
    metric = headline(table)
    gap = units.unit(metric).gap
    for panel, name in zip(panels[:, 0], NAMES, strict=True):
        panel.set_ylabel(name.format(metric=units.named(metric), gap=gap and f" in{gap}"), fontsize=9.5)
    first = table.iloc[0]
    figure.suptitle(
        f"What {first.quantization} changes in {first.model} against {first.reference}, {first.task}", fontsize=11
    )
    legend_below(figure, list(panels.flat), width=2.6)
    return save(figure, paths, settings)


def _draw_column(column: Sequence[Any], here: "pd.DataFrame") -> None:
    sites = in_order(set(here.site))
    for panel, measures in ((column[0], ERRORS), (column[1], LIKENESS)):
        for measure, label in measures.items():
            _draw_line(panel, here[here.measure == measure], sites, STATES[measure], "-", label)
    for label, (fitted_on, read_on, dashes) in CURVES.items():
        colour = SIDES[fitted_on, read_on]
        _draw_line(column[2], curve(here, fitted_on, read_on), sites, colour, dashes, label, band=False)
    scale = units.unit(headline(here)).scale
    column[3].axhline(0, color="0.45", linewidth=0.8)
    for measure, (colour, dashes) in CHANGES.items():
        rows = here[here.measure == measure]
        scaled = rows.assign(value=scale * rows.value, low=scale * rows.low, high=scale * rows.high)
        _draw_line(column[3], scaled, sites, colour, dashes)
    for panel in column:
        name_sites(panel, sites)


def _draw_line(
    panel: Any,
    rows: "pd.DataFrame",
    sites: Sequence[str],
    colour: str,
    dashes: Any,
    label: str | None = None,
    band: bool = True,
) -> None:
    """Towers are not joined to each other."""
    for _, line in rows.groupby("tower", sort=False):
        x = [sites.index(site) for site in line.site]
        panel.plot(
            x, line.value, color=colour, linestyle=dashes, marker="o", markersize=2.5, linewidth=1.3, label=label
        )
        if band:
            panel.fill_between(x, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
