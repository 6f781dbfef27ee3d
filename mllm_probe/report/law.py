"""What `vision fit` ends with: a figure and tables."""

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.row_file import load_rows
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.law import draw_laws
from mllm_probe.report.figures.saving import tell_lacking
from mllm_probe.report.terminal.law import print_laws
from mllm_probe.results.vision import GroupRow, LawRow, PointRow


def show_fit(paths: RunPaths, reporter: Reporter, settings: ReportSettings = DEFAULT) -> None:
    """Draw fit.png and fit.pdf, print the table and say where everything is."""
    laws = load_rows(paths.fit, LawRow)
    points, files = load_rows(paths.points, PointRow), [paths.surfaces("png"), paths.surfaces("pdf")]
    tell_lacking(reporter, draw_laws(laws, points, files, settings))
    print_laws(laws, load_rows(paths.groups, GroupRow))
    reporter.note(f"everything is in {paths.root}")
