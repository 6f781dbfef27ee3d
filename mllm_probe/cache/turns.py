"""One process at a time: who begins the same sweep or training meanwhile waits, and finds what the first has kept."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Protocol

from mllm_probe.cache.claims import Claimable, Claims, holder
from mllm_probe.records.protocols import Reporter

TURN = 0  # the number of the claim to work; those of the processes that are at it are higher
POLL = 0.5  # seconds between two looks


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
