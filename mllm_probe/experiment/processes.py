"""`extract.gpus=n`: n processes on one machine, each with a device of its own and every n-th shard."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mllm_probe.config.run import RunConfig
from mllm_probe.config.verbosity import QUIET, verbosity
from mllm_probe.errors import CacheError, ConfigError, MllmProbeError, PendingError
from mllm_probe.experiment.request import Request
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.protocols import Reporter

VISIBLE = "CUDA_VISIBLE_DEVICES"
FAILED, PENDING = 1, 2  # exit codes of a process


Command = Callable[[RunConfig, RunPaths, Reporter], Any]


def in_processes(
    command: Command, config: RunConfig, request: Request, device: str, reporter: Reporter
) -> dict[str, Any]:
    """Start `command` in each process, wait for all, and see that everything is there.

    Raises ConfigError, CacheError, and PendingError where processes that were started elsewhere hold their shards.
    """
    started, experiment = time.monotonic(), request.experiment
    count = config.extract.gpus
    spawn = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with TemporaryDirectory() as folder:
        running = []
        for i, name in enumerate(_devices(device, count)):
            own = replace(config, extract=replace(config.extract, gpus=1, shard=i, num_shards=count))
            args = (command, own, Path(folder) / str(i), i)
            running.append(spawn.Process(target=_work, args=args, name=f"shard {i}", daemon=True))
            with _visible(name):
                running[-1].start()
        reporter.note(f"{count} processes on {device}")
        _wait(running)
    ended = {process.name: process.exitcode for process in running if process.exitcode}
    if set(ended.values()) == {PENDING}:
        raise PendingError(f"others still fill {', '.join(ended)} of {count}; repeat the command later to continue")
    if ended:
        raise CacheError(f"{', '.join(ended)} of {count} failed; finished shards are kept, repeat the command")
    missing = experiment.store.coverage().missing(
        experiment.stored, (sample.uid for sample in experiment.examples.samples)
    )
    samples = len(request.samples) - sum(map(len, missing.values()))
    seconds = round(time.monotonic() - started, 2)
    return {"samples": samples, "forward_passes": None, "seconds": seconds, "complete": not missing}


def _wait(running: Sequence[BaseProcess]) -> None:
    """Until all have ended; whatever stops this process stops them, too."""
    try:
        for process in running:
            process.join()
    finally:
        for process in running:
            process.terminate()


def _work(command: Command, config: RunConfig, folder: Path, number: int) -> None:
    """The whole life of one process."""
    folder.mkdir()
    try:
        command(config, RunPaths(folder), Lines(number))
    except (MllmProbeError, OSError) as error:
        Lines(number).say(str(error))
        raise SystemExit(PENDING if isinstance(error, PendingError) else FAILED) from None
    except KeyboardInterrupt:  # the parent says so for all
        raise SystemExit(FAILED) from None


class Lines:
    """A Reporter of plain lines, since several bars would overwrite each other."""

    def __init__(self, number: int) -> None:
        self._number, self._tenth = number, 0

    def note(self, text: str) -> None:
        if verbosity() != QUIET:
            self.say(text)

    def say(self, text: str) -> None:
        """Whatever was asked for, as an error must be."""
        print(f"[shard {self._number}] {text}", file=sys.stderr, flush=True)

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth > self._tenth:
            self._tenth = tenth
            self.note(f"{stage}: {done}/{total} {unit}")


def _devices(device: str, count: int) -> list[str | None]:
    """What each process may see; on a CPU all see the same."""
    if device == "cpu":
        return [None] * count
    import torch

    seen = (
        os.environ[VISIBLE].split(",") if os.environ.get(VISIBLE) else list(map(str, range(torch.cuda.device_count())))
    )
    if count > len(seen):
        raise ConfigError(f"extract.gpus={count}, but torch sees {len(seen)} here; at most that many processes")
    return list(seen[:count])


@contextmanager
def _visible(name: str | None) -> Iterator[None]:
    """What a process started inside sees of the devices."""
    before = os.environ.get(VISIBLE)
    if name is not None:
        os.environ[VISIBLE] = name
    try:
        yield
    finally:
        if name is not None:
            os.environ.pop(VISIBLE)
            if before is not None:
                os.environ[VISIBLE] = before
