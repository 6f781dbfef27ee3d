"""What a sweep has fitted so far, one file a key, until the run's own files are joined from them; and what sweeps keep
of their fits for the next ones.

A killed sweep finds its parts again by the digest of everything that could change a score. So does another process with
the same sweep, which waits for its turn meanwhile. Memory holds one key at a time, however many there are.

Kept fits are found by the content of what went into them, so that another sweep of the same rows, labels and splits
finds them too, whatever it measures, draws and shows.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe import __version__, probes
from mllm_probe.cache.claims import clear, turn
from mllm_probe.errors import CacheError
from mllm_probe.files.seals import read_sealed, save_sealed
from mllm_probe.files.store_paths import FitPaths, PartPaths, replacing
from mllm_probe.fitting.trials import Asked, Trial
from mllm_probe.records.problems import content
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.sites import Key

if TYPE_CHECKING:
    import torch

LOGITS, FITS = "logits/", "fits/"
LIBRARIES = ("numpy", "scipy", "torch")  # whose versions may change a fit
TOLD = ("control", "probe", "seed", "facts", "features")


class Parts:
    """The folder of one sweep's parts; emptied by `clear` when the run's files are written."""

    def __init__(self, paths: PartPaths) -> None:
        self._paths = paths
        self._names: dict[str, None] = {}

    @contextmanager
    def turn(self, reporter: Reporter) -> Iterator[None]:
        """Alone at this sweep. Whoever comes meanwhile waits, and finds the parts."""
        with turn(self._paths, "fits the same sweep", reporter):
            yield

    def get(self, name: str, make: Callable[[], Sequence[Trial]]) -> list[Trial]:
        """The trials of a part: read where an earlier process left them, else made and written."""
        path = self._paths.part(name)
        self._names[name] = None
        if path.exists():
            try:
                return _load(path)
            except (ValueError, KeyError):
                path.unlink()  # a damaged part costs its fits, nothing else
        trials = list(make())
        _save(path, trials)
        return trials

    def join(self, prefix: str, out: Path, metadata: Mapping[str, str]) -> None:
        """One safetensors file of all tensors named `prefix`..., copied one by one: no two are in memory at once.

        Raises CacheError where parts are gone, as when this process slept so long that another one took its turn.
        """
        if gone := [name for name in self._names if not self._paths.part(name).exists()]:
            raise CacheError(
                f"{self._paths.root} lost the part of {gone[0]}: another process removed it, or finished the same "
                "sweep while this one slept; repeat the command to start again"
            )
        tensors = [tensor for name in self._names for tensor in _tensors(self._paths.part(name), prefix)]
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        end = 0
        for tensor in tensors:
            header[tensor.name] = {
                "dtype": tensor.dtype,
                "shape": tensor.shape,
                "data_offsets": [end, end + tensor.size],
            }
            end += tensor.size
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)
        with replacing(out) as part, part.open("wb") as target:
            target.write(len(raw).to_bytes(8, "little") + raw)
            for tensor in tensors:
                target.write(tensor.read())

    def facts(self) -> dict[str, dict[str, float]]:
        """{trial name: what the fit says of itself}."""
        return {trial.name: dict(trial.facts) for name in self._names for trial in _load(self._paths.part(name))}

    def clear(self) -> None:
        """Remove all, unless another process is at the same sweep, which then does so."""
        clear(self._paths)


class KeptFits:
    """What sweeps have fitted, found again by all that went in: rows, labels, splits and the probe.

    A file that is damaged, or was written by other versions of what fits, is not used and written anew.
    Probes of plugins are always fitted: what their code has become is not known here.
    """

    def __init__(self, paths: FitPaths) -> None:
        self._paths = paths
        self._seen: Counter[str] = Counter()

    def __call__(self, asked: Asked, make: Callable[[], list[Trial]]) -> list[Trial]:
        if not type(asked.probe).__module__.startswith("mllm_probe."):
            return make()
        path, versions = self._paths.fit(_digest(asked)), _versions()
        found = self._read(path, versions)
        if found is None:
            found = make()
            _save(path, found, versions)
        return found

    def _read(self, path: Path, versions: str) -> list[Trial] | None:
        self._seen["asked"] += 1
        if not path.exists():
            return None
        try:
            tensors, metadata = read_sealed(path)
            found = _trials(tensors, metadata)
        except (ValueError, KeyError, TypeError):
            self._seen["damaged"] += 1
            return None
        if metadata.get("versions") != versions:
            self._seen["of other versions"] += 1
            return None
        self._seen["found"] += 1
        return found

    def said(self) -> list[str]:
        """How many were found, and how many could not be used."""
        seen, place = self._seen, self._paths.root
        refused = [f"{seen[why]} {why}" for why in ("damaged", "of other versions") if seen[why]]
        said = [f"{place} has fits that were not used but made again: {', '.join(refused)}"] if refused else []
        if seen["found"]:
            kept = f"{seen['found']} of {seen['asked']} fits are those of earlier sweeps of the same rows, labels and"
            said.append(f"{kept} splits ({place}); sweep.reuse=false fits all again")
        return said


def _digest(asked: Asked) -> str:
    settings = [part for item in sorted(vars(asked.probe).items()) for part in item]
    problems = [part for p in asked.problems for part in (p.y, p.train, p.val, p.kind, p.mask, p.seed)]
    names = [(str(blank.key or ""), blank.control, blank.seed, blank.features) for blank in asked.blanks]
    kind = type(asked.probe)
    return content(kind.__module__, kind.__qualname__, *settings, asked.readout.content(), *problems, names)


@cache
def _versions() -> str:
    """Of all that fits: this release, libraries, and the code of probes and of this folder."""
    folders = (Path(__file__).parent, Path(probes.__file__).parent)
    files = sorted(file for folder in folders for file in folder.rglob("*.py"))
    code = content(*(file.read_text(encoding="utf-8") for file in files))
    return json.dumps({"release": __version__, "code": code, **{name: version(name) for name in LIBRARIES}})


def _save(path: Path, trials: Sequence[Trial], versions: str = "") -> None:
    import torch

    arrays: dict[str, np.ndarray] = {}
    for trial in trials:
        arrays[f"{LOGITS}{trial.name}"] = trial.logits
        arrays |= {f"{FITS}{trial.name}/{name}": a for name, a in trial.arrays.items()}
    told = [{**{name: getattr(t, name) for name in TOLD}, "key": str(t.key or "")} for t in trials]
    save_sealed(
        path, {name: torch.tensor(a) for name, a in arrays.items()}, {"trials": json.dumps(told), "versions": versions}
    )


def _load(path: Path) -> list[Trial]:
    """Without the arrays of the fits, which only the joined file needs."""
    return _trials(*read_sealed(path, lambda name: name.startswith(LOGITS)))


def _trials(found: "Mapping[str, torch.Tensor]", metadata: Mapping[str, str]) -> list[Trial]:
    trials = []
    for told in json.loads(metadata["trials"]):
        told["key"] = Key.parse(told["key"]) if told["key"] else None
        bare = Trial(**told, logits=np.zeros(0), arrays={})
        own = f"{FITS}{bare.name}/"
        arrays = {name.removeprefix(own): values.numpy() for name, values in found.items() if name.startswith(own)}
        trials.append(replace(bare, logits=found[f"{LOGITS}{bare.name}"].numpy(), arrays=arrays))
    return trials


@dataclass(frozen=True)
class _Tensor:
    """Where a tensor lies in a safetensors file."""

    file: Path
    name: str
    dtype: str
    shape: list[int]
    start: int
    size: int

    def read(self) -> bytes:
        with self.file.open("rb") as source:
            source.seek(self.start)
            return source.read(self.size)


def _tensors(path: Path, prefix: str) -> list[_Tensor]:
    """Those named `prefix`..., without the prefix, in the order of the file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    found = []
    for name, entry in header.items():
        if name.startswith(prefix):
            first, last = entry["data_offsets"]
            place = (entry["dtype"], entry["shape"], 8 + length + first, last - first)
            found.append(_Tensor(path, name.removeprefix(prefix), *place))
    return found
