"""arms.csv and what is said of several trainings side by side: a table, a figure, and in words what the structure loss
of Sugar (Chow et al. 2024) moved. Fits and resamples nothing."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from rich.console import Console

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.records.score import ALPHA
from mllm_probe.report.colours import of_arms
from mllm_probe.report.figures import legend_below
from mllm_probe.report.finish import save
from mllm_probe.report.markup import screen
from mllm_probe.results.training import FULL, NAMES, PERMUTED, PLAIN, Effect

NAME = 36  # letters of a line of a measure beside a panel
CELL = 12  # characters of a number
WORSE = ("captions",)  # less is better


def what(row: Any) -> str:
    """A measure in words."""
    place = f"{row.task} at {row.position}" if row.task else ""
    layers = "mean over blocks" if row.layers == "all" else row.layers
    return ", ".join(part for part in (NAMES.get(row.measure, row.measure), place, layers) if part)


def print_arms(rows: Sequence[Effect], console: Console | None = None) -> None:
    """What each arm differs by from captions alone, then the one difference that a claim rests on."""
    console = console or screen()
    against = [row for row in rows if row.against == PLAIN]
    arms = list(dict.fromkeys(row.arm for row in against))
    console.print(f"[bold]difference to {PLAIN}, mean over seeds of training[/bold]; *: p < 0.05, Holm")
    console.print("".join(f"{arm:>{CELL}}" for arm in arms), highlight=False, markup=False, soft_wrap=True)
    for name in dict.fromkeys(map(what, against)):
        cells = {row.arm: row for row in against if what(row) == name}
        unit = next(iter(cells.values())).unit
        console.print(f"{name}, {unit}", style="dim", highlight=False, markup=False, soft_wrap=True)
        console.print("".join(map(_cell, map(cells.get, arms))), highlight=False, markup=False, soft_wrap=True)
    for line in said(rows):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _cell(row: Effect | None) -> str:
    shown = "" if row is None else f"{row.value:z.2f}{'*' if row.p_holm < ALPHA else ' '}"
    return f"{shown:>{CELL}}"


def said(rows: Sequence[Effect]) -> Iterator[str]:
    """What lg_ld minus lg moved, beside what permuted labels moved; nothing else is claimed."""
    of = {(what(row), row.arm, row.against): row for row in rows}
    claimed = [row for row in rows if (row.arm, row.against) == (FULL, PLAIN) and row.p_value == row.p_value]
    moved = [row for row in claimed if row.p_holm < ALPHA]
    yield f"{FULL} minus {PLAIN}: {len(moved)} of {len(claimed)} measures differ (Holm)" + (":" if moved else "")
    for row in moved:
        beside, beyond = of.get((what(row), PERMUTED, PLAIN)), of.get((what(row), FULL, PERMUTED))
        bounds = f"[{row.low:z.2f}, {row.high:z.2f}]"
        yield f"  {what(row)}: {row.value:z.2f} {bounds} {row.unit}{_beside(row, beside, beyond)}"
    if claimed and not moved:
        yield "  nothing moved beyond what test pictures differ by"


def _beside(row: Effect, permuted: Effect | None, beyond: Effect | None) -> str:
    """Whether it is the labels' structure, by the arm whose labels were permuted, and whether the seeds agree."""
    seeds = "all seeds agree" if row.agreed else "the seeds do not agree"
    if permuted is None or beyond is None:
        return f", {seeds}; no arm with permuted labels was trained, so nothing says that it is their structure"
    more = beyond.p_value < ALPHA and (beyond.value > 0) == (row.value > 0)
    verdict = "more than permuted labels move it" if more else "no more than permuted labels move it"
    return f", {seeds}; {verdict} ({permuted.value:z.2f})"


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
    figure.suptitle("What each training changed, against the caption loss alone", fontsize=11)
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
