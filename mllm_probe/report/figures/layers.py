"""layers.png and layers.pdf: score against layer, one panel a tower, with intervals, controls and floors.

Reads a table only, and knows which of its rows are a curve and which a line.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.records import units
from mllm_probe.records.score import BY_DESIGN
from mllm_probe.report.figures.style import (
    COLUMN,
    DASHES,
    LETTER,
    MODEL,
    STYLES,
    Style,
    of_floor,
    of_positions,
    wrapped,
)
from mllm_probe.results.selection import (
    controls,
    floors,
    headline,
    headline_metric,
    lens,
    many_of,
    positions,
    real,
    words,
)

if TYPE_CHECKING:
    import pandas as pd

TITLES = {"vision": "vision tower", "qformer": "Q-Former", "connector": "connector", "lm": "language model"}
PART_MARKS = {"block": ("o", 1.4), "attn": ("^", 0.8), "mlp": ("s", 0.8)}
APART = 0.052  # least distance of two labels, as a share of the panel's height
AXIS = 44  # letters of a line beside an axis
ROWS = 4  # of a legend, which every figure has room for


def held_out(*tables: "pd.DataFrame") -> str:
    """What an axis of scores is called."""
    metrics = {headline_metric(scores) for scores in tables}
    name = units.named(*metrics) if len(metrics) == 1 else "score"
    return fill(f"{name} on held-out {many_of(*tables)}", AXIS)


def layers_figure(scores: "pd.DataFrame", settings: ReportSettings = DEFAULT) -> Any:
    """One panel per tower that can show something, widths by their number of layers, one line per position."""
    from matplotlib.figure import Figure

    rows, look = headline(scores), STYLES[settings.style]
    sites = telling(real(rows))
    towers = [tower for tower in TITLES if tower in set(sites.tower)]
    numbers = [sites[sites.tower == tower].site.nunique() for tower in towers]
    widths = [max(2.2, look.least * sum(numbers), number) for number in numbers]  # room for the name of a tower
    size = (COLUMN, 3.1) if look.paper else (min(12.0, 3.6 + 0.42 * sum(widths)), 4.2)
    size = (settings.size[0], settings.size[1]) if settings.size else size
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(towers), sharey=True, width_ratios=widths, squeeze=False)[0]
    every = of_positions(positions(real(rows)))  # a position has one colour, whatever is drawn beside it
    colour = {position: every[position] for position in positions(sites)}
    for panel, tower, width in zip(panels, towers, widths, strict=True):
        room = (size[0] - look.margins) * width / sum(widths)
        _draw_panel(panel, sites[sites.tower == tower], colour, look, room)
        _draw_controls(panel, rows[rows.tower == tower], sites[sites.tower == tower], next(iter(colour)))
        panel.set_title(TITLES[tower], fontsize=look.small if look.paper else look.text)
    draw_floors(panels, floors(rows), named=not look.paper)
    panels[0].set_ylabel(held_out(scores), fontsize=look.text)
    first = scores.iloc[0]
    said = f"How well each layer of {first.model} ({first.quantization}) reads {first.task} on {first.dataset}"
    figure.suptitle(said, fontsize=look.title)
    legend_below(figure, panels, tuple(colour), look.entry, look.small if look.paper else 9)
    return figure


def telling(sites: "pd.DataFrame") -> "pd.DataFrame":
    """Without curves all of whose values could be no other, such as the picture's states where a caption is asked
    about, unless there are only such."""
    curve = sites.tower + sites.position
    told = curve[sites.family != BY_DESIGN]
    return sites[curve.isin(told)] if len(told) else sites


def legend_below(
    figure: Any, panels: Sequence[Any], first: Sequence[str] = (), width: float = 1.85, size: float = 9
) -> None:
    """Every label once, those in `first` before the others, in as many columns of `width` inches as there is room."""
    found = {label: mark for panel in panels for mark, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    ordered = [*first, *(label for label in found if label not in first)]
    marks = {wrapped(label, figure.get_figwidth() - 0.7, size): found[label] for label in ordered}
    longest = 0.45 + LETTER * size * max(len(line) for label in marks for line in label.split("\n"))
    columns = max(1, min(len(marks), int(figure.get_figwidth() / max(width, longest))))
    lines = -(-len(marks) // columns) + sum(label.count("\n") for label in marks) / columns
    more = max(0, lines - ROWS) * 1.5 * size / 72
    figure.set_figheight(figure.get_figheight() + more)  # else they would take it from the panels
    style = {"loc": "outside lower center", "frameon": False, "fontsize": size, "handlelength": 2.6}
    figure.legend(marks.values(), marks.keys(), ncols=columns, **style)


def _places(rows: "pd.DataFrame") -> tuple[dict[str, int], list[str]]:
    """{site: where on the axis}, what is inside a block at the block's own place; and the names of the places."""
    place: dict[str, int] = {}
    names: dict[str, int] = {}
    for site, layer, part in zip(rows.site, rows.layer, rows.part, strict=True):
        name = f"{int(layer)}{'n' if part == 'norm' else ''}"
        place[site] = names.setdefault(name, len(names))
    return place, list(names)


