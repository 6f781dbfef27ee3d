"""Which process fills which shard: a small file next to it that the process creates and touches while it runs.

`00003.0.claim` is the first claim to shard 3. A claim is dead when its process is gone (as seen on its own host), when
an earlier start of the same SLURM job made it, or when nobody has touched it for STALE seconds by the file system's own
clock; the clocks of hosts do not count. Whoever finds the newest claim dead creates the next one, `00003.1.claim`:
creation is exclusive, on NFS too, so one process succeeds, and as nothing is renamed or overwritten none can take a
claim that it has not judged.

A claim prevents double work and nothing else. Shards are renamed into place and equal plans give equal bytes, so a
process that was stopped, lost its claim and wakes up again does no harm. Knows no plan and no tensor.

One process at a time, by the same files: who begins the same sweep or training meanwhile waits its turn, and finds what
the first has kept.
"""

import json
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Protocol

from mllm_probe.files.store_paths import is_temporary, pid_namespace, runs_here, temporary
from mllm_probe.records.protocols import Reporter

BEAT, STALE = 10.0, 60.0  # seconds between two signs of life, and without one until a claim is dead
TURN = 0  # the number of the claim to work; those of the processes that are at it are higher
POLL = 0.5  # seconds between two looks


class Claimable(Protocol):
    """A folder whose parts are claimed by number, such as the shards of a group."""

    @property
    def root(self) -> Path: ...

    def claim(self, number: int, generation: int) -> Path: ...


@dataclass(frozen=True)
class Owner:
    """A process that claims; `job` is SLURM's number, empty outside of it, and `restart` counts its requeues."""

    host: str
    namespace: str
    pid: int
    job: str
    restart: int
    token: str

    @classmethod
    def here(cls) -> "Owner":
        namespace = pid_namespace()
        job, restart = os.environ.get("SLURM_JOB_ID", ""), int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        return cls(platform.node(), namespace, os.getpid(), job, restart, secrets.token_hex(8))

    def __str__(self) -> str:
        return f"{self.host} ({f'job {self.job}' if self.job else f'process {self.pid}'})"

    def sees_dead(self, other: "Owner") -> bool:
        """Whether this process knows that the other has ended, however young its claim is."""
        if (self.host, self.namespace) == (other.host, other.namespace) and not runs_here(other.pid):
            return True
        return bool(self.job) and self.job == other.job and other.restart < self.restart


class Claims:
    """The claims of this process. Use as a context manager: a thread renews them, and leaving gives them up."""

    def __init__(self) -> None:
        self._owner = Owner.here()
        self._held: dict[tuple[Claimable, int], int] = {}  # shard: generation
        self._left = Event()
        self._thread = Thread(target=self._beat, name="claims", daemon=True)

    def __enter__(self) -> "Claims":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()
        self.clear()

    def take(self, paths: Claimable, number: int) -> bool:
        """Whether the shard is this process's to fill, claimed now or before."""
        if self.holds(paths, number):
            return True
        generation = _next(paths, number)
        try:
            if generation and self._lives(paths.claim(number, generation - 1)):
                return False
        except FileNotFoundError:  # given up at this very moment
            return self.take(paths, number)
        if not self._create(paths.claim(number, generation)):
            return False
        self._held[paths, number] = generation
        return True

    def holds(self, paths: Claimable, number: int) -> bool:
        """Whether this process has a claim that nobody has taken over."""
        generation = self._held.get((paths, number))
        if generation is None or paths.claim(number, generation + 1).exists():
            return False
        try:
            return _read(paths.claim(number, generation))[0] == self._owner
        except FileNotFoundError:
            return False

    def lives_elsewhere(self, paths: Claimable, number: int) -> bool:
        """Whether another process that lives holds the newest claim."""
        try:
            generation = _next(paths, number)
            return generation > 0 and not self.holds(paths, number) and self._lives(paths.claim(number, generation - 1))
        except FileNotFoundError:
            return False

    def release(self, paths: Claimable, number: int) -> None:
        """Give a claim up, those it took over from first; where it was taken over, the others' stay."""
        if self.holds(paths, number):
            for generation in range(self._held[paths, number] + 1):
                paths.claim(number, generation).unlink(missing_ok=True)
        self._held.pop((paths, number), None)

    def clear(self) -> None:
        """Give all up, and remove the folders that hold nothing else."""
        for paths, number in list(self._held):
            self.release(paths, number)
            for folder in (paths.root, *paths.root.parents[:2]):  # group, groups, cache
                with suppress(OSError):  # gone already, or not empty
                    folder.rmdir()

    def _beat(self) -> None:
        while not self._left.wait(BEAT):
            for (paths, number), generation in list(self._held.items()):
                with suppress(OSError):  # a beat that is missed, or a claim that was just given up
                    os.utime(paths.claim(number, generation))

    def _lives(self, claim: Path) -> bool:
        """Raises FileNotFoundError where the claim has been given up."""
        owner, touched = _read(claim)
        if owner is not None and self._owner.sees_dead(owner):
            return False
        return _now(claim) - touched <= STALE

    def _create(self, claim: Path) -> bool:
        """Whether this process was the one to create it."""
        try:
            claim.parent.mkdir(parents=True, exist_ok=True)
            file = claim.open("x")
        except FileExistsError:
            return False
        except FileNotFoundError:  # the folder was empty, and another process tidied it up
            return self._create(claim)
        try:
            with file:
                json.dump(asdict(self._owner), file)
        except OSError:
            claim.unlink()
            raise
        return True


