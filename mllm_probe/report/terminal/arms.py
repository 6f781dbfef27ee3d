"""What is said of several trainings side by side: a table, and in words what the structure loss of Sugar (Chow et al.
2024) moved. Fits and resamples nothing.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from rich.console import Console

from mllm_probe.records.score import ALPHA
from mllm_probe.report.terminal.printing import screen
from mllm_probe.results.training import FULL, NAMES, PERMUTED, PLAIN, Effect

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
    line = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    against = [row for row in rows if row.against == PLAIN]
    arms = list(dict.fromkeys(row.arm for row in against))
    console.print(f"[bold]difference to {PLAIN}, mean over seeds of training[/bold]; *: p < 0.05, Holm")
    line("".join(f"{arm:>{CELL}}" for arm in arms))
    for name in dict.fromkeys(map(what, against)):
        cells = {row.arm: row for row in against if what(row) == name}
        unit = next(iter(cells.values())).unit
        line(f"{name}, {unit}", style="dim")
        line("".join(map(_cell, map(cells.get, arms))))
    for sentence in said(rows):
        line(sentence)


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
        yield "  no significant change"


def _beside(row: Effect, permuted: Effect | None, beyond: Effect | None) -> str:
    """Whether it is the labels' structure, by the arm whose labels were permuted, and whether the seeds agree."""
    seeds = "all seeds agree" if row.agreed else "the seeds do not agree"
    if permuted is None or beyond is None:
        return (
            f", {seeds}; no arm with permuted labels was trained, so the structure of the labels may not be the cause"
        )
    more = beyond.p_value < ALPHA and (beyond.value > 0) == (row.value > 0)
    verdict = "larger than with permuted labels" if more else "not larger than with permuted labels"
    return f", {seeds}; {verdict} ({permuted.value:z.2f})"
