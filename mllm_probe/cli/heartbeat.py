"""status.json while a job runs: how far it is, and how it ended.

Knows no launcher. A job that is killed outright cannot say so; whoever reads the file sees that its heart has stopped.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from mllm_probe.errors import PendingError
from mllm_probe.files.jobs import DONE, FAILED, INCOMPLETE, PENDING, STOPPED, Job, now, read, write
from mllm_probe.records.protocols import Reporter

EVERY = 10.0  # seconds


class Heartbeat:
    """A Reporter that hands everything on to another one; use it as a context manager.

    A thread of its own writes the file, so that a stage costs nothing to report, and a job that loads a model for
    minutes still shows that it lives. `sentence` turns an error into one.
    """

    def __init__(self, reporter: Reporter, path: Path, job: Job, sentence: Callable[[BaseException], str]) -> None:
        self._reporter, self._path, self._job, self._sentence = reporter, path, job, sentence
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        if before := read(Job, self._path):
            self._job = replace(self._job, restarts=before.restarts + 1)
        write(self._job, self._path)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        last = replace(self._job, beat=now(), **self._end(error))
        with suppress(*((OSError,) if error else ())):  # what the job died of is the better news
            write(last, self._path)

    @property
    def began(self) -> bool:
        """Whether any work was done that is counted in steps."""
        return bool(self._job.stage)

    def note(self, text: str) -> None:
        self._job = replace(self._job, note=text)
        self._reporter.note(text)

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        self._job = replace(self._job, stage=stage, done=done, total=total, unit=unit)
        self._reporter.progress(stage, done, total, unit)

    def _beat(self) -> None:
        while not self._over.wait(EVERY):
            with suppress(OSError):  # the next one may find room
                write(replace(self._job, beat=now()), self._path)

    def _end(self, error: BaseException | None) -> dict[str, Any]:
        if error is None:
            return {"state": DONE, "ended": now()}
        if isinstance(error, SystemExit):  # submitit has asked SLURM to start the job anew, and leaves
            return {"state": PENDING, "note": "preempted or out of time, back in the queue"}
        states = {PendingError: INCOMPLETE, KeyboardInterrupt: STOPPED}
        state = next((state for kind, state in states.items() if isinstance(error, kind)), FAILED)
        return {"state": state, "error": self._sentence(error), "ended": now()}
