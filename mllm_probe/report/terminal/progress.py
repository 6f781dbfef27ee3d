"""Progress of a long stage, and how a command ends: its figure, its words, its page, and where everything is.

A bar on a terminal, plain lines elsewhere, nothing with --quiet. A job of SLURM writes plain lines even where it has a
terminal, for its output ends up in a file.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from mllm_probe.config.report import ReportSettings
from mllm_probe.config.verbosity import NORMAL, QUIET, VERBOSE, verbosity
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.protocols import Reporter
from mllm_probe.report.terminal.printing import screen

if TYPE_CHECKING:
    import pandas as pd

PLAIN_EVERY = {NORMAL: 10.0, VERBOSE: 1.0}  # seconds between two lines where there is no terminal
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes; what the peak is counted in
PAGES = Path("/proc/self/statm")


class _Memory(ProgressColumn):
    """Gives way to all others where a line is short: a column that may wrap shrinks first, and its text does not."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["memory"], no_wrap=True, overflow="ellipsis")


class RichReporter:
    """The Reporter of the commands; use it as a context manager, so that the bar is closed whatever happens.

    Verbose, it begins every line with the seconds since its own beginning. Raises ConfigError for an unknown verbosity.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console, self._level, self._began = console or screen(stderr=True), verbosity(), time.monotonic()
        self._live = _is_live(self._console)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4, max_width=40)),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}, {task.fields[rate]}/s, left"),
            TimeRemainingColumn(),
            _Memory(),
            console=self._console,
            expand=True,
        )
        self._tasks: dict[str, tuple[TaskID, float, int]] = {}  # {stage: its bar, when it began, what was there}
        self._spoken: dict[str, float] = {}
        self._done: dict[str, int] = {}

    def __enter__(self) -> "RichReporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:  # else it would print an empty line
            self._bars.stop()

    def note(self, text: str) -> None:
        if self._level == QUIET:
            return
        since = f"{time.monotonic() - self._began:.1f} s: " if self._level == VERBOSE else ""
        self._console.print(f"{since}{text}", highlight=False, markup=False, soft_wrap=True)

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        if self._level == QUIET:
            return
        if done < self._done.get(stage, 0) or self._done.get(stage) == total:  # the same stage for something else
            self._bars.remove_task(self._tasks.pop(stage)[0])
        self._done[stage] = done
        if stage not in self._tasks:
            task = self._bars.add_task(stage, total=total, completed=done, unit=unit, rate="?", memory="")
            self._tasks[stage] = (task, time.monotonic(), done)
            if self._live:
                self._bars.start()
        task, started, found = self._tasks[stage]
        spent, own = max(time.monotonic() - started, 1e-9), done - found
        self._bars.update(task, completed=done, rate=f"{own / spent:.1f}", memory=memory())
        if not self._live:
            self._plain(stage, done, total, unit, spent, own)
        elif done >= total:
            self._bars.stop()

    def _plain(self, stage: str, done: int, total: int, unit: str, spent: float, own: int) -> None:
        """`own`: what was done in the time spent; the rest of `done` was there before."""
        now = time.monotonic()
        if done < total and now - self._spoken.setdefault(stage, now) < PLAIN_EVERY[self._level]:
            return
        self._spoken[stage] = now
        left = spent * (total - done) / max(own, 1)
        when = f"left {timedelta(seconds=round(left))}" if done < total else f"in {spent:.1f} s"
        self.note(f"{stage}: {done}/{total} {unit}, {own / spent:.1f}/s, {when}, {memory()}")


def _is_live(console: Console) -> bool:
    """Whether a line that moves can be drawn, and seen by somebody."""
    seen = console.is_terminal and console.is_interactive and not console.is_jupyter
    return seen and "SLURM_JOB_ID" not in os.environ


def resident() -> tuple[int, int] | None:
    """Resident bytes, now and at most; without /proc the first is the second, and None where nothing is told."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT
    try:
        now = int(PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        now = peak
    return now, max(now, peak)


def on_cards() -> tuple[int, int] | None:
    """Bytes of tensors on all cards, now and at most; None where this process has not begun to use CUDA."""
    torch = sys.modules.get("torch")  # nobody should wait for its import to read of memory
    if torch is None or not torch.cuda.is_initialized():
        return None
    cards = range(torch.cuda.device_count())
    return sum(map(torch.cuda.memory_allocated, cards)), sum(map(torch.cuda.max_memory_allocated, cards))


def memory() -> str:
    """`0.6 GB (peak 0.7), CUDA 5.1 GB (peak 6.0)`, as far as there is something to tell."""
    told = (("", resident()), ("CUDA ", on_cards()))
    return ", ".join(f"{what}{used[0] / 1e9:.1f} GB (peak {used[1] / 1e9:.1f})" for what, used in told if used)


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
