"""One command at a time writes to a folder: a second one is refused before any work.

A lock on the folder itself decides where the file system has one; it leaves no file, and a process that is killed gives
it up. Across machines, and without locks, the status in the folder decides.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mllm_probe.errors import ConfigError
from mllm_probe.files.job_states import writer
from mllm_probe.files.jobs import Job, read
from mllm_probe.files.paths import RunPaths


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
