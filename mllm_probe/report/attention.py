"""What `lens lens=[attention]` ends with: figure, table, what it says in words, and report.html."""

from functools import partial

from mllm_probe.config.report import ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import read_entries
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.figures.regions import draw_grids, draw_panels
from mllm_probe.report.html.pictured.attention import attention_page
from mllm_probe.report.tables.attention import attention_panels
from mllm_probe.report.terminal.layers.attention import print_attention
from mllm_probe.report.terminal.progress import both, end
from mllm_probe.results.lenses.attention import SUMMARY, load_attention
from mllm_probe.spatial.grid_file import load_grids

LOOK = "Where statements look"
MAPS = "attention of their tokens on the picture (blue, each layer to its strongest token), and their object (orange)"


def show_attention(paths: RunPaths, reporter: Reporter, settings: ReportSettings) -> None:
    """Draw attention and grids, each as .png and .pdf, print the table, write the page. Raises DataError."""
    table = load_attention(paths.lens(of="attention"))
    summary = read_entries(paths.summary, SUMMARY, SUMMARY) if paths.summary.is_file() else {}
    files = both(partial(paths.lens, of="attention"))
    grids, lacking = (
        load_grids(paths.grids()),
        [draw_panels(list(attention_panels(table)), LOOK, table, files, settings)],
    )
    if grids is not None and grids.pictures:
        lacking.append(draw_grids(grids, paths.root, both(paths.grids), settings, f"{LOOK}: {MAPS}"))
    print_attention(table, summary)
    attention_page(paths, table, summary, grids, settings.pictures)
    end(reporter, paths.root, *lacking, page=paths.page)
