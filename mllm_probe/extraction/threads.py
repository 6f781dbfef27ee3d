"""Threads beside the model: batches are made ahead of it, in order and not too many; its values are checked and written
behind it, from a short queue. Knows no model."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import TypeVar

from mllm_probe.cache.writer import ShardWriter
from mllm_probe.errors import ModelError, first_line, is_out_of_memory
from mllm_probe.extraction.taps import Pending

T = TypeVar("T")
R = TypeVar("R")
DEPTH = 2  # passes that may wait here; the model pauses when the disk is that far behind


def ahead(items: Iterable[T], make: Callable[[T], R], workers: int) -> Iterator[tuple[T, R]]:
    """(item, make(item)) in the order of the items, at most `workers` + 1 of them made before they are asked for.

    An error of `make` is raised when its item's turn comes. With 0 workers everything happens in the caller's thread.
    """
    if workers == 0:
        yield from ((item, make(item)) for item in items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="collate")
    waiting: deque[tuple[T, Future[R]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(make, item)))
            if len(waiting) > workers:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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
