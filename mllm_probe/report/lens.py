"""What `lens` ends with: figure, table, what it says in words, and report.html."""

from mllm_probe.config.report import ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import read_entries
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.regions import draw_panels
from mllm_probe.report.html.pictured.lens import lens_page
from mllm_probe.report.tables.lens import lens_panels
from mllm_probe.report.terminal.layers.lens import print_lens
from mllm_probe.report.terminal.progress import both, end
from mllm_probe.results.lenses.lens import SUMMARY, load_lens


def show_lens(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """Draw lens.png and .pdf, print the table, write the page. Raises DataError."""
    table = load_lens(paths.lens())
    summary = read_entries(paths.summary, SUMMARY, SUMMARY) if paths.summary.is_file() else {}
    title = "What picture tokens say"
    lacking = draw_panels(list(lens_panels(table)), title, table, both(paths.lens), settings)
    print_lens(table, summary)
    lens_page(paths, table, summary, settings.pictures)
    end(reporter, paths.root, lacking, page=paths.page)
