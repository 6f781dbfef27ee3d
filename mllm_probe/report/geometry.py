"""What `geometry` ends with: heat maps, a short table, and report.html."""

from mllm_probe.config.report import ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.geometry import draw_geometry
from mllm_probe.report.html.by_layer import geometry_page
from mllm_probe.report.terminal.layers.geometry import print_relations
from mllm_probe.report.terminal.progress import show_by_layer
from mllm_probe.results.geometry import load_relations


def show_geometry(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """Draw geometry.png and geometry.pdf, print the table, write report.html and say where everything is."""
    table = load_relations(paths.geometry)
    show_by_layer(table, draw_geometry, paths.heatmaps, print_relations, geometry_page, paths, reporter, settings)
