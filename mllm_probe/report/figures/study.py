"""study.png and study.pdf: the curves of two tasks, and the layers that may be the best of each."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.report.figures.layers import held_out, legend_below, spread
from mllm_probe.report.figures.style import CHANCE, COLUMN, DASHES, STYLES, Style, of_study
from mllm_probe.report.tables.findings import Reading
from mllm_probe.results.selection import blocks, controls, floors, headline, real, words

if TYPE_CHECKING:
    import pandas as pd

NAME = 26  # letters of a line of a name beside a curve
APART = 0.05  # least distance of two labels, as a share of the panel's height


def study_figure(
    whole: "pd.DataFrame",
    local: "pd.DataFrame",
    best: Sequence[Reading | None],
    settings: ReportSettings = DEFAULT,
) -> Any:
    """Both tasks against relative depth of the language model at one position, with their controls and chance.

    The position is `last`, or the first that both tasks read in the language model; each shows its own first one where
    they share none. Controls have the colour of their task. The layers among which the best one of each is are
    marked above the curves; `best`: what was read of each task at its position.
    """
    from matplotlib.figure import Figure

    look = STYLES[settings.style]
    figure = Figure(figsize=(COLUMN, 2.9) if look.paper else (8.2, 5.0), layout="constrained")
    panel = figure.subplots()
    tables = [headline(table) for table in (whole, local)]
    names: list[tuple[float, str, str]] = []
    colours = of_study(whole.task.iloc[0], local.task.iloc[0])
    for rows, kind, colour, position in zip(
        tables, ("global", "local"), colours, study_positions(*tables), strict=True
    ):
        names.append((*_draw_task(panel, rows, kind, colour, position), colour))
    _mark_best(panel, best, tables, colours, look)
    _name_ends(panel, names, look)
    _draw_chance(panel, tables, colours)
    first = whole.iloc[0]
    said = (
        f"The whole picture and single objects, layer by layer: {first.model} ({first.quantization}) on {first.dataset}"
    )
    figure.suptitle(said, fontsize=look.title)
    ends = "" if look.paper else " (0: embeddings, 1: top layer)"
    panel.set_xlabel(f"relative depth in the language model{ends}", fontsize=look.text)
    panel.set_ylabel(held_out(whole), fontsize=look.text)
    panel.tick_params(labelsize=look.small if look.paper else None)
    panel.grid(axis="y", color="0.92")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    legend_below(figure, [panel], width=look.entry if look.paper else 1.6, size=look.small if look.paper else 9)
    return figure


def study_positions(whole: "pd.DataFrame", local: "pd.DataFrame") -> tuple[str, str]:
    """`last` where both have it, else the first they share, else the first of each."""
    read, other = (list(dict.fromkeys(blocks(real(rows)).position)) for rows in (whole, local))
    shared = [position for position in read if position in other]
    if shared:
        chosen = "last" if "last" in shared else shared[0]
        return chosen, chosen
    return read[0], other[0]


def _draw_task(panel: Any, rows: "pd.DataFrame", kind: str, colour: str, position: str) -> tuple[float, str]:
    """The curve of one task, its band and its controls; where the curve ends and what to call it."""
    line = blocks(real(rows))
    line = line[line.position == position].sort_values("depth")
    task = f"{rows.task.iloc[0]} ({kind})"
    panel.plot(
        line.depth,
        line.value,
        marker="o",
        markersize=min(4, 130 / len(line)),
        linewidth=1.8,
        color=colour,
        gid=task,
        zorder=3,
    )
    panel.fill_between(line.depth, line.low, line.high, color=colour, alpha=0.16, linewidth=0)
    for control, one in blocks(controls(rows, position)).groupby("control", sort=False):
        one, dashes = one.sort_values("depth"), DASHES[control][1]
        name = f"{rows.task.iloc[0]}, {control}"
        panel.plot(one.depth, one.value, linestyle=dashes, linewidth=1.1, alpha=0.75, color=colour, gid=name)
        panel.plot([], [], linestyle=dashes, linewidth=1.1, color="0.35", label=words(one.iloc[0]))
    return float(line.value.iloc[-1]), f"{task}\nat {position}"


def _name_ends(panel: Any, names: Sequence[tuple[float, str, str]], look: Style) -> None:
    """Each curve is named at its end, names pushed apart; on paper in the legend."""
    if look.paper:
        for _, name, colour in names:
            panel.plot([], [], marker="o", markersize=3, color=colour, label=name.replace("\n", " "))
        return
    low, high = panel.get_ylim()
    ordered = sorted((value, "\n".join(fill(part, NAME) for part in name.split("\n")), c) for value, name, c in names)
    most = max(name.count("\n") + 1 for _, name, _ in ordered)
    places = spread([(value - low) / (high - low) for value, _, _ in ordered], most * APART)
    for (_, name, colour), at in zip(ordered, places, strict=True):
        panel.text(1.01, at, name, transform=panel.transAxes, color=colour, fontsize=9, va="center")


def _mark_best(
    panel: Any, best: Sequence[Reading | None], tables: Sequence["pd.DataFrame"], colours: Sequence[str], look: Style
) -> None:
    """Above the curves, for each one that is above chance: a bar over the layers among which its best one is, a mark at
    the one validation chose, and both in words."""
    rows = [
        (one, dict(zip(table.site, table.depth, strict=True)), colour)
        for one, table, colour in zip(best, map(blocks, map(real, tables)), colours, strict=True)
        if one is not None and one.any_above and one.among and one.compared
    ]
    low, high = panel.get_ylim()
    step = (0.14 if look.paper else 0.08) * (high - low)
    panel.set_yticks([tick for tick in panel.get_yticks() if low <= tick <= high])  # nothing is scored above the curves
    panel.set_ylim(low, high + len(rows) * step)
    for i, (one, depths, colour) in enumerate(rows):
        _mark(panel, one, depths, high + (len(rows) - 0.65 - i) * step, colour, look)


def _mark(panel: Any, one: Reading, depths: Mapping[str, float], at: float, colour: str, look: Style) -> None:
    first, last = one.among[0], one.among[-1]
    ends = [depths[first], depths[last]]
    panel.plot(
        ends,
        [at, at],
        color=colour,
        linewidth=3,
        solid_capstyle="butt",
        alpha=0.45,
        marker="|",
        gid=f"may be the best, {one.scores.task.iloc[0]}",
    )
    panel.plot(depths[one.site], at, marker="v", markersize=7, color=colour)
    middle = sum(ends) / 2
    side = "left" if middle < 0.2 else "right" if middle > 0.8 else "center"
    panel.annotate(
        f"chosen {one.site}; the best from {first} to {last}",
        (middle if side == "center" else ends[side == "right"], at),
        (0, 7),
        textcoords="offset points",
        ha=side,
        fontsize=look.small + 1,
        color=colour,
    )


def _draw_chance(panel: Any, tables: Sequence["pd.DataFrame"], colours: Sequence[str]) -> None:
    """What always saying the commonest label scores: one line where the tasks agree, one each where they do not."""
    found: dict[float, list[int]] = {}
    for i, rows in enumerate(tables):
        base = floors(rows)
        for value in base[base.probe == "majority"].value:
            found.setdefault(round(float(value), 4), []).append(i)
    for value, tasks in found.items():
        lone = len(tasks) == 1 and len(found) > 1
        label = f"chance, {tables[tasks[0]].task.iloc[0]}" if lone else "chance"
        colour = colours[tasks[0]] if lone else CHANCE
        panel.axhline(value, color=colour, linewidth=0.8, linestyle="--", label=label, zorder=0.9)
