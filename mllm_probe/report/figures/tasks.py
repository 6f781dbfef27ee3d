"""Several tasks beside each other, a panel a model: curves over relative depth with their intervals and chance, and in
words what may be compared. Scores of two tasks are never subtracted: they have no common measure.

Reads tables only; which blocks may be the best is what tests.csv says of each task.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.records import units
from mllm_probe.records.score import ALPHA
from mllm_probe.records.sites import listed
from mllm_probe.report.figures.layers import held_out, legend_below
from mllm_probe.report.figures.saving import save
from mllm_probe.report.figures.style import CHANCE, COLUMN, PAGE, of_tasks
from mllm_probe.report.html.charts import Chart, depth_chart
from mllm_probe.report.tables.findings import Reading
from mllm_probe.report.terminal.printing import add_row, bare
from mllm_probe.results.selection import blocks, floors, headline, real

if TYPE_CHECKING:
    import pandas as pd

Models = Mapping[str, Mapping[str, Reading]]  # {model: {task: what was read of it, at one position}}
CAVEAT = (
    "Scores of different tasks or data sets are not subtracted from each other: each has its own decisions, chance "
    "level and difficulty. Compare each curve with its own chance level, and the depths at which the curves are best."
)
WRAPPED = 40  # letters of a model's name over its panel


def tasks_of(models: Models) -> list[str]:
    return list(dict.fromkeys(task for found in models.values() for task in found))


def one_scale(models: Models) -> bool:
    """Whether all measures have one unit, and so one axis."""
    return len({units.unit(reading.metric) for found in models.values() for reading in found.values()}) == 1


def chance(reading: Reading) -> float | None:
    """What always saying the commonest label scores, None where there is no such row."""
    base = floors(headline(reading.scores))
    values = base[(base.probe == "majority") & (base.control == "")].value
    return float(values.iloc[0]) if len(values) else None


def _line(reading: Reading) -> "pd.DataFrame":
    rows = blocks(real(headline(reading.scores)))
    return rows[rows.position == reading.position].sort_values("depth")


def _name(task: str, reading: Reading) -> str:
    return f"{task} at {reading.position}, {units.named(reading.metric)}"


def charts(models: Models) -> Iterator[Chart]:
    """A chart a model; a task has one colour in all of them."""
    colour = of_tasks(tasks_of(models))
    for label, found in models.items():
        lines = [(_name(task, one), one.scores, one.position, colour[task]) for task, one in found.items()]
        yield depth_chart(label, lines, _chances(found))


def draw_tasks(models: Models, paths: Sequence[Path], settings: ReportSettings = DEFAULT) -> str:
    """Colours are tasks. A full point may be the best block of its curve, a ring is what validation chose. Says what
    `save` says."""
    from matplotlib.figure import Figure

    columns = min(2, len(models))
    rows, entries = ceil(len(models) / columns), 2 * len(tasks_of(models)) + 2
    size = (PAGE if columns > 1 else COLUMN + 1.2, 2.4 * rows + 0.5 + 0.2 * ceil(entries / 2))
    figure = Figure(figsize=size, layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    colour = of_tasks(tasks_of(models))
    for panel, (label, found) in zip(panels, models.items(), strict=False):
        for task, reading in found.items():
            _draw(panel, task, reading, colour[task])
        _draw_chance(panel, found, colour)
        panel.set_title(label if len(label) <= WRAPPED else f"{label[: WRAPPED - 3]}...", fontsize=8)
        panel.tick_params(labelsize=7, labelbottom=True)
        panel.grid(axis="y", color="0.92")
        panel.set_axisbelow(True)
        panel.margins(y=0.08)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(models) :]:
        panel.set_visible(False)
    full, ring = {"color": "0.35", "markersize": 4}, {"color": "0.35", "markersize": 8, "markerfacecolor": "none"}
    panels[0].plot([], [], "o", label=f"may be the best ({100 * (1 - ALPHA):g} %)", **full)
    panels[0].plot([], [], "o", label="chosen on validation", **ring)
    for panel in panels[len(models) - min(columns, len(models)) : len(models)]:
        panel.set_xlabel("relative depth in the language model", fontsize=8)
    readings = [reading for found in models.values() for reading in found.values()]
    for panel in panels[::columns]:
        panel.set_ylabel(held_out(*(one.scores for one in readings)), fontsize=8)
    legend_below(figure, panels[: len(models)], width=2.4, size=7.5)
    return save(figure, paths, settings)


def _draw(panel: Any, task: str, reading: Reading, colour: str) -> None:
    line = _line(reading)
    panel.plot(line.depth, line.value, color=colour, linewidth=1.3, label=_name(task, reading))
    panel.fill_between(line.depth, line.low, line.high, color=colour, alpha=0.15, linewidth=0)
    among = line.site.isin(reading.among)
    for rows, face in ((line[among], colour), (line[~among], "white")):
        panel.plot(rows.depth, rows.value, "o", markersize=4, color=colour, markerfacecolor=face)
    ring = line[line.site == reading.site]
    panel.plot(ring.depth, ring.value, "o", markersize=8, markerfacecolor="none", color=colour)


def _draw_chance(panel: Any, found: Mapping[str, Reading], colour: Mapping[str, str]) -> None:
    for label, base in _chances(found).items():
        own = colour.get(label.removeprefix("chance, "), CHANCE)
        panel.axhline(base, color=own, linewidth=0.9, linestyle=":", label=label, zorder=0.9)


def _chances(found: Mapping[str, Reading]) -> dict[str, float]:
    """{what to call it: chance}, one where the tasks agree."""
    bases = {f"chance, {task}": base for task, reading in found.items() if (base := chance(reading)) is not None}
    same = len({round(base, 4) for base in bases.values()}) == 1
    return {"chance": next(iter(bases.values()))} if same else bases


def tasks_view(models: Models) -> Table:
    """A row a model and task."""
    what = f"tasks side by side; may be the best: {100 * (1 - ALPHA):g} %, each of its own curve"
    view = bare(what)
    for name in ("model", "task", "chosen (depth)", "score", "chance", "above chance", "may be the best"):
        view.add_column(name, overflow="fold", no_wrap=name in ("chosen (depth)", "score"))
    for label, found in models.items():
        for task, reading in found.items():
            base = chance(reading)
            floor = "" if base is None else units.value(base, None, None, reading.metric)
            above = {True: "yes", False: "not shown", None: "not tested"}[reading.above("above_chance")]
            chosen = f"{reading.site} ({_depth(reading, reading.site):.2f})"
            cells = (label, task, chosen, _score(reading), floor, above, _among(reading))
            add_row(view, *cells)
    return view


def _score(reading: Reading) -> str:
    """Of the block that validation chose, in the measure that is shown."""
    line = _line(reading)
    (row,) = line[line.site == reading.site].itertuples()
    return units.tied(units.value(row.value, row.low, row.high, reading.metric))


def _depth(reading: Reading, site: str) -> float:
    line = _line(reading)
    return float(line.depth[line.site == site].iloc[0])


def _among(reading: Reading) -> str:
    """`lm.03 to lm.08 (0.38 to 1.00)`."""
    if not reading.among:
        return "unknown"
    ends = [f"{_depth(reading, site):.2f}" for site in (reading.among[0], reading.among[-1])]
    return f"{listed(reading.among, reading.blocks)} ({' to '.join(dict.fromkeys(ends))})"


def said(models: Models) -> Iterator[str]:
    """Of each pair of tasks of a model whether they are shown to be best at different blocks; what is not compared."""
    for label, found in models.items():
        for (one, first), (other, second) in combinations(found.items(), 2):
            yield f"{label}: {_apart(one, first, other, second)}"
    readings = [reading for found in models.values() for reading in found.values()]
    if others := sorted({str(one.summary["metric"]) for one in readings if one.summary["metric"] != one.metric}):
        judged = " and ".join(map(units.named, others))
        yield f"Layers are chosen and tested by {judged}, the measure that the sweep selected by."
    yield CAVEAT


def _apart(one: str, first: Reading, other: str, second: Reading) -> str:
    for task, reading in ((one, first), (other, second)):
        if reading.above("above_chance") is False:
            return f"{task} is not significantly above chance, so its best depth means nothing"
        if not reading.among or not reading.compared:
            return f"the blocks of {task} were not compared, so its best depth is unknown"
    first_at, second_at = (f"{'one of ' * (len(found.among) > 1)}{_among(found)}" for found in (first, second))
    sets = f"{one} is best at {first_at}, {other} at {second_at}"
    if shared := [site for site in first.among if site in second.among]:
        return f"{sets}; both sets contain {listed(shared, first.blocks)}, so no difference in depth is shown"
    sure = f"{100 * (1 - 2 * ALPHA):g} % or more"
    return f"{sets}; the sets share no block, so they are best at different depths ({sure})"
