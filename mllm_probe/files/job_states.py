"""The state of the jobs of a multirun: their own records, compared with living processes.

A job that was killed cannot say so. SLURM's queue is asked where squeue is at hand, this machine's processes where the
job ran here, and else its heartbeat decides.
"""

import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mllm_probe.errors import DataError
from mllm_probe.files.jobs import (
    DONE,
    FAILED,
    INCOMPLETE,
    PENDING,
    RUNNING,
    STOPPED,
    Asked,
    Job,
    now,
    read,
    slurm_id,
    unreadable,
)
from mllm_probe.files.paths import MultirunPaths
from mllm_probe.files.store_paths import runs_here

LOST = "lost"
BLOCKED = "blocked"  # it waits in the queue, and SLURM can never start it
STATES = (DONE, RUNNING, PENDING, INCOMPLETE, STOPPED, FAILED, BLOCKED, LOST)
SILENT = 120.0  # seconds without a heartbeat; a network file system may hold one back for a minute
PATIENCE = 15.0  # seconds to wait for SLURM
Queue = Mapping[str, tuple[str, str]] | None  # {a job's name: (state, reason)} by SLURM; None where it cannot be asked
MENDS = {  # {a reason of SLURM's that does not pass: the setting of hydra.launcher that fixes it}
    "PartitionTimeLimit": "timeout_min",
    "PartitionNodeLimit": "nodes",
    "QOSMaxWallDurationPerJobLimit": "timeout_min",
    "AssocMaxWallDurationPerJobLimit": "timeout_min",
    "MaxMemPerLimit": "mem_gb",
    "QOSMaxMemoryPerJob": "mem_gb",
    "AssocMaxMemPerJob": "mem_gb",
    "QOSMaxCpuPerJobLimit": "cpus_per_task",
    "AssocMaxCpuPerJobLimit": "cpus_per_task",
    "QOSMaxGRESPerJob": "gpus_per_node",
    "AssocMaxGRESPerJob": "gpus_per_node",
    "BadConstraints": "constraint, mem_gb, cpus_per_task or gpus_per_node",
    "InvalidAccount": "account",
    "AccountNotAllowed": "account",
    "InvalidQOS": "qos",
    "QOSNotAllowed": "qos",
    "DependencyNeverSatisfied": "additional_parameters",
}


@dataclass(frozen=True)
class Standing:
    """One job. `job` is None before it begins, `name` what it is called where it was sent, `asked` None outside a
    multirun."""

    command: str
    overrides: tuple[str, ...]
    state: str
    why: str
    job: Job | None
    name: str | None
    asked: Asked | None

    @property
    def over(self) -> bool:
        """Whether it stays as it is until somebody does something about it."""
        return self.state not in (RUNNING, PENDING)

    @property
    def unfit(self) -> bool:
        """Whether it was never taken with these settings, so that the same command would fare no better."""
        return self.state == BLOCKED or (self.job is None and self.state == FAILED)


def standings(folder: Path) -> list[Standing]:
    """Of a multirun in the order of its jobs, those that have not begun included; else of the runs below a folder."""
    paths = MultirunPaths(folder)
    asked = read(Asked, paths.asked)
    names = asked.names if asked and asked.launcher == "slurm" else []
    queue = _queue([*names, *(job.slurm for _, job in _said(paths))])
    said = _said(paths)  # after the queue was asked, so that whoever has left it since has said how it ended
    if asked is None:
        return [_begun(path, job, None, queue) for path, job in said]
    begun = {job.number: (path, job) for path, job in said if _is_of(asked, job)}
    return [
        _begun(*begun[n], asked, queue) if n in begun else _not_begun(paths, asked, n, queue)
        for n in sorted({*range(len(asked.jobs)), *begun})
    ]


def latest(folders: Iterable[Path]) -> list[Standing]:
    """The jobs of several multiruns, where a job of a later one stands in for the same job of an earlier one.

    Raises DataError for a folder without a job.
    """
    found: list[Standing] = []
    for folder in folders:
        later = standings(folder)
        if not later and (bad := unreadable(MultirunPaths(folder))):
            raise DataError(f"{bad[0]} is damaged, or from another release, and {folder} holds no other job")
        if not later:
            state = "holds no job" if folder.is_dir() else "does not exist"
            raise DataError(f"{folder} {state}; name the folder of a multirun, such as outputs/multirun/DATE/TIME")
        named = {(job.command, job.overrides) for job in later}
        found = [job for job in found if (job.command, job.overrides) not in named] + later
    return found


