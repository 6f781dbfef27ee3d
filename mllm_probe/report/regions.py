"""What `run task=regions` ends with: figure, table, what it says in words, and report.html."""

from mllm_probe.config.report import ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import read_entries
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.regions import draw_grids, draw_regions
from mllm_probe.report.html.pictured.regions import regions_page
from mllm_probe.report.terminal.layers.regions import print_regions
from mllm_probe.report.terminal.progress import both, end
from mllm_probe.results.regions import SUMMARY, load_regions
from mllm_probe.spatial.grid_file import load_grids


def show_regions(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """Draw regions and grids, each as .png and .pdf, print the table, write the page. Raises DataError."""
    table = load_regions(paths.regions)
    summary = read_entries(paths.summary, SUMMARY, SUMMARY) if paths.summary.is_file() else {}
    grids = load_grids(paths.grids())
    lacking = [draw_regions(table, both(paths.places), settings)]
    if grids is not None and grids.pictures:
        lacking.append(draw_grids(grids, paths.root, both(paths.grids), settings))
    print_regions(table, summary)
    regions_page(paths, table, summary, grids, settings.pictures)
    end(reporter, paths.root, *lacking, page=paths.page)