def holder(paths: Claimable, number: int) -> Owner | None:
    """Whose the newest claim to a shard is, dead or alive."""
    with suppress(FileNotFoundError):
        if generation := _next(paths, number):
            return _read(paths.claim(number, generation - 1))[0]
    return None


def _next(paths: Claimable, number: int) -> int:
    """The generation behind the newest claim's."""
    return next(n for n in count() if not paths.claim(number, n).exists())


def _read(claim: Path) -> tuple[Owner | None, float]:
    """The owner, None where that is not written yet, and when it was touched last."""
    with claim.open() as file:  # to open is to ask an NFS server for the present times
        text, touched = file.read(), os.fstat(file.fileno()).st_mtime
    try:
        return Owner(**json.loads(text)), touched
    except (ValueError, TypeError):
        return None, touched


def _now(claim: Path) -> float:
    """The time by the clock that dates files there."""
    clock = temporary(claim.with_name("clock.json"))
    clock.touch()
    os.utime(clock)
    try:
        return clock.stat().st_mtime
    finally:
        clock.unlink(missing_ok=True)


def is_orphan(path: Path) -> bool:
    """Whether it is a temporary file whose writer, on this host, was killed."""
    *_, namespace, pid = path.name.split(".")
    ours = is_temporary(path) and path.name.endswith(f".{platform.node()}.{pid_namespace()}.{pid}")
    return ours and namespace != "" and pid.isdigit() and not runs_here(int(pid))


class Shared(Claimable, Protocol):
    """A folder of unfinished work, in which claims lie."""

    def claimed(self) -> set[int]: ...


@contextmanager
def turn(paths: Shared, does: str, reporter: Reporter) -> Iterator[None]:
    """Alone at it. `does`: what the process does that another one waits for, such as "fits the same sweep"."""
    with Claims() as claims:
        next(n for n in count(TURN + 1) if claims.take(paths, n))
        if not claims.take(paths, TURN):
            reporter.note(f"{holder(paths, TURN) or 'another process'} {does}: waiting for it")
            while not claims.take(paths, TURN):
                time.sleep(POLL)
        yield


def clear(paths: Shared) -> None:
    """Remove what was kept, unless another process is at the same, which then does so."""
    with Claims() as claims:
        if not claims.take(paths, TURN):
            return
        others = paths.claimed() - {TURN}
        if not any(claims.lives_elsewhere(paths, number) for number in others):
            shutil.rmtree(paths.root, ignore_errors=True)
