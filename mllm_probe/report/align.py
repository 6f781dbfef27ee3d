"""What `align` ends with: a figure, a table, and report.html."""

from mllm_probe.config.report import ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.align import draw_alignment
from mllm_probe.report.html.by_layer import alignment_page
from mllm_probe.report.terminal.layers.align import print_alignment
from mllm_probe.report.terminal.progress import show_by_layer
from mllm_probe.results.score_file import load_scores


def show_alignment(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """Draw alignment.png and alignment.pdf, print the table, write report.html and say where everything is."""
    table = load_scores(paths.alignment)
    show_by_layer(table, draw_alignment, paths.alignments, print_alignment, alignment_page, paths, reporter, settings)
