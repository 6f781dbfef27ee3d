"""layers.png and layers.pdf: score against layer, one panel a tower, with intervals and floors. Reads a table only."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.paths import replacing

if TYPE_CHECKING:
    import pandas as pd

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito, colour-blind safe
TITLES = {"vision": "vision tower", "connector": "connector", "lm": "language model"}
CHANCE = {"accuracy": 0.5, "r2": 0.0}


def headline_metric(scores: "pd.DataFrame") -> str:
    """What layers are compared by: accuracy, or for numbers the share of their variance."""
    return "accuracy" if (scores.metric == "accuracy").any() else "r2"


def headline(scores: "pd.DataFrame") -> "pd.DataFrame":
    """The aggregate test rows of the headline measure."""
    return scores[(scores.seed == "all") & (scores.split == "test") & (scores.metric == headline_metric(scores))]


def real(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Those of a site, controls left out."""
    return rows[(rows.site != "") & (rows.control == "") & (rows.features == "single")]


def positions(sites: "pd.DataFrame") -> list[str]:
    """The positions that were read, those of the language model first, in the order of the run."""
    return list(dict.fromkeys([*sites[sites.tower == "lm"].position, *sites.position]))


def draw_layers(scores: "pd.DataFrame", paths: Sequence[Path]) -> None:
    """One panel per tower that was read, widths by their number of layers, one line per position."""
    from matplotlib.figure import Figure

    rows = headline(scores)
    sites, floors = real(rows), rows[rows.site == ""]
    towers = [tower for tower in TITLES if tower in set(sites.tower)]
    widths = [max(2.2, sites[sites.tower == tower].site.nunique()) for tower in towers]
    figure = Figure(figsize=(min(12.0, 2.4 + 0.42 * sum(widths)), 3.8), layout="constrained")
    panels = figure.subplots(1, len(towers), sharey=True, width_ratios=widths, squeeze=False)[0]
    colour = dict(zip(positions(sites), COLOURS * 9, strict=False))
    for panel, tower in zip(panels, towers, strict=True):
        _draw_panel(panel, sites[sites.tower == tower], colour, floors)
        panel.set_title(TITLES[tower], fontsize=10)
    panels[0].set_ylabel(f"{headline_metric(scores)} on held-out pictures")
    first = scores.iloc[0]
    figure.suptitle(f"{first.model} ({first.quantization}), {first.task} on {first.dataset}", fontsize=11)
    found = {label: mark for panel in panels for mark, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    marks = {label: found[label] for label in [*colour, *(label for label in found if label not in colour)]}
    figure.legend(
        marks.values(),
        marks.keys(),
        loc="outside lower center",
        ncols=len(marks) if sum(widths) > 12 else 3,
        frameon=False,
        fontsize=9,
    )
    for path in paths:
        with replacing(path) as part:
            figure.savefig(part, format=path.suffix[1:], dpi=160, metadata=undated(path))


def _draw_panel(panel: Any, rows: "pd.DataFrame", colour: dict[str, str], floors: "pd.DataFrame") -> None:
    names = {
        f"{layer}{'' if part == 'block' else part[0]}": None for layer, part in zip(rows.layer, rows.part, strict=True)
    }
    ticks = [name.replace(".0", "") for name in names]
    place = {site: i for i, site in enumerate(dict.fromkeys(rows.site))}
    for position, line in rows.groupby("position", sort=False):
        x = [place[site] for site in line.site]
        panel.plot(x, line.value, marker="o", markersize=3.5, linewidth=1.4, color=colour[position], label=position)
        panel.fill_between(x, line.low, line.high, color=colour[position], alpha=0.18, linewidth=0)
    panel.axhline(CHANCE[floors.metric.iloc[0]], color="0.35", linewidth=0.9, linestyle="--", label="chance")
    for _, floor in floors.iterrows():
        style = ":" if floor.control else "-."
        panel.axhline(floor.value, color="0.6", linewidth=0.9, linestyle=style, label=floor.control or floor.probe)
    panel.set_xticks(range(len(ticks)), ticks, fontsize=8)
    panel.set_xlabel(
        "layer (n: after the final norm)" if ticks[-1].endswith("n") else "layer" if len(ticks) > 1 else ""
    )
    panel.grid(axis="y", color="0.92")
    panel.spines[["top", "right"]].set_visible(False)


def undated(path: Path) -> dict[str, Any]:
    """No clock time in the file: equal scores give equal figures."""
    return {"CreationDate": None} if path.suffix == ".pdf" else {"Software": "mllm-probe"}
