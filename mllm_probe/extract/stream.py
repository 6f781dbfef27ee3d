"""The loop: shard by shard, unit by unit, from the model into the store. Knows no model class and no label.

    worker threads            this thread        sink thread
    pictures -> batches  ->   forward passes ->  wait, check, write shards

A shard that already exists is not computed again: after a kill the loop goes on with the first shard that is missing.
Of n processes the i-th takes every n-th shard. Where memory runs out, the shard is begun anew with smaller passes.
"""

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.cache.store import Store, write_json
from mllm_probe.cache.writer import ShardWriter
from mllm_probe.errors import ModelError
from mllm_probe.extract.ahead import ahead
from mllm_probe.extract.plan import SHARED, Plan, Unit
from mllm_probe.extract.sink import Sink
from mllm_probe.extract.taps import TOO_LITTLE, is_out_of_memory, launch
from mllm_probe.paths import GroupPaths
from mllm_probe.protocols import Extractable, Reporter
from mllm_probe.types import Sample

if TYPE_CHECKING:
    from mllm_probe.batches import Batch


@dataclass(frozen=True)
class Work:
    """How a process takes part: its share of the shards, its threads, and the dtype it stores."""

    storage: str
    workers: int = 1
    shard: int = 0
    num_shards: int = 1


@dataclass(frozen=True)
class Job:
    """One shard to fill."""

    plan: Plan
    paths: GroupPaths
    number: int

    @property
    def units(self) -> list[Unit]:
        return [unit for unit in self.plan.units if unit.shard == self.number]

    @property
    def samples(self) -> int:
        return sum(len(unit.samples) for unit in self.units)

    @property
    def path(self) -> Path:
        return self.paths.shard(self.number)

    @property
    def retry(self) -> Path:
        return self.paths.retry(self.number)


@dataclass(frozen=True)
class Part:
    """A unit, or a piece of one where memory ran out."""

    job: Job
    uids: tuple[str, ...]
    shared: bool
    last: bool


class Extraction:
    """One process filling a store according to plans."""

    def __init__(
        self, model: Extractable, samples: Mapping[str, Sample], store: Store, work: Work, reporter: Reporter
    ) -> None:
        self._model, self._samples, self._store, self._work = model, samples, store, work
        self._reporter = reporter
        self._pieces = 1
        self._there = self._done = self._unwritten = self._passes = 0

    def run(self, plans: Sequence[Plan]) -> dict[str, Any]:
        """Extract what the plans name and this process owns; returns counts, seconds and whether all is there."""
        started = time.monotonic()
        own = list(self._jobs(plans))
        jobs = deque(job for job in own if not job.path.exists())
        self._total = sum(job.samples for job in own)
        self._there = self._total - sum(job.samples for job in jobs)
        self._reporter.progress("extract", self._there, self._total, "samples")
        with Sink() as sink:
            while self._runs_out(jobs, sink):
                self._halve(jobs[0])
        complete = all(is_filled(plan, self._store) for plan in plans)
        for plan in plans if complete else ():  # together: a process that begins now must plan what this one planned
            finish(plan, self._store)
        seconds = round(time.monotonic() - started, 2)
        return {"samples": self._done, "forward_passes": self._passes, "seconds": seconds, "complete": complete}

    def _jobs(self, plans: Sequence[Plan]) -> Iterator[Job]:
        for plan in plans:
            paths = self._store.begin(plan.digest, plan.to_json(), self._model.provenance())
            for number in range(self._work.shard, plan.shards, self._work.num_shards):
                yield Job(plan, paths, number)

    def _runs_out(self, jobs: deque[Job], sink: Sink) -> bool:
        """Fill; whether memory ran out. On return the error is gone, and the tensors of the failed pass with it."""
        try:
            self._fill(jobs, sink)
        except RuntimeError as error:
            if is_out_of_memory(error):
                return True
            raise
        return False

    def _fill(self, jobs: deque[Job], sink: Sink) -> None:
        """All jobs until memory runs out; a job leaves the queue with its last part."""
        import torch

        dtype, writer = getattr(torch, self._work.storage), None
        for part, batch in ahead(self._parts(list(jobs)), self._collate, self._work.workers):
            job, plan = part.job, part.job.plan
            writer = writer or ShardWriter(job.path, plan.prefixes, plan.owners, plan.spaces)
            sink.add(writer, launch(self._model, batch, plan.keys, dtype))
            self._advance(len(part.uids))
            if part.last:
                sink.do(partial(self._close, job, writer, self._pieces))
                jobs.popleft()
                writer, self._unwritten = None, 0

    def _parts(self, jobs: Sequence[Job]) -> Iterator[Part]:
        for job in jobs:
            pieces = [(unit, uids) for unit in job.units for uids in _split(unit.samples, self._pieces_of(job))]
            for i, (unit, uids) in enumerate(pieces, 1):
                yield Part(job, uids, unit.prefix == SHARED, last=i == len(pieces))

    def _collate(self, part: Part) -> "Batch":
        samples = [self._samples[uid] for uid in part.uids]
        return self._model.collate(samples, part.job.plan.keys, part.shared, part.job.plan.owners)

    def _advance(self, samples: int) -> None:
        self._passes += 1
        self._done, self._unwritten = self._done + samples, self._unwritten + samples
        self._reporter.progress("extract", self._there + self._done, self._total, "samples")

    def _pieces_of(self, job: Job) -> int:
        """As before, where a shard is extracted again; else as many as this process has come to need."""
        return int(json.loads(job.retry.read_text())["pieces"]) if job.retry.exists() else self._pieces

    def _close(self, job: Job, writer: ShardWriter, pieces: int) -> None:
        """Write a shard, and how it came to be, unless another process was faster."""
        if job.path.exists():
            return
        if pieces > 1 and not job.retry.exists():
            write_json(job.retry, {"pieces": pieces, "equal": "within tolerance"})
        writer.write()
        self._store.learn(job.path)

    def _halve(self, job: Job) -> None:
        """Begin the shard anew with units cut once more. Raises ModelError where a single sample is too much."""
        import torch

        used, largest = self._pieces_of(job), max(len(unit.samples) for unit in job.units)
        if used >= largest:
            raise ModelError(TOO_LITTLE)
        job.retry.unlink(missing_ok=True)
        self._pieces = 2 * used
        self._done, self._unwritten = self._done - self._unwritten, 0
        torch.cuda.empty_cache()
        self._reporter.note(
            f"memory ran out with {-(-largest // used)} samples a pass; going on with {-(-largest // self._pieces)}, "
            "whose states are equal within tolerance"
        )


def is_filled(plan: Plan, store: Store) -> bool:
    """Whether all shards of a plan are there, whoever made them."""
    paths = store.paths.group(plan.digest)
    return all(paths.shard(number).exists() for number in range(plan.shards))


def finish(plan: Plan, store: Store) -> None:
    """Close a filled plan's group."""
    stored = {uid for unit in plan.units for uid in unit.samples}
    joined = not stored.issuperset(plan.prefixes)
    store.finish(plan.digest, plan.keys, plan.shards, len(plan.prefixes), joined)


def join(plan: Plan, store: Store) -> None:
    """Enter a plan without units: its samples only point to image states that are stored already."""
    store.begin(plan.digest, plan.to_json(), store.provenance())
    finish(plan, store)


def _split(samples: tuple[str, ...], pieces: int) -> list[tuple[str, ...]]:
    size = -(-len(samples) // pieces)
    return [samples[i : i + size] for i in range(0, len(samples), size)]
