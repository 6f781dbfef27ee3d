"""Waits for values, checks them and writes shards, in a separate thread with a short queue. Knows no model."""

from collections.abc import Callable
from queue import Queue
from threading import Thread
from types import TracebackType

from mllm_probe.cache.writer import ShardWriter
from mllm_probe.errors import ModelError, first_line, is_out_of_memory
from mllm_probe.extraction.taps import Pending

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
