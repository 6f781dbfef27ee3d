"""Make batches in worker threads ahead of the model, in order and not too many. Knows nothing of either."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


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
