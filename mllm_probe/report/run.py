"""What `run` ends with: figures, tables for a paper, the table on the screen, and report.html."""

from mllm_probe.config.report import ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.layers import draw_layers
from mllm_probe.report.html.page import leave_page
from mllm_probe.report.html.run_view import Result
from mllm_probe.report.tables.paper import save_tables
from mllm_probe.report.terminal.progress import both
from mllm_probe.report.terminal.run import print_table
from mllm_probe.results.score_file import load_scores
from mllm_probe.results.selection import check_selection, selected


def show(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """The files and the table of a run, then report.html and where everything is. Raises ConfigError."""
    check_selection([load_scores(paths.scores)], settings)
    leave_page(paths, settings, reporter, show_run(paths, settings))


def show_run(paths: RunPaths, settings: ReportSettings) -> list[str]:
    """Draw layers.png and layers.pdf and those of features, write table.md and table.tex, print the table; what the
    figures lack."""
    run = Result(paths, settings)
    scores, summary, tests = run.scores, run.summary, run.tests
    shown = selected(scores, settings)
    lacking = [draw_layers(shown, both(paths.figure), settings)]
    save_tables(scores, summary, tests, paths.table, shown)
    if summary.get("integrations"):
        from mllm_probe.report.figures.integrations import draw_features

        lacking.append(draw_features(shown, summary, both(paths.features), settings))
    print_table(scores, summary, tests, shown=shown)
    return lacking
