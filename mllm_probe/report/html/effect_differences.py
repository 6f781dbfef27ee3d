"""Differences of interventions between models: a table a pair of models on the screen, and report.html. Tests nothing
itself."""

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mllm_probe.comparison.compared_effects import FinishedSweep
from mllm_probe.comparison.effect_differences import EffectDifference
from mllm_probe.errors import count
from mllm_probe.files.comparison_paths import ComparisonPaths
from mllm_probe.records import units
from mllm_probe.records.score import ALPHA
from mllm_probe.report.html.pieces import Part, write_other
from mllm_probe.report.tables.effects import place
from mllm_probe.report.terminal.printing import add_row, bare, screen, wide_console
from mllm_probe.results.selection import many_of
from mllm_probe.scoring.alarms import few_groups

if TYPE_CHECKING:
    from rich.table import Table


def show_differences(
    rows: Sequence[EffectDifference],
    metric: str,
    sweeps: Sequence[FinishedSweep],
    paths: ComparisonPaths,
    words: Sequence[str],
) -> None:
    """One of the metrics; `words` are the arguments that the page shows."""
    parts, groups = [], many_of(*(one.rows for one in sweeps))
    for label in dict.fromkeys(row.label for row in rows):
        own = [row for row in rows if (row.label, row.metric) == (label, metric)]
        parts.append(Part(f"{label} minus {own[0].reference}", list(_said(own, groups)), views=[_view(own, groups)]))
    for part in parts:
        wide_console().print(*part.views)
        for line in (*part.said, ""):
            screen().print(line, markup=False, highlight=False)
    title = f"{count(len(sweeps), 'intervention')} of kind {rows[0].kind}"
    about = [f"{one.task}: {one.label}, {one.name}" for one in sweeps]
    command = shlex.join(["mllm-probe", "compare", *words])
    write_other(paths.page, "mllm-probe, finished interventions side by side", title, about, parts, command)


def _view(rows: Sequence[EffectDifference], groups: str) -> "Table":
    first = rows[0]
    level = f"{100 * first.ci_level:g} % intervals over {groups}"
    table = bare(title=f"{first.task}, {first.kind}: {units.headed(first.metric)}, {level}")
    for name in ("changed", "layer" if first.site else "blocks", first.label, first.reference):
        table.add_column(name, overflow="fold")
    for name in ("difference", "p"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        gap = units.bare(row.difference, row.low, row.high, row.metric)
        values = (units.number(value, row.metric) for value in (row.value, row.reference_value))
        add_row(table, row.what, place(row), *values, gap, f"{row.p_max_t:.2g}")
    return table


def _said(rows: Sequence[EffectDifference], groups: str) -> Iterator[str]:
    first, apart = rows[0], sum(row.p_max_t <= ALPHA for row in rows)
    yield (
        f"{apart} of {count(len(rows), 'condition')} differ (p <= {ALPHA:g}); {first.n} statements about "
        f"{first.n_groups} {groups}, those that all models answer rightly without intervention"
    )
    yield f"p are two-sided and corrected over {first.family} (max-T); intervals are of each condition alone"
    if few := few_groups(first.n_groups, groups):
        yield few
