"""Commands started in another process, killed and resumed.

The process is a fork of this one, so that what it imports, seconds of each command, is there already.
"""

import os
import resource
import stat
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from mllm_probe.cli import entry as cli
from tests.support.runs import tiny

DATA = ("task=entailment", "dataset.pictures=40", "data.n=40", "splits.blocks=4", "extract.micro_batch=1")


def start(
    folder: Path,
    checkpoint: Path,
    *args: str,
    limit: int | None = None,
    first: Callable[[], None] = lambda: None,
) -> subprocess.Popen[str]:
    """`mllm-probe extract` in `folder`, once `first` was called there; `limit`: the largest file that the kernel lets
    it write."""
    folder.mkdir(exist_ok=True)
    words = ["extract", *tiny(checkpoint), *DATA, *args]

    def instead() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        _leave_parent()
        first()
        _end_with(words)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: those here hold no lock
        return subprocess.Popen(
            [sys.executable], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            restore_signals=False, preexec_fn=instead,
        )  # fmt: skip


def _leave_parent() -> None:
    """Other pipes than stdout and stderr are closed: Popen waits for one of them, pytest's workers talk through more.
    Their numbers stay taken, for objects here may hold them."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in [int(path.name) for path in Path("/dev/fd").iterdir()]:
        with suppress(OSError):  # that of the listing itself
            if number > 2 and stat.S_ISFIFO(os.fstat(number).st_mode):
                os.dup2(nowhere, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")


def _end_with(words: Sequence[str]) -> None:
    """Call the command, and end the process as the console script would."""
    code: object = 0
    torch.set_num_threads(torch.get_num_threads())  # anew after a fork: two threads that do so at once may find no pool
    try:
        cli.main(words)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=240)
    return process.returncode, err


def cache(folder: Path) -> dict[str, bytes]:
    """{name: content} of every file of the one cache there."""
    (root,) = (folder / "outputs" / "cache").glob("*/")
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("outputs/cache/*/groups/*/*.safetensors"))


@pytest.fixture(scope="module")
def whole(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed extraction of 160 statements in six shards, with its outputs."""
    folder = tmp_path_factory.mktemp("whole")
    code, err = finish(start(folder, checkpoint))
    assert code == 0, err
    assert len(shards(folder)) == 6
    return folder
