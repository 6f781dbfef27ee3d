"""A job's own record (status.json) and the requested jobs of a multirun (multirun.json).

SLURM calls a job COMPLETED whose Python raised an exception, so these files are what tells how a job ended. Knows how
they look, not who is alive: that is for the reader to judge.
"""

import json
import os
import platform
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from mllm_probe import __version__
from mllm_probe.files.paths import MultirunPaths
from mllm_probe.files.store_paths import replacing

RUNNING, DONE, FAILED, PENDING = "running", "done", "failed", "pending"
STOPPED = "stopped"  # by Ctrl-C or a signal
INCOMPLETE = "incomplete"  # others were filling what it needs, and it has ended without
STATES = (RUNNING, DONE, FAILED, PENDING, STOPPED, INCOMPLETE)
NUMBERS = ("number", "done", "total", "restarts", "pid")  # of the records below; their times, their lists of words
TIMES, WORDS = ("started", "beat", "ended"), ("overrides", "options", "jobs", "names")
T = TypeVar("T")


def now() -> str:
    """The time as it stands in the files: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def slurm_id() -> str | None:
    """The name of this process's job in the queue, such as 24 or 24_1; None outside SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")


@dataclass(frozen=True)
class Job:
    """One Hydra job, as it last said.

    `number`: its place in the multirun, None for a run of its own. `done` of `total` steps of `stage`, counted in
    `unit`. `beat`: when it last showed that it lives. `ended` is None for a job that SLURM has set back into the queue.
    `code`: see code_here.
    """

    command: str
    overrides: list[str]
    number: int | None = None
    state: str = RUNNING
    error: str = ""
    stage: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    note: str = ""
    started: str = field(default_factory=now)
    beat: str = field(default_factory=now)
    ended: str | None = None
    restarts: int = 0
    code: str = ""
    slurm: str | None = field(default_factory=slurm_id)
    host: str = field(default_factory=platform.node)
    pid: int = field(default_factory=os.getpid)


@dataclass(frozen=True)
class Asked:
    """What a multirun was asked for: the overrides of each of its jobs, in order.

    `options`: what all jobs share beside them, such as the launcher's settings. `folder`: where the command was typed;
    `host` and `pid`: the process that it is. `names`: what the jobs that were sent away are called there, in order: in
    SLURM's queue 24_0, or 24 for a single one; on this machine the number of a process. `refused`: why the others were
    not sent. `code`: see code_here.
    """

    command: str
    launcher: str
    options: list[str]
    jobs: list[list[str]]
    folder: str
    names: list[str] = field(default_factory=list)
    refused: str = ""
    code: str = ""
    host: str = field(default_factory=platform.node)
    pid: int = field(default_factory=os.getpid)


@cache
def code_here() -> str:
    """The code of this process: the version, and a digest of the package's files, which may be edited in between."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    digest = sha256(b"".join(sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    return f"{__version__} ({digest[:8]})"


def read(kind: type[T], path: Path) -> T | None:
    """The record in a file; None where there is no file, it lacks what every release writes, or it was damaged."""
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        found = json.loads(path.read_text())
        values = {entry.name: found[entry.name] for entry in fields(kind) if entry.name in found}  # type: ignore[arg-type]
        return kind(**values) if all(map(_fits, values, values.values())) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _fits(name: str, value: Any) -> bool:
    """Whether an entry of a record can be what it is called. Raises ValueError for a time that is none."""
    if name in TIMES and value is not None:
        return datetime.fromisoformat(value).tzinfo is not None
    if name in WORDS:
        rows = value if name == "jobs" else [value]
        return isinstance(rows, list) and all(
            isinstance(row, list) and all(isinstance(w, str) for w in row) for row in rows
        )
    if name == "state":
        return value in STATES
    if name in NUMBERS:
        return (value is None and name == "number") or type(value) is int
    return isinstance(value, str) or (value is None and name in ("slurm", "ended"))


def unreadable(paths: MultirunPaths) -> list[Path]:
    """The records of a multirun's folder that are there and say nothing."""
    kinds = dict.fromkeys(paths.statuses(), Job) | ({paths.asked: Asked} if paths.asked.is_file() else {})
    return [path for path, kind in kinds.items() if read(kind, path) is None]


def write(record: Any, path: Path) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(asdict(record), indent=1))
