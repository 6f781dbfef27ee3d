"""What a sweep has fitted so far, one file a key, until the run's own files are joined from them.

A killed sweep finds its parts again by the digest of everything that could change a score. Memory holds one key at a
time, however many there are.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mllm_probe.paths import PartPaths, replacing
from mllm_probe.stages.bench import Trial
from mllm_probe.types import Key

LOGITS, FITS = "logits/", "fits/"


class Parts:
    """The folder of one sweep's parts; emptied by `clear` when the run's files are written."""

    def __init__(self, paths: PartPaths) -> None:
        self._paths = paths
        self._names: list[str] = []

    def get(self, name: str, make: Callable[[], Sequence[Trial]]) -> list[Trial]:
        """The trials of a part: read where an earlier process left them, else made and written."""
        from safetensors import SafetensorError

        path = self._paths.part(name)
        self._names.append(name)
        if path.exists():
            try:
                return _load(path)
            except (SafetensorError, ValueError, KeyError):
                path.unlink()  # a damaged part costs its fits, nothing else
        trials = list(make())
        _save(path, trials)
        return trials

    def join(self, prefix: str, out: Path, metadata: dict[str, str]) -> None:
        """One safetensors file of all tensors named `prefix`..., copied without holding more than one of them."""
        files = [self._paths.part(name) for name in self._names]
        tensors = [(file, name, *entry) for file in files for name, entry in _directory(file) if name.startswith(prefix)]
        header: dict[str, Any] = {"__metadata__": {**metadata, "facts": json.dumps(self._facts(files))}}
        end = 0
        for _, name, entry, _ in tensors:
            start, end = end, end + entry["data_offsets"][1] - entry["data_offsets"][0]
            header[name.removeprefix(prefix)] = {**entry, "data_offsets": [start, end]}
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)
        with replacing(out) as part, part.open("wb") as target:
            target.write(len(raw).to_bytes(8, "little") + raw)
            for file, _, entry, base in tensors:
                with file.open("rb") as source:
                    source.seek(base + entry["data_offsets"][0])
                    target.write(source.read(entry["data_offsets"][1] - entry["data_offsets"][0]))

    def _facts(self, files: Iterable[Path]) -> dict[str, Any]:
        return {name: facts for file in files for name, facts in _trials(file).items()}

    def clear(self) -> None:
        shutil.rmtree(self._paths.root, ignore_errors=True)


def _save(path: Path, trials: Sequence[Trial]) -> None:
    from safetensors.numpy import save_file

    arrays: dict[str, np.ndarray] = {}
    for trial in trials:
        arrays[f"{LOGITS}{trial.name}"] = np.ascontiguousarray(trial.logits)
        arrays |= {f"{FITS}{trial.name}/{name}": np.ascontiguousarray(a) for name, a in trial.arrays.items()}
    described = [
        {"key": str(t.key or ""), "control": t.control, "probe": t.probe, "seed": t.seed, "facts": dict(t.facts)}
        for t in trials
    ]
    with replacing(path) as part:
        save_file(arrays, part, metadata={"trials": json.dumps(described)})


def _load(path: Path) -> list[Trial]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        described = json.loads(file.metadata()["trials"])
        trials = []
        for entry in described:
            key = Key.parse(entry["key"]) if entry["key"] else None
            bare = Trial(key, entry["control"], entry["probe"], entry["seed"], np.zeros(0), entry["facts"], {})
            logits = file.get_tensor(f"{LOGITS}{bare.name}")
            trials.append(Trial(key, bare.control, bare.probe, bare.seed, logits, bare.facts, {}))
    return trials


def _directory(path: Path) -> list[tuple[str, tuple[dict[str, Any], int]]]:
    """(name, (dtype, shape and offsets, where the data begin)) of each tensor, in the order of the file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    header.pop("__metadata__")
    return [(name, (entry, 8 + size)) for name, entry in header.items()]


def _trials(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        described = json.loads(file.metadata()["trials"])
    named = (
        Trial(Key.parse(e["key"]) if e["key"] else None, e["control"], e["probe"], e["seed"], np.zeros(0), {}, {}).name
        for e in described
    )
    return dict(zip(named, (entry["facts"] for entry in described), strict=True))
