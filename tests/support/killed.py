"""Commands started in another process, killed and resumed."""

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.runs import tiny

DATA = ("task=entailment", "dataset.pictures=40", "data.n=40", "splits.blocks=4", "extract.micro_batch=1")


def start(
    folder: Path,
    checkpoint: Path,
    *args: str,
    limit: int | None = None,
    program: Sequence[str] = ("-m", "mllm_probe"),
) -> subprocess.Popen[str]:
    """`mllm-probe extract` in `folder`; `limit`: the largest file that the kernel lets it write."""
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, *program, "extract", *tiny(checkpoint), *DATA, *args],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))),
    )


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
