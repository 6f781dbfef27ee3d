"""What `fidelity` ends with: a figure, tables, and report.html."""

from mllm_probe.config.report import ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.fidelity import draw_fidelity
from mllm_probe.report.html.by_layer import fidelity_page
from mllm_probe.report.terminal.layers.fidelity import print_agreements
from mllm_probe.report.terminal.progress import show_by_layer
from mllm_probe.results.fidelity import load_agreements
from mllm_probe.results.selection import with_words


def show_fidelity(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """Draw fidelity.png and fidelity.pdf, print the table, write report.html and say where everything is."""
    table = with_words(load_agreements(paths.fidelity), paths.config)
    show_by_layer(table, draw_fidelity, paths.precision, print_agreements, fidelity_page, paths, reporter, settings)
