"""report.html: one file that shows a run, or a study of two, to somebody who was not there. Fetches nothing.

Read from the files of the folder alone; the numbers are those of its tables. Whatever comes from a data file is escaped
by the template, and a policy in the page's head lets no other script run than its own two.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mllm_probe.config.report import ReportSettings
from mllm_probe.files.jobs import Job, read
from mllm_probe.files.paths import SIDES, RunPaths
from mllm_probe.files.store_paths import replacing
from mllm_probe.records import units
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.saving import svg_uri
from mllm_probe.report.html.run_view import Result
from mllm_probe.report.html.skeleton import filled, without_codes
from mllm_probe.report.tables.curve_shapes import p_said
from mllm_probe.report.tables.findings import Reading
from mllm_probe.report.terminal.progress import end


def command(paths: RunPaths) -> str:
    """What gives the same numbers: the command with the settings that status.json says were typed."""
    if not paths.status.is_file():
        return "mllm-probe run"
    job = read(Job, paths.status)
    if job is None:
        return f"unknown: {paths.status.name} is damaged"
    return shlex.join(["mllm-probe", *job.command.split(), *job.overrides])


def results_of(paths: RunPaths, settings: ReportSettings) -> list[Result]:
    """A run, or both tasks of a study."""
    if paths.study.is_file():
        return [Result(paths.side(side), settings, side) for side in SIDES]
    return [Result(paths, settings)]


def write_page(
    paths: RunPaths, settings: ReportSettings, results: Sequence[Result] | None = None, curves: Any = None
) -> list[str]:
    """report.html of a run, or of a study with both its tasks, in one move; a line on each damaged file that it goes
    without. `results`, and the `curves` of a study, may have been read and drawn before. Raises DataError."""
    study = _read(paths.study) if paths.study.is_file() else None
    results = results or results_of(paths, settings)
    content = render(paths, results, study, curves)
    with replacing(paths.page) as part:
        part.write_text(without_codes(content), encoding="utf-8")
    return [line for result in results for line in result.left_out]


def leave_page(
    paths: RunPaths,
    settings: ReportSettings,
    reporter: Reporter,
    lacking: Sequence[str] = (),
    results: Sequence[Result] | None = None,
    curves: Any = None,
) -> None:
    """Write the page, and say what figures and page go without and where everything is."""
    end(reporter, paths.root, *lacking, *write_page(paths, settings, results, curves), page=paths.page)


def answering(results: Sequence[Result]) -> list[Reading | None]:
    """Of both tasks of a study, what was read at the position of study.png."""
    from mllm_probe.report.figures.study import study_positions
    from mllm_probe.results.selection import headline

    read = study_positions(*(headline(result.selected) for result in results))
    return [
        next((one for one in result.readings if one.position == at), None)
        for result, at in zip(results, read, strict=True)
    ]


def render(paths: RunPaths, results: Sequence[Result], study: Mapping[str, Any] | None, curves: Any = None) -> str:
    """The page. Without the plot library its figures stand still."""
    more = _of_study(results, curves) if study else {}
    return filled("page.html", results=results, study=study, command=command(paths), units=units, p_said=p_said, **more)


def _read(path: Path) -> dict[str, Any]:
    from mllm_probe.results.study import load_study

    return load_study(path)


def _of_study(results: Sequence[Result], curves: Any) -> dict[str, Any]:
    """What the page of a study shows above its two tasks."""
    from mllm_probe.report.figures.study import study_figure, study_positions
    from mllm_probe.report.html.charts import study_chart
    from mllm_probe.report.terminal.study import QUESTION, answered, following, headline_said
    from mllm_probe.results.selection import headline

    tables = [result.selected for result in results]
    figure = curves or study_figure(tables[0], tables[1], answering(results))
    return {
        "both": [study_chart(tables, study_positions(*map(headline, tables)))],
        "study_figure": svg_uri(figure, results[0].settings),
        "question": QUESTION,
        "following": following,
        "answers": list(answered(answering(results))),
        "headline_said": headline_said,
    }
