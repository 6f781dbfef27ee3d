"""alignment.png and alignment.pdf: a row of panels a question, its states centred or mapped; by layer.

Colours are positions, dashes similarities of sequences. Reads the rows of alignment.csv only.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.config.sweep import PERMUTED, RANDOM
from mllm_probe.report.figures.geometry import in_order, name_sites
from mllm_probe.report.figures.layers import legend_below
from mllm_probe.report.figures.saving import save
from mllm_probe.report.figures.style import CHANCE, DASHES, OTHER_LABELS, of_positions
from mllm_probe.results.align import QUESTIONS, Question, chance, curves

if TYPE_CHECKING:
    import pandas as pd

FEATURES = {"centred": "states centred", "mapped": "centred, pictures mapped linearly"}
FLOORS = {RANDOM: DASHES[RANDOM], PERMUTED: (OTHER_LABELS[PERMUTED], (0, (1, 2)))}
NAMES = {RANDOM: "random weights", PERMUTED: "pictures exchanged"}
METRICS = {"recall_at_1": "recall at 1", "auroc": "AUROC", "group_score": "group score"}
STYLES = {"cosine": "-", "gak": "-", "aligned_mean": (0, (4, 2)), "bag_mean": (0, (1, 1))}


def draw_alignment(table: "pd.DataFrame", paths: Sequence[Path], settings: ReportSettings = DEFAULT) -> str:
    """Intervals are drawn of the cosine and the kernel; both floors where the model reaches highest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 1.0 + 1.75 * len(QUESTIONS)), layout="constrained")
    panels = figure.subplots(len(QUESTIONS), len(FEATURES), sharex=True, sharey="row")
    sites = in_order(set(table[table.site != ""].site))
    for row, question in zip(panels, QUESTIONS, strict=True):
        for panel, features in zip(row, FEATURES, strict=True):
            _draw_panel(panel, question, table, features, sites)
        row[0].set_title(f"{question.name}, {METRICS[question.metric]}", fontsize=9.5, loc="left")
    for panel, name in zip(panels[0], FEATURES.values(), strict=True):
        panel.set_title(name, fontsize=9.5, loc="right", color="0.3")
    _name_styles(panels[-1, 0])
    first = table.iloc[0]
    figure.suptitle(
        f"Similarity of pictures and captions in {first.model} ({first.quantization}) on {first.dataset}", fontsize=11
    )
    legend_below(figure, list(panels.flat), width=2.9)
    return save(figure, paths, settings)


def _draw_panel(panel: Any, question: Question, table: "pd.DataFrame", features: str, sites: Sequence[str]) -> None:
    rows = question.rows(table)
    here = rows[rows.features == features]
    colours = of_positions(list(dict.fromkeys(here[here.site != ""].position)))
    for (_, similarity, position), line in curves(here):
        style, solid = STYLES[similarity], STYLES[similarity] == "-"
        look = {"color": colours[position], "linestyle": style, "marker": "o", "markersize": 2.5, "linewidth": 1.3}
        for x, tower in _by_tower(line, sites):
            panel.plot(x, tower.value, **look, label=position if solid else None)
            if solid:
                panel.fill_between(x, tower.low, tower.high, color=colours[position], alpha=0.13, linewidth=0)
    highest = max(curves(here), key=lambda curve: curve[1].value.max())[0]
    for control, (colour, dashes) in FLOORS.items():
        for line in (line for name, line in curves(here, control) if name == highest):
            for x, tower in _by_tower(line, sites):
                panel.plot(x, tower.value, color=colour, linestyle=dashes, linewidth=1.1, label=NAMES[control])
    panel.axhline(chance(rows), color=CHANCE, linewidth=0.8, linestyle="--", label="chance")
    name_sites(panel, sites)


def _by_tower(line: "pd.DataFrame", sites: Sequence[str]) -> Iterator[tuple[list[int], "pd.DataFrame"]]:
    """(places along the axis, rows): towers are not joined to each other."""
    for _, rows in line.groupby("tower", sort=False):
        yield [sites.index(site) for site in rows.site], rows


def _name_styles(panel: Any) -> None:
    """Dashes without a colour, for the legend."""
    for similarity in ("gak", "aligned_mean", "bag_mean"):
        panel.plot([], [], color="0.3", linewidth=1.3, linestyle=STYLES[similarity], label=f"documents: {similarity}")