def _said(paths: MultirunPaths) -> list[tuple[Path, Job]]:
    return [(path, job) for path in paths.statuses() if (job := read(Job, path))]


def _is_of(asked: Asked, job: Job) -> bool:
    """Whether this multirun asked for the job: its number alone would take another sweep's for it."""
    if job.number is None or job.command != asked.command:
        return False
    return not asked.jobs or (job.number < len(asked.jobs) and asked.jobs[job.number] == job.overrides)


def _begun(path: Path, job: Job, asked: Asked | None, queue: Queue) -> Standing:
    state, why = (job.state, job.error) if job.ended else _living(job, queue)
    if state == LOST and (last := read(Job, path)) and last.ended:  # between the two looks
        job, state, why = last, last.state, last.error
    if state == PENDING and job.ended:  # the word of earlier releases
        state = INCOMPLETE
    return Standing(job.command, tuple(job.overrides), state, why, job, job.slurm, asked)


def _living(job: Job, queue: Queue) -> tuple[str, str]:
    """Of a job that has not said how it ended."""
    silent = seconds(job.beat, now())
    if job.slurm and queue is not None:
        if job.slurm not in queue:
            return LOST, f"SLURM has no job {job.slurm} any more: cancelled, or killed for its memory or its time"
        if queue[job.slurm][0] == "PENDING":
            return PENDING, "back in SLURM's queue"
        return RUNNING, f"no sign of life for {silent:.0f} s" if silent > SILENT else ""
    if job.host == platform.node() and not runs_here(job.pid):
        return LOST, f"its process {job.pid} was killed"
    if silent > SILENT:
        return LOST, f"no sign of life for {silent:.0f} s, on {job.host}"
    return job.state, ""


def _not_begun(paths: MultirunPaths, asked: Asked, number: int, queue: Queue) -> Standing:
    name = asked.names[number] if number < len(asked.names) else None
    here = asked.host == platform.node()
    state, why = PENDING, ""
    if name is None and asked.refused:
        state, why = FAILED, asked.refused
    elif name is None and here and not runs_here(asked.pid):
        state, why = LOST, "the command that should start it has ended"
    elif name is not None and asked.launcher == "slurm":
        state, why = _queued(name, queue)
    elif name is not None and here and not runs_here(int(name)):
        state, why = LOST, f"its process {name} ended before the job started"
    if state == LOST and name is not None and (log := paths.log(name)).is_file():
        why += f"; its log is {log}"
    return Standing(asked.command, tuple(asked.jobs[number]), state, why, None, name, asked)


def _queued(name: str, queue: Queue) -> tuple[str, str]:
    """Of a job that SLURM was given and that has not begun."""
    if queue is None:
        return PENDING, ""
    if name not in queue:
        return LOST, f"SLURM has no job {name} any more, and it never started"
    state, reason = queue[name]
    if state != "PENDING":
        return PENDING, "about to start"
    if fix := MENDS.get(reason):
        return BLOCKED, f"SLURM never starts it ({reason}): `scancel` it, and change hydra.launcher.{fix}"
    return PENDING, "" if reason == "None" else f"SLURM's reason is {reason}"


def writer(status: Path) -> Job | None:
    """The job that says there that it is at work, where it lives; none where that is an earlier start of this job."""
    job = read(Job, status)
    if job is None or job.ended or (job.slurm and job.slurm == slurm_id()):
        return None
    return job if _living(job, _queue([job.slurm]))[0] != LOST else None


def seconds(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def _queue(names: Iterable[str | None]) -> Queue:
    """What SLURM knows of these jobs."""
    arrays = {name.partition("_")[0] for name in names if name}
    if not arrays:
        return {}
    command = ["squeue", "--noheader", "--array", "--format=%i|%T|%r", f"--jobs={','.join(arrays)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode and "Invalid job id" not in done.stderr:
        return None
    found = (line.split("|") for line in done.stdout.splitlines())
    return {name: (state, reason) for name, state, reason in found}
