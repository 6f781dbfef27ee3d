"""What commands print: tables of rows, lines of words, and the progress of a long stage.

Tables have two looks: framed, with names at the left and numbers at the right, where texts are Rich's markup; and bare,
where rows are long and texts are shown as they are. Progress is a bar on a terminal, plain lines elsewhere, nothing
with --quiet. A job of SLURM writes plain lines even where it has a terminal, for its output ends up in a file.
"""

import os
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.markup import escape
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
from rich.table import Column, Table
from rich.text import Text

from mllm_probe.config.verbosity import NORMAL, QUIET, VERBOSE, verbosity

if TYPE_CHECKING:
    import pandas as pd

WIDE = 240  # columns, where the output goes into a file or another program and no line needs to be folded


PLAIN_EVERY = {NORMAL: 10.0, VERBOSE: 1.0}  # seconds between two lines where there is no terminal
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes; what the peak is counted in
PAGES = Path("/proc/self/statm")


def screen(stderr: bool = False) -> Console:
    """Where a command prints. `:car:` is a name here and no picture of a car."""
    return Console(stderr=stderr, emoji=False)


def wide_console() -> Console:
    console = Console(highlight=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, emoji=False, width=WIDE)


def framed(
    title: str, names: Iterable[str | Column], numbers: Iterable[str], fold_numbers: bool = False, **more: Any
) -> Table:
    """A name stands in one line, unless its Column says otherwise; so do numbers, unless they may be folded."""
    left = (Column(name, no_wrap=True) if isinstance(name, str) else name for name in names)
    right = (Column(name, justify="right", no_wrap=not fold_numbers) for name in numbers)
    return Table(*left, *right, title=title, **more)


def bare(title: str | None = None, caption: str | None = None) -> Table:
    """Without lines, which leaves a terminal of 80 columns readable."""
    return Table(
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
        title=title and escape(title),
        caption=caption and escape(caption),
        title_justify="left",
        caption_justify="left",
    )


def add_row(table: Table, *cells: str) -> None:
    """As text, because `[lm]` would otherwise be taken for a style; what does not fit goes on in the next line."""
    table.add_row(*(Text(cell, overflow="fold", no_wrap=False) for cell in cells))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]], title: str | None = None) -> None:
    """A bare one, at once."""
    table = bare(title)
    for name in columns:
        table.add_column(name)
    for row in rows:
        add_row(table, *row)
    wide_console().print(table)


def say(console: Console | None, *found: RenderableType) -> None:
    """Tables, and lines as they are, whose brackets are no markup."""
    console = console or screen()
    for one in found:
        if isinstance(one, str):
            console.print(one, highlight=False, markup=False)
        else:
            console.print(one)


def escaped(table: "pd.DataFrame") -> "pd.DataFrame":
    """A table whose texts can stand in Rich's markup."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    texts = [name for name in table if not (is_numeric_dtype(table[name]) or is_bool_dtype(table[name]))]
    return table.assign(**{name: [escape(v) if isinstance(v, str) else v for v in table[name]] for name in texts})


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
