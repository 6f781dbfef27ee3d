"""probes.safetensors: linear probes of a run, read back as directions in the model's own units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mllm_probe.errors import ConfigError, DataError, choices
from mllm_probe.files.store_paths import replacing
from mllm_probe.results.predictions import opened

LINEAR = frozenset(("mean", "scale", "weights", "intercept"))


@dataclass(frozen=True)
class LinearProbe:
    """One seed's probe at a key: logits = rows @ direction + offset, for rows as the cache holds them.

    `direction` is [D] and `offset` a number where there is one output (positive: label 1), else [C, D] and [C]; `names`
    are those of labels 0, 1, ..., empty where its outputs are no labels.
    """

    key: str
    probe: str
    seed: int
    direction: np.ndarray
    offset: np.ndarray
    names: tuple[str, ...] = ()

    def score(self, rows: Any) -> np.ndarray:
        """Logits [N] or [N, C] float64 of rows [N, D], an array or a tensor of any dtype."""
        values = rows.double().cpu().numpy() if hasattr(rows, "double") else np.asarray(rows, np.float64)
        if values.ndim != 2 or values.shape[1] != self.direction.shape[-1]:
            raise ConfigError(
                f"rows have the shape {list(values.shape)}, and {self.key} needs [N, {self.direction.shape[-1]}]"
            )
        return values @ self.direction.T + self.offset

    def save(self, path: str | Path) -> Path:
        """The direction as `.npy`, or with its offset as `.safetensors`. Raises ConfigError for other names."""
        path = Path(path)
        if path.suffix not in (".npy", ".safetensors"):
            raise ConfigError(f"{path} must end in .npy or .safetensors")
        with replacing(path) as part:
            if path.suffix == ".npy":
                with part.open("wb") as file:
                    np.save(file, self.direction, allow_pickle=False)
            else:
                self._save(part)
        return path

    def _save(self, part: Path) -> None:
        from safetensors.numpy import save_file

        told = {"key": self.key, "probe": self.probe, "seed": str(self.seed)}
        arrays = {"direction": np.ascontiguousarray(self.direction), "offset": np.atleast_1d(self.offset)}
        save_file(arrays, part, metadata=told)


def load_probe(
    path: Path, key: str, probe: str, seed: int, names: Sequence[str] = (), kind: str = "classes"
) -> LinearProbe:
    """A probe of a run without controls, of labels of a kind with these names. Raises ConfigError for a key or a seed
    that the run lacks, DataError for a probe that is no linear one."""
    arrays = _arrays(path, f"{key}/{probe}/", f"seed{seed}/")
    if arrays.keys() != LINEAR:
        raise DataError(
            f"{path}: probe={probe} is not one linear map of a row ({', '.join(sorted(arrays))}), and has no direction"
        )
    direction = np.divide(arrays["weights"], arrays["scale"])  # a constant column has an infinite scale
    offset = arrays["intercept"] - np.atleast_2d(direction) @ arrays["mean"]
    told = tuple(names) if direction.ndim == (1 if kind == "binary" else 2) else ()  # else its outputs are categories
    return LinearProbe(key, probe, seed, direction, offset[0] if direction.ndim == 1 else offset, told)


def _arrays(path: Path, place: str, seed: str) -> Mapping[str, np.ndarray]:
    """Raises ConfigError, DataError."""
    with opened(path) as file:
        held = list(map(str, file.keys()))
        names = [name for name in held if name.startswith(f"{place}{seed}")]
        if not names:
            known = {_named(*name.split("/")[::2][:2]) for name in held if name.count("/") == 3}
            asked = _named(place.split("/")[0], seed)
            raise ConfigError(f"{path} holds no probe of {asked}; {choices(asked, known)}")
        return {name.split("/")[-1]: file.get_tensor(name) for name in names}


def _named(key: str, seed: str) -> str:
    return f"{key}, {seed.rstrip('/').replace('seed', 'seed ')}"
