"""Waits for values, checks them and writes shards, in a thread of its own behind a short queue. Knows no model."""

from collections.abc import Callable
from queue import Queue
from threading import Thread
from types import TracebackType

from mllm_probe.cache.writer import ShardWriter
from mllm_probe.extract.taps import Pending

DEPTH = 2  # passes that may wait here; the model pauses when the disk is that far behind


class Sink:
    """Use as a context manager; leaving it, for whatever reason, waits until what was handed over is on disk.

    An error of the thread (a state that is not finite, a full disk) is raised by the next call from outside.
    """

    def __init__(self, wrote: Callable[[ShardWriter], None]) -> None:
        self._queue: Queue[Callable[[], None] | None] = Queue(DEPTH)
        self._wrote = wrote
        self._thread = Thread(target=self._work, name="sink", daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> "Sink":
        self._thread.start()
        return self

    def add(self, writer: ShardWriter, pending: Pending) -> None:
        """Wait for the values and keep them in the writer."""
        self._put(lambda: writer.add(pending.chunk()))

    def write(self, writer: ShardWriter) -> None:
        """Write the finished shard."""
        self._put(lambda: self._write(writer))

    def _write(self, writer: ShardWriter) -> None:
        writer.write()
        self._wrote(writer)

    def _put(self, task: Callable[[], None]) -> None:
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
                self._error = error
            finally:
                self._queue.task_done()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if error is None:
            self._raise()
