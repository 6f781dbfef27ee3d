"""What a job leaves: no folder where it was refused before any work, else the link `latest` to what ran last."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.errors import MllmProbeError, PendingError
from mllm_probe.files.paths import MultirunPaths, OutputPaths, RunPaths
from mllm_probe.files.temporaries import temporary

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mllm_probe.cli.heartbeat import Heartbeat

_absent: list[Path] = []
_there: dict[Path, bytes | None] = {}


@contextmanager
def leaving(heart: "Heartbeat", folder: Path, here: "DictConfig", outputs: Path) -> Iterator[None]:
    """Around a job with a `folder` of its own; jobs of a multirun keep theirs, for its status is read there."""
    swept = here.mode is not None and here.mode.name == "MULTIRUN"
    ran = Path(here.sweep.dir) if swept else folder
    try:
        yield
    except MllmProbeError as error:
        if swept or heart.began or isinstance(error, PendingError):
            _point(outputs, ran)
        else:
            _clear(folder, {str(here.output_subdir), f"{here.job.name}.log"})
        raise
    _point(outputs, ran)


def note_absent(folder: Path) -> None:
    """Of the folder that Hydra will make for a job, and those above it, remember which are not there yet."""
    _absent[:] = [place for place in (folder.absolute(), *folder.absolute().parents) if not place.exists()]


def note_before(folder: Path) -> None:
    """Of the folder of a multirun, remember what is there, and what its files and the statuses of its jobs hold."""
    note_absent(folder)
    _there.clear()
    _there.update((path, None) for path in folder.rglob("*"))
    records = (*(path for path in folder.glob("*") if path.is_file()), *MultirunPaths(folder).statuses())
    _there.update((path, path.read_bytes()) for path in records)


def take_back(folder: Path) -> None:
    """Make the folder of a multirun of which nothing was started what it was."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path not in _there:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for path, content in _there.items():
        if content is not None:
            path.write_bytes(content)
    remove_made()


def remove_made() -> None:
    """The folders that were made for a job or a multirun and are empty."""
    for place in _absent:
        with suppress(OSError):  # not empty, or gone
            place.rmdir()


def _clear(folder: Path, hydras: set[str]) -> None:
    """Remove the folder, and those above it that were made for it and are empty. One that holds more than a job writes
    before its work stays as it is: it was there before."""
    own = RunPaths(folder)
    if {path.name for path in folder.iterdir()} <= {*hydras, own.status.name, own.config.name, own.identity.name}:
        shutil.rmtree(folder)
        remove_made()


def _point(outputs: Path, folder: Path) -> None:
    """Where a file system has no links, or `latest` is a folder of the user's, there is none."""
    link = OutputPaths(outputs).latest
    part = temporary(link)
    with suppress(OSError):
        part.symlink_to(os.path.relpath(folder, outputs), target_is_directory=True)
        part.replace(link)
    part.unlink(missing_ok=True)
