"""Which shards fall to this process, and what it does while others fill them. Knows no model.

Of n processes the i-th takes every n-th shard; a process that is the only one of its kind takes any. In either case it
claims a shard before it fills it, so that processes with the same plans share them out and none is filled twice.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mllm_probe.cache.claims import Claims, holder
from mllm_probe.cache.plan import Content, Plan
from mllm_probe.cache.store import Store
from mllm_probe.errors import PendingError
from mllm_probe.files.store_paths import GroupPaths
from mllm_probe.records.protocols import Reporter

POLL = 0.5  # seconds between two looks at the shards of others


@dataclass(frozen=True)
class Work:
    """How a process takes part: the dtype it stores, its threads, its share, and how long it waits for others.

    `wrote` is told of every shard that it has written: how many samples it holds, and how many passes it took.
    """

    storage: str
    workers: int = 1
    shard: int = 0
    num_shards: int = 1
    wait_s: float = 0.0
    wrote: Callable[[int, int], None] = lambda samples, passes: None


@dataclass(frozen=True)
class Job:
    """One shard to fill."""

    plan: Plan
    paths: GroupPaths
    number: int

    @property
    def content(self) -> Content:
        return self.plan.content(self.number)

    @cached_property
    def sizes(self) -> list[int]:
        """How many samples each pass holds."""
        return self.plan.sizes(self.number)

    @property
    def samples(self) -> int:
        return sum(self.sizes)

    @property
    def path(self) -> Path:
        return self.paths.shard(self.number)

    @property
    def retry(self) -> Path:
        return self.paths.retry(self.number)

    def take(self, claims: Claims) -> bool:
        """Whether this process is to fill the shard now."""
        if self.path.exists() or not claims.take(self.paths, self.number):
            return False
        if self.path.exists():  # filled, and its claim given up, between the two looks
            claims.release(self.paths, self.number)
            return False
        return True


def jobs_of(plans: Sequence[Plan], store: Store, work: Work) -> list[Job]:
    """This process's share, filled or not."""
    return [
        Job(plan, store.paths.group(plan.digest), number)
        for plan in plans
        for number in range(work.shard, plan.shards, work.num_shards)
    ]


def anything_to_fill(jobs: Sequence[Job], claims: Claims, work: Work, reporter: Reporter) -> bool:
    """True once a shard is claimed, False once all are there; meanwhile it waits.

    Raises PendingError where living processes hold all that is missing for longer than `work.wait_s`.
    """
    missing, patience = jobs, Patience(work.wait_s, reporter)
    while missing := [job for job in missing if not job.path.exists()]:
        if any(job.take(claims) for job in missing):
            return True
        patience.wait(missing)
    return False


def claim_all(jobs: Sequence[Job], claims: Claims, work: Work, reporter: Reporter) -> None:
    """Claim shards that are there and must be made again. Raises PendingError."""
    patience = Patience(work.wait_s, reporter)
    for job in jobs:  # everybody in the same order, so that no two wait for each other
        while not claims.take(job.paths, job.number):
            patience.wait([job])


class Patience:
    """Waits for other processes, `seconds` in all."""

    def __init__(self, seconds: float, reporter: Reporter) -> None:
        self._seconds, self._reporter = seconds, reporter
        self._until = time.monotonic() + seconds
        self._told = False

    def wait(self, missing: Sequence[Job]) -> None:
        """A moment. Raises PendingError once the time is over."""
        if time.monotonic() >= self._until:
            raise PendingError(
                f"{_filled_by_others(missing)} and not done after extract.wait_s={self._seconds:g}; "
                "repeat the command later to continue"
            )
        if not self._told:
            self._reporter.note(f"{_filled_by_others(missing)}: waiting for {self._seconds:g} s at most")
            self._told = True
        time.sleep(POLL)


def _filled_by_others(missing: Sequence[Job]) -> str:
    owners = sorted({str(owner) for job in missing if (owner := holder(job.paths, job.number))})
    many = f"{len(missing)} shards of {missing[0].paths.root} are" if len(missing) > 1 else f"{missing[0].path} is"
    return f"{many} being filled by {', '.join(owners) or 'another process'}"
