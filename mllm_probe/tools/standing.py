"""How the jobs of a multirun stand: what they say of themselves, held against what still lives.

A job that was killed cannot say so. SLURM's queue is asked where squeue is at hand, this machine's processes where the
job ran here, and else its heartbeat decides.
"""

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mllm_probe.jobs import DONE, FAILED, PENDING, RUNNING, Asked, Job, now, read, submitted
from mllm_probe.paths import MultirunPaths

LOST = "lost"
STATES = (DONE, RUNNING, PENDING, FAILED, LOST)
SILENT = 120.0  # seconds without a heartbeat; a network file system may hold one back for a minute
PATIENCE = 15.0  # seconds to wait for SLURM
Queue = Mapping[str, str] | None  # {a job's name: its state} of what SLURM still knows; None where it cannot be asked


@dataclass(frozen=True)
class Standing:
    """One job. `job` is None before it begins, `slurm` its name in the queue, `asked` None outside a multirun."""

    command: str
    overrides: tuple[str, ...]
    state: str
    why: str
    job: Job | None
    slurm: str | None
    asked: Asked | None

    @property
    def over(self) -> bool:
        """Whether it stays as it is until somebody runs it again."""
        return self.state in (DONE, FAILED, LOST) or (self.job is not None and self.job.ended is not None)


def standings(folder: Path) -> list[Standing]:
    """Of a multirun in the order of its jobs, those that have not begun included; else of the runs below a folder."""
    paths = MultirunPaths(folder)
    asked = read(Asked, paths.asked)
    names = dict(enumerate(submitted(paths))) if asked and asked.launcher == "slurm" else {}
    queue = _queue([*names.values(), *(job.slurm for _, job in _said(paths))])
    said = _said(paths)  # after the queue was asked, so that whoever has left it since has said how it ended
    if asked is None:
        return [_begun(path, job, None, queue) for path, job in said]
    begun = {job.number: (path, job) for path, job in said if job.number is not None}
    return [
        _begun(*begun[n], asked, queue) if n in begun else _not_begun(asked, n, names.get(n), queue)
        for n in sorted({*range(len(asked.jobs)), *begun})
    ]


def _said(paths: MultirunPaths) -> list[tuple[Path, Job]]:
    return [(path, job) for path in paths.statuses() if (job := read(Job, path))]


def _begun(path: Path, job: Job, asked: Asked | None, queue: Queue) -> Standing:
    state, why = (job.state, job.error) if job.ended else _living(job, queue)
    if state == LOST and (last := read(Job, path)) and last.ended:  # between the two looks
        job, state, why = last, last.state, last.error
    return Standing(job.command, tuple(job.overrides), state, why, job, job.slurm, asked)


def _living(job: Job, queue: Queue) -> tuple[str, str]:
    """Of a job that has not said how it ended."""
    silent = seconds(job.beat, now())
    if job.slurm and queue is not None:
        if job.slurm not in queue:
            return LOST, f"SLURM has no job {job.slurm} any more: cancelled, or killed for its memory or its time"
        if queue[job.slurm] == "PENDING":
            return PENDING, "back in SLURM's queue"
        return RUNNING, f"not heard of for {silent:.0f} s" if silent > SILENT else ""
    if job.host == platform.node() and not _alive(job.pid):
        return LOST, f"its process {job.pid} was killed"
    if silent > SILENT:
        return LOST, f"not heard of for {silent:.0f} s, on {job.host}"
    return job.state, ""


def _not_begun(asked: Asked, number: int, name: str | None, queue: Queue) -> Standing:
    state, why = PENDING, ""
    if name is not None and queue is not None:
        why = queue.get(name, "").lower() if name in queue else f"SLURM has no job {name} any more, and it never began"
        state = PENDING if name in queue else LOST
    elif name is None and asked.host == platform.node() and not _alive(asked.pid):
        state, why = LOST, "the command that was to start it has ended"
    return Standing(asked.command, tuple(asked.jobs[number]), state, why, None, name, asked)


def seconds(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _queue(names: Iterable[str | None]) -> Queue:
    """What SLURM knows of these jobs."""
    arrays = {name.partition("_")[0] for name in names if name}
    if not arrays:
        return {}
    command = ["squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={','.join(arrays)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    return dict(line.split() for line in done.stdout.splitlines())
