"""How a command ends: its figure, its words, its page, and where everything is. Knows no command."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.config.report import ReportSettings
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.protocols import Reporter

if TYPE_CHECKING:
    import pandas as pd


def both(figure: Callable[[str], Path]) -> list[Path]:
    """The files of a figure: for the screen and for a paper."""
    return [figure("png"), figure("pdf")]


def end(reporter: Reporter, folder: Path, *remarks: str, page: Path | None = None) -> None:
    """What figures and page lack, each once, then where everything is."""
    for line in dict.fromkeys(filter(None, remarks)):
        reporter.note(line)
    reporter.note(f"everything is in {folder}" + (f"; open {page.name} there" if page else ""))


def show_by_layer(
    table: "pd.DataFrame",
    draw: Callable[["pd.DataFrame", Sequence[Path], ReportSettings], str],
    figure: Callable[[str], Path],
    printed: Callable[["pd.DataFrame"], None],
    write_page: Callable[[RunPaths, "pd.DataFrame"], None],
    paths: RunPaths,
    reporter: Reporter,
    settings: ReportSettings,
) -> None:
    """The end of a command that compares layers, from the table it wrote: its figure, its words, its page."""
    lacking = draw(table, both(figure), settings)
    printed(table)
    write_page(paths, table)
    end(reporter, paths.root, lacking, page=paths.page)
