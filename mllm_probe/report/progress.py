"""How a long stage says how far it is: a bar on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

PLAIN_EVERY = 10.0  # seconds between two lines where there is no terminal


class RichReporter:
    """The Reporter of the command line; use it as a context manager, so that the bar is closed whatever happens."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}, {task.fields[rate]}/s, left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._tasks: dict[str, tuple[TaskID, float]] = {}
        self._spoken: dict[str, float] = {}
        self._done: dict[str, int] = {}

    def __enter__(self) -> "RichReporter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        if done < self._done.get(stage, 0) or self._done.get(stage) == total:  # the same stage for something else
            self._bars.remove_task(self._tasks.pop(stage)[0])
        self._done[stage] = done
        if stage not in self._tasks:
            self._tasks[stage] = (self._bars.add_task(stage, total=total, unit=unit, rate="?"), time.monotonic())
            if self._console.is_terminal:
                self._bars.start()
        task, started = self._tasks[stage]
        rate = f"{done / max(time.monotonic() - started, 1e-9):.1f}"
        self._bars.update(task, completed=done, rate=rate)
        if not self._console.is_terminal:
            self._plain(stage, done, total, f"{unit}, {rate}/s")
        elif done >= total:
            self._bars.stop()

    def _plain(self, stage: str, done: int, total: int, tail: str) -> None:
        now = time.monotonic()
        if done >= total or now - self._spoken.setdefault(stage, now) >= PLAIN_EVERY:
            self._spoken[stage] = now
            self.note(f"{stage}: {done}/{total} {tail}")
