"""The loop: shard by shard, unit by unit, from the model into the store. Knows no model class and no label.

    worker threads            this thread        sink thread
    pictures -> batches  ->   forward passes ->  wait, check, write shards

A shard that already exists is not computed again: after a kill the loop goes on with the first shard that is missing.
A shard that another process has claimed is left to it. Where memory runs out, the shard is begun anew with smaller
passes.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mllm_probe.cache.claims import Claims
from mllm_probe.cache.plan import SHARED, Content, Plan, ShardWriter
from mllm_probe.cache.store import Store, write_json
from mllm_probe.data.pictures import ahead
from mllm_probe.errors import ModelError, first_line, is_out_of_memory
from mllm_probe.extraction.sharing import Job, Work, anything_to_fill, jobs_of
from mllm_probe.extraction.taps import TOO_LITTLE, Pending, launch
from mllm_probe.records.protocols import Extractable, Reporter
from mllm_probe.records.samples import Sample

if TYPE_CHECKING:
    from mllm_probe.records.batches import Batch

DEPTH = 2  # passes that may wait here; the model pauses when the disk is that far behind


class Sink:
    """Use as a context manager; leaving it, for whatever reason, waits until what was handed over is on disk.

    An error of the thread (a state that is not finite, a full disk) is raised by the next call from outside.
    """

    def __init__(self) -> None:
        self._queue: Queue[Callable[[], None] | None] = Queue(DEPTH)
        self._thread = Thread(target=self._work, name="sink", daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> "Sink":
        self._thread.start()
        return self

    def add(self, writer: ShardWriter, pending: Pending) -> None:
        """Wait for the values and keep them in the writer."""
        self.do(lambda: writer.add(pending.chunk()))

    def do(self, task: Callable[[], None]) -> None:
        """Run something behind what was handed over before."""
        self._raise()
        self._queue.put(task)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            try:
                if self._error is None:
                    task()
            except BaseException as error:
                self._error = _plainly(error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._raise()


def _plainly(error: BaseException) -> BaseException:
    """Memory that runs out here is the host's, and smaller passes do not help."""
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        return ModelError(f"the host's memory does not suffice to gather a shard ({first_line(error)})")
    return error


