"""What a comparison shows: figures, tables and sentences, on the screen and on its page. Ranks nothing itself."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mllm_probe.comparison.finished import FinishedRun
from mllm_probe.comparison.ranking import Rank
from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.errors import count
from mllm_probe.files.comparison_paths import ComparisonPaths
from mllm_probe.records import units
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.score import ALPHA
from mllm_probe.report.figures.comparison import draw_comparison
from mllm_probe.report.figures.style import of_others
from mllm_probe.report.figures.tasks import charts, draw_tasks, one_scale, said, tasks_of, tasks_view
from mllm_probe.report.html.charts import depth_chart
from mllm_probe.report.html.pieces import Part, picture_uri, write_other
from mllm_probe.report.tables.curve_shapes import print_curves
from mllm_probe.report.tables.findings import Reading
from mllm_probe.report.terminal.printing import add_row, bare, screen, wide_console
from mllm_probe.report.terminal.progress import both
from mllm_probe.results.score_file import load_tests
from mllm_probe.results.selection import leading, many_of

if TYPE_CHECKING:
    from rich.table import Table

Tasks = Mapping[str, Sequence[FinishedRun]]


def show(
    tasks: Tasks,
    ranks: Sequence[Sequence[Rank]],
    wanted: Sequence[str],
    paths: ComparisonPaths,
    words: Sequence[str],
    reporter: Reporter,
    settings: ReportSettings = DEFAULT,
) -> None:
    """Figures, then tables and sentences on the screen, then report.html with all of it. `ranks`: the rows of a task at
    a position each; `wanted`: the positions that the user named; `words` are the arguments that the page shows;
    `settings` are those of figures."""
    console = wide_console()
    parts = [_side_by_side(tasks, wanted, paths, reporter, settings)] if len(tasks) > 1 else []
    colour = of_others(list(dict.fromkeys(run.label for found in tasks.values() for run in found)))
    for task in dict.fromkeys(rows[0].task for rows in ranks):
        own = [rows for rows in ranks if rows[0].task == task]
        if lacking := _draw_rivals(own, tasks[task], list(colour), paths, settings):
            reporter.note(lacking)
        parts += _rivals(own, tasks[task], colour, paths)
    for part, rows in zip(parts, [*[None] * (len(tasks) > 1), *ranks], strict=True):
        out = console if rows else screen()
        out.print(*part.views)
        if rows is not None:
            curves = {run.label: run.curve(rows[0].position) for run in tasks[rows[0].task]}
            print_curves({row.label: curves[row.label] for row in rows}, rows[0].metric, console)
        for line in (*part.said, ""):
            out.print(line, markup=False, highlight=False)
    runs = [run for found in tasks.values() for run in found]
    title = f"{count(len(runs), 'run')} of {' and '.join(tasks)}"
    about = [f"{run.task}: {run.label}, {run.dataset}, {run.name}" for run in runs]
    command = shlex.join(["mllm-probe", "compare", *words])
    write_other(paths.page, "mllm-probe, finished runs side by side", title, about, parts, command)


def _side_by_side(
    tasks: Tasks, wanted: Sequence[str], paths: ComparisonPaths, reporter: Reporter, settings: ReportSettings
) -> Part:
    models = _models(tasks, wanted)
    heading = " and ".join(tasks_of(models))
    if not one_scale(models):
        why = "Their measures have no common scale, so the tasks share no figure."
        return Part(heading, (*said(models), why), views=[tasks_view(models)])
    if lacking := draw_tasks(models, both(paths.tasks), settings):
        reporter.note(lacking)
    figure = picture_uri(paths.tasks("png"))
    return Part(heading, list(said(models)), list(charts(models)), figure, [tasks_view(models)])


def _models(tasks: Tasks, wanted: Sequence[str]) -> dict[str, dict[str, Reading]]:
    """{label: {task: its reading}}, all at one position where all read one: one that is wanted, else `last`."""
    runs = [run for found in tasks.values() for run in found]
    shared = [name for name in runs[0].summary["chosen"] if all(name in run.summary["chosen"] for run in runs)]
    ordered = sorted(shared, key=lambda name: (name not in wanted, name != "last"))
    models: dict[str, dict[str, Reading]] = {}
    for run in runs:
        position = ordered[0] if ordered else leading(run.summary)
        if position is not None:
            reading = Reading(run.scores, run.summary, load_tests(run.paths.tests), position)
            models.setdefault(run.label, {})[run.task] = reading
    return models


def _draw_rivals(
    ranks: Sequence[Sequence[Rank]],
    runs: Sequence[FinishedRun],
    every: Sequence[str],
    paths: ComparisonPaths,
    settings: ReportSettings,
) -> str:
    """The figure of a task, and what draw_comparison says of it."""
    positions = [rows[0].position for rows in ranks]
    chosen = {(run.label, position): run.chosen(position).site for run in runs for position in positions}
    files = both(partial(paths.figure, runs[0].task))
    return draw_comparison({run.label: run.scores for run in runs}, chosen, positions, files, every, settings)


def _rivals(
    ranks: Sequence[Sequence[Rank]], runs: Sequence[FinishedRun], colour: Mapping[str, str], paths: ComparisonPaths
) -> Iterator[Part]:
    """A part a position; the figure, which has all positions, in the first."""
    task, told = runs[0].task, many_of(*(run.scores for run in runs))
    positions = [rows[0].position for rows in ranks]
    drawn = [
        depth_chart(position, [(run.label, run.scores, position, colour[run.label]) for run in runs])
        for position in positions
    ]
    for i, rows in enumerate(ranks):
        figure = "" if i else picture_uri(paths.figure(task, "png"))
        yield Part(
            f"{task} at {rows[0].position}",
            [*_said(rows, told), *_chosen_by(runs)],
            [] if i else drawn,
            figure,
            [_view(rows, told)],
        )


def _chosen_by(runs: Sequence[FinishedRun]) -> Iterator[str]:
    """Where another measure is shown."""
    if selected := {str(run.summary["metric"]) for run in runs} - {run.rows.metric.iloc[0] for run in runs}:
        yield f"layers are chosen on validation by {' and '.join(map(units.named, sorted(selected)))}"


def _view(rows: Sequence[Rank], groups: str) -> "Table":
    """The ranking at one position; `groups` are what intervals are over."""
    first = rows[0]
    level = f"{100 * first.ci_level:g} %"
    what = f"{first.task} at {first.position}: {units.headed(first.metric)}"
    bounded = any(row.low == row.low for row in rows)
    table = bare(title=what + f", {level} intervals over {groups}" * bounded)
    table.add_column("run", overflow="fold")
    for name in ("layer (depth)", units.headed(first.metric), "difference", "p"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        layer, value = f"{row.site} ({row.depth:.2f})", units.bare(row.value, row.low, row.high, first.metric)
        gap = _gap(row)
        add_row(table, row.label, layer, value, gap, "" if row.p_adjusted is None else f"{row.p_adjusted:.2g}")
    return table


def _said(rows: Sequence[Rank], groups: str) -> Iterator[str]:
    among = [row.label for row in rows if row.may_be_best]
    if rows[0].uncompared:
        yield f"runs are {rows[0].uncompared}; each may be the best"
    elif among:
        yield f"may be the best ({100 * (1 - ALPHA):g} %): {', '.join(among)}"
    else:
        yield "the runs were not all tested on the same decisions, so none is named the best"
    if family := next((row.family for row in rows if row.family), ""):
        yield f"differences to {rows[0].reference}: {rows[0].n} test decisions on {rows[0].n_groups} {groups}"
        yield f"their intervals and p are adjusted for {family}"


def _gap(row: Rank) -> str:
    """In the unit of the table."""
    if row.difference is None:
        return ""
    return units.bare(row.difference, row.difference_low, row.difference_high, row.metric)