def _shown(names: Sequence[str], room: float) -> list[int]:
    """Which names stand along an axis of that many letters: evenly from the first, and the state after the norm."""
    widest = max(map(len, names)) + 1
    step = -(-len(names) // max(1, int(room / widest)))
    last = len(names) - 1 if names[-1].endswith("n") else len(names)
    evenly = [i for i in range(0, last, step) if last == len(names) or last - i >= step]
    return [*evenly, *range(last, len(names))] if evenly else [0, *range(max(last, 1), len(names))]


def _draw_panel(panel: Any, rows: "pd.DataFrame", colour: Mapping[str, str], look: Style, room: float) -> None:
    """`room` inches wide."""
    place, ticks = _places(rows)
    shown = _shown(ticks, room * 72 / (0.65 * look.small))
    for (position, part), line in rows.groupby(["position", rows.part.replace("norm", "block")], sort=False):
        x, (marker, width) = [place[site] for site in line.site], PART_MARKS[part]
        label = position if part == "block" else f"{position}, {part}"
        style = {"marker": marker, "markersize": min(3.5, 0.9 * room * 72 / len(ticks)), "linewidth": width}
        panel.plot(x, line.value, **style, color=colour[position], label=label)
        if part == "block":
            panel.fill_between(x, line.low, line.high, color=colour[position], alpha=0.18, linewidth=0)
    panel.set_xticks(shown, [ticks[i] for i in shown], fontsize=look.small)
    panel.tick_params(axis="y", labelsize=look.small if look.paper else None)
    said = f"layer (n: {look.norm})" if ticks[-1].endswith("n") else "layer"
    panel.set_xlabel(said if len(ticks) > 1 else "", fontsize=look.text)
    panel.grid(axis="y", color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_controls(panel: Any, rows: "pd.DataFrame", sites: "pd.DataFrame", position: str) -> None:
    """The controls at one position and what the logit lens says, at the sites of the panel."""
    place, _ = _places(sites)
    here = rows[rows.site.isin(list(place))]
    for control, line in controls(here, position).groupby("control", sort=False):
        colour, dashes = DASHES[control]
        label = f"{position}, {words(line.iloc[0])}"
        panel.plot(line.site.map(place), line.value, color=colour, linestyle=dashes, linewidth=1.1, label=label)
    for _, line in lens(here).groupby("probe"):
        panel.plot(line.site.map(place), line.value, color=MODEL, linestyle=":", linewidth=1.3, label="logit lens")


def draw_floors(panels: Sequence[Any], rows: "pd.DataFrame", named: bool = True) -> None:
    """Thin lines across all panels, named to the right of the last one, names pushed apart where lines are close; or
    in the legend, each with dashes of its own."""
    low, high = panels[0].get_ylim()
    low, high = min([low, *rows.value]), max([high, *rows.value])
    for panel in panels:
        for i, row in enumerate(rows.itertuples()):
            dashes = ("--" if not row.control else ":") if named else (0, (4, 1.5 + i))
            style = {"color": of_floor(row.control or row.probe), "linewidth": 0.8, "linestyle": dashes, "zorder": 0.9}
            line = panel.axhline(row.value, **style, gid=words(row))
            line.set_label("_" if named else floor_name(row))
    panels[0].set_ylim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    if not named:
        return
    low, high = panels[0].get_ylim()
    ordered = rows.sort_values("value", kind="stable")
    wanted = [(value - low) / (high - low) for value in ordered.value]
    for row, want, at in zip(ordered.itertuples(), wanted, spread(wanted, APART), strict=True):
        panels[-1].annotate(
            floor_name(row),
            (1.0, want),
            (1.035, at),
            xycoords="axes fraction",
            va="center",
            fontsize=8,
            color="0.3",
            arrowprops={"arrowstyle": "-", "color": of_floor(row.control or row.probe), "linewidth": 0.6}
            | {"shrinkA": 1, "shrinkB": 0},
        )


def floor_name(row: Any) -> str:
    """Of a baseline, in a legend."""
    return "majority of training" if words(row) == "majority" else words(row)


def spread(wanted: Sequence[float], apart: float) -> list[float]:
    """Ascending places moved as little as keeps neighbours `apart`: runs that touch are centred on their mean."""
    runs: list[list[float]] = []
    for place in wanted:
        runs.append([place])
        while len(runs) > 1 and _start(runs[-1], apart) < _start(runs[-2], apart) + apart * len(runs[-2]):
            runs[-2:] = [runs[-2] + runs[-1]]
    return [_start(run, apart) + i * apart for run in runs for i in range(len(run))]


def _start(run: Sequence[float], apart: float) -> float:
    return sum(run) / len(run) - apart * (len(run) - 1) / 2
