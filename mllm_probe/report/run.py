"""What `run` ends with: figures, tables for a paper, the table on the screen, and report.html."""

from mllm_probe.config.report import ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.saving import save
from mllm_probe.report.html.page import leave_page, results_of
from mllm_probe.report.html.run_view import Result
from mllm_probe.report.tables.paper import save_tables
from mllm_probe.report.terminal.progress import both
from mllm_probe.report.terminal.run import print_table
from mllm_probe.results.selection import check_selection


def show(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """The files and the table of a run, then report.html and where everything is. Raises ConfigError."""
    (run,) = results = results_of(paths, settings)
    check_selection([run.scores], settings)
    leave_page(paths, settings, reporter, show_run(run), results)


def show_run(run: Result) -> list[str]:
    """Draw layers.png and layers.pdf and those of features, write table.md and table.tex, print the table; what the
    figures lack."""
    scores, summary, tests, shown, paths = run.scores, run.summary, run.tests, run.selected, run.paths
    lacking = [save(run.drawn, both(paths.figure), run.settings)]
    save_tables(scores, summary, tests, paths.table, shown)
    if summary.get("integrations"):
        lacking.append(save(run.gains, both(paths.features), run.settings))
    print_table(scores, summary, tests, shown=shown)
    return lacking