@dataclass(frozen=True)
class Part:
    """A unit, or a piece of one where memory ran out."""

    job: Job
    content: Content
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
        self._done = self._unwritten = self._passes = 0
        self._told = -1

    def run(self, plans: Sequence[Plan], claims: Claims) -> dict[str, Any]:
        """Extract what the plans name, falls to this process and is claimed by no other; then wait for those.

        Returns counts, seconds and whether all is there. Raises PendingError where others are still at work.
        """
        started = time.monotonic()
        for plan in plans:
            self._store.begin(plan, self._model.provenance())
        jobs = jobs_of(plans, self._store, self._work)
        self._total = sum(job.samples for job in jobs)
        self._report(jobs)
        while anything_to_fill(jobs, claims, self._work, self._reporter):
            with Sink() as sink:  # once it is left, what was handed over is on disk
                short = self._runs_out(jobs, claims, sink)
            if short:
                self._halve(self._job)
            self._report(jobs)
        self._store.remember()
        complete = finish_filled(plans, self._store)
        seconds = round(time.monotonic() - started, 2)
        return {"samples": self._done, "forward_passes": self._passes, "seconds": seconds, "complete": complete}

    def _runs_out(self, jobs: Sequence[Job], claims: Claims, sink: Sink) -> bool:
        """Fill; whether memory ran out. On return the error is gone, and the tensors of the failed pass with it."""
        try:
            self._fill(jobs, claims, sink)
        except RuntimeError as error:
            if is_out_of_memory(error):
                return True
            raise
        return False

    def _fill(self, jobs: Sequence[Job], claims: Claims, sink: Sink) -> None:
        """All jobs that can be claimed, until memory runs out."""
        import torch

        dtype, writer = getattr(torch, self._work.storage), None
        for part, batch in ahead(self._parts(jobs, claims), self._collate, self._work.workers):
            self._job, plan, content = part.job, part.job.plan, part.content
            writer = writer or ShardWriter(self._job.path, content.prefixes, content.owners, plan.spaces)
            sink.add(writer, launch(self._model, batch, plan.keys, dtype))
            self._advance(len(part.uids))
            if part.last:
                sink.do(partial(self._close, self._job, writer, self._pieces, claims))
                writer, self._unwritten = None, 0

    def _parts(self, jobs: Sequence[Job], claims: Claims) -> Iterator[Part]:
        """Jobs are claimed when their turn comes, so that others find the rest free."""
        for job in jobs:
            if not job.take(claims):
                continue
            content, cut = job.content, self._pieces_of(job)
            pieces = [(unit, uids) for unit in content.units for uids in _split(unit.samples, cut)]
            for i, (unit, uids) in enumerate(pieces, 1):
                yield Part(job, content, uids, unit.prefix == SHARED, last=i == len(pieces))

    def _collate(self, part: Part) -> "Batch":
        samples = [self._samples[uid] for uid in part.uids]
        return self._model.collate(samples, part.job.plan.keys, part.shared, part.content.owners)

    def _advance(self, samples: int) -> None:
        self._passes += 1
        self._done, self._unwritten = self._done + samples, self._unwritten + samples
        self._tell(self._told + samples)

    def _report(self, jobs: Sequence[Job]) -> None:
        """What is there, whoever made it."""
        self._tell(self._total - sum(job.samples for job in jobs if not job.path.exists()))

    def _tell(self, there: int) -> None:
        if there != self._told:
            self._told = there
            self._reporter.progress("extract", there, self._total, "samples")

    def _pieces_of(self, job: Job) -> int:
        """As before, where a shard is extracted again; else as many as this process has come to need."""
        return int(json.loads(job.retry.read_text())["pieces"]) if job.retry.exists() else self._pieces

    def _close(self, job: Job, writer: ShardWriter, pieces: int, claims: Claims) -> None:
        """Write a shard, and how it came to be, unless this process slept and another has taken its place."""
        if claims.holds(job.paths, job.number) and not job.path.exists():
            if pieces > 1 and not job.retry.exists():
                write_json(job.retry, {"pieces": pieces, "equal": "within tolerance"})
            writer.write()
            self._work.wrote(job.samples, sum(len(_split(range(size), pieces)) for size in job.sizes))
            self._store.learn(job.path)
        claims.release(job.paths, job.number)

    def _halve(self, job: Job) -> None:
        """Begin the shard anew with units cut once more. Raises ModelError where a single sample is too much."""
        import torch

        used, largest = self._pieces_of(job), max(job.sizes)
        if used >= largest:
            raise ModelError(TOO_LITTLE)
        job.retry.unlink(missing_ok=True)
        self._pieces = 2 * used
        self._done, self._unwritten = self._done - self._unwritten, 0
        torch.cuda.empty_cache()
        self._reporter.note(
            f"memory ran out with {-(-largest // used)} samples a pass; continuing with {-(-largest // self._pieces)}, "
            "whose states are equal within tolerance"
        )


def is_filled(plan: Plan, store: Store) -> bool:
    """Whether all shards of a plan are there, whoever made them."""
    paths = store.paths.group(plan.digest)
    return all(paths.shard(number).exists() for number in range(plan.shards))


def finish_filled(plans: Sequence[Plan], store: Store) -> bool:
    """Close the groups of plans once all are filled; whether they are.

    Together, for a process that begins now must plan what this one planned.
    """
    complete = all(is_filled(plan, store) for plan in plans)
    for plan in plans if complete else ():
        begun = store.paths.group(plan.digest).provenance.exists()  # only one without units may not be
        (finish if begun else join)(plan, store)
    return complete


def finish(plan: Plan, store: Store) -> None:
    """Close a filled plan's group."""
    samples = len(plan.samples)
    store.finish(plan.digest, plan.keys, plan.shards, samples, joined=plan.read < samples)


def join(plan: Plan, store: Store) -> None:
    """Enter a plan without units: its samples only point to image states that are stored already."""
    store.begin(plan, store.provenance())
    finish(plan, store)


def _split(samples: Sequence[Any], pieces: int) -> list[Any]:
    size = -(-len(samples) // pieces)
    return [samples[i : i + size] for i in range(0, len(samples), size)]
