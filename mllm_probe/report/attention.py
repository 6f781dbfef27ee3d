"""What `lens lens=[attention]` ends with: figure, table, what it says in words, and report.html."""

from functools import partial

from mllm_probe.config.report import ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import read_entries
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.regions import draw_panels
from mllm_probe.report.html.attention import attention_page
from mllm_probe.report.tables.attention import attention_panels
from mllm_probe.report.terminal.layers.attention import print_attention
from mllm_probe.report.terminal.progress import both, end
from mllm_probe.results.attention import SUMMARY, load_attention


def show_attention(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """Draw attention.png and .pdf, print the table, write the page. Raises DataError."""
    table = load_attention(paths.lens(of="attention"))
    summary = read_entries(paths.summary, SUMMARY, SUMMARY) if paths.summary.is_file() else {}
    files = both(partial(paths.lens, of="attention"))
    lacking = draw_panels(list(attention_panels(table)), "Where statements look", table, files, settings)
    print_attention(table, summary)
    attention_page(paths, table, summary)
    end(reporter, paths.root, lacking, page=paths.page)
