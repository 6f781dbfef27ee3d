"""What `vision fit` ends with: a figure and tables."""

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import load_rows
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.law import draw_laws
from mllm_probe.report.terminal.law import print_laws
from mllm_probe.report.terminal.progress import both, end
from mllm_probe.results.vision import GroupRow, LawRow, PointRow


def show_fit(paths: RunPaths, reporter: Reporter, settings: ReportSettings = DEFAULT) -> None:
    """Draw fit.png and fit.pdf, print the table and say where everything is."""
    laws, points = load_rows(paths.fit, LawRow), load_rows(paths.points, PointRow)
    lacking = draw_laws(laws, points, both(paths.surfaces), settings)
    print_laws(laws, load_rows(paths.groups, GroupRow))
    end(reporter, paths.root, lacking)
