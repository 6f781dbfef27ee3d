"""Commands called as a user calls them, the small settings of most tests, and what a run left read back."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import safe_open

REAL = Path(os.environ.get("MLLM_PROBE_REAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))


class Silent:
    """A Reporter that remembers its notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        pass


Run = Callable[..., tuple[int, str, str]]
QUICK = ("experiment=smoke", "data.n=30", "dataset.pictures=30", "sweep.draws=50")


def tiny(checkpoint: Path) -> tuple[str, ...]:
    return ("model=custom", f"model.path={checkpoint}", "model.dtype=float32")


def stored(cache: Path, key: str) -> dict[str, np.ndarray]:
    """{uid: row [D]} of a key with a row for each uid, from the shards of a cache, with nothing but safetensors."""
    rows: dict[str, np.ndarray] = {}
    for path in sorted(cache.glob("groups/*/*.safetensors")):
        with safe_open(path, "np") as file:
            index = json.loads(file.metadata()["index"])
            if key in index["spaces"]:
                rows |= dict(zip(index[index["spaces"][key]], file.get_tensor(key), strict=True))
    return rows


def folder(tmp_path: Path, command: str = "run") -> Path:
    """That of the latest run."""
    return sorted((tmp_path / "outputs" / command).glob("*/*"))[-1]
