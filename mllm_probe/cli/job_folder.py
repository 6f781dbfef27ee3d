"""The folder of a job: one command at a time writes to it, its status.json says how far the job is and how it ended,
and a job that is refused before any work leaves none.

A lock on the folder itself decides where the file system has one; it leaves no file, and a process that is killed gives
it up. Across machines, and without locks, the status in the folder decides. A job that is killed outright cannot say
so; whoever reads its status sees that its heart has stopped. Knows no launcher.
"""

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mllm_probe.errors import ConfigError, MllmProbeError, PendingError
from mllm_probe.files.job_states import writer
from mllm_probe.files.jobs import DONE, FAILED, INCOMPLETE, PENDING, STOPPED, Job, now, read, write
from mllm_probe.files.paths import MultirunPaths, OutputPaths, RunPaths
from mllm_probe.files.store_paths import temporary
from mllm_probe.records.protocols import Reporter

if TYPE_CHECKING:
    from omegaconf import DictConfig

EVERY = 10.0  # seconds
_absent: list[Path] = []
_there: dict[Path, bytes | None] = {}


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Around what a command does in a folder. Raises ConfigError where another one is there."""
    place = keep(folder)
    try:
        if there := writer(RunPaths(folder).status):
            raise _refusal(folder, there)
        yield
    finally:
        os.close(place)


def keep(folder: Path) -> int:
    """The lock of a folder, as a file descriptor: until it is closed, or this process ends. Raises ConfigError."""
    place = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(place)
        raise _refusal(folder, read(Job, RunPaths(folder).status)) from None
    except OSError:  # a file system without locks
        pass
    return place


def _refusal(folder: Path, job: Job | None) -> ConfigError:
    who = f" ({f'job {job.slurm}' if job.slurm else f'process {job.pid}'} on {job.host})" if job else ""
    return ConfigError(
        f"another command{who} writes to {folder}; wait until it ends, or name another folder with hydra.run.dir "
        "(of a multirun: hydra.sweep.dir)"
    )


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


@contextmanager
def leaving(heart: "Heartbeat", folder: Path, here: "DictConfig", outputs: Path) -> Iterator[None]:
    """Around a job with a `folder` of its own; jobs of a multirun keep theirs, for its status is read there."""
    swept = here.mode is not None and here.mode.name == "MULTIRUN"
    ran = Path(here.sweep.dir) if swept else folder
    try:
        yield
    except MllmProbeError as error:
        if swept or heart.began or isinstance(error, PendingError):
            _point(outputs, ran)
        else:
            _clear(folder, {str(here.output_subdir), f"{here.job.name}.log"})
        raise
    _point(outputs, ran)


def note_absent(folder: Path) -> None:
    """Of the folder that Hydra will make for a job, and those above it, remember which are not there yet."""
    _absent[:] = [place for place in (folder.absolute(), *folder.absolute().parents) if not place.exists()]


def note_before(folder: Path) -> None:
    """Of the folder of a multirun, remember what is there, and what its files and the statuses of its jobs hold."""
    note_absent(folder)
    _there.clear()
    _there.update((path, None) for path in folder.rglob("*"))
    records = (*(path for path in folder.glob("*") if path.is_file()), *MultirunPaths(folder).statuses())
    _there.update((path, path.read_bytes()) for path in records)


def take_back(folder: Path) -> None:
    """Make the folder of a multirun of which nothing was started what it was."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path not in _there:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for path, content in _there.items():
        if content is not None:
            path.write_bytes(content)
    remove_made()


def remove_made() -> None:
    """The folders that were made for a job or a multirun and are empty."""
    for place in _absent:
        with suppress(OSError):  # not empty, or gone
            place.rmdir()


def _clear(folder: Path, hydras: set[str]) -> None:
    """Remove the folder, and those above it that were made for it and are empty. One that holds more than a job writes
    before its work stays as it is: it was there before."""
    own = RunPaths(folder)
    if {path.name for path in folder.iterdir()} <= {*hydras, own.status.name, own.config.name, own.identity.name}:
        shutil.rmtree(folder)
        remove_made()


def _point(outputs: Path, folder: Path) -> None:
    """Where a file system has no links, or `latest` is a folder of the user's, there is none."""
    link = OutputPaths(outputs).latest
    part = temporary(link)
    with suppress(OSError):
        part.symlink_to(os.path.relpath(folder, outputs), target_is_directory=True)
        part.replace(link)
    part.unlink(missing_ok=True)
