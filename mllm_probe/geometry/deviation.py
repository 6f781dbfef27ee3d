"""How far the states of one layer are from those of the same prompts in another precision. Row by row; fits nothing.

Letters: T rows, D width. Both sides are the same site of the same checkpoint, so that dimension d means the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mllm_probe.errors import ProbeError
from mllm_probe.geometry.row_checks import check_finite, divided
from mllm_probe.records.problems import Rows

STEP = 4096  # rows that are in memory at once


@dataclass(frozen=True)
class Deviation:
    """Of each row [T] float64, x exact and y approximated.

    `relative` |y - x| / |x|; `cosine` of the angle between them; `squared` |y - x|^2 and `spread` |x - mean of x|^2,
    whose sums have as their ratio the fraction of variance unexplained. A few massive dimensions that are alike for
    every prompt make the first two look harmless; the ratio is what is lost of that in which prompts differ.
    nan where x or y is zero.
    """

    relative: np.ndarray
    cosine: np.ndarray
    squared: np.ndarray
    spread: np.ndarray

    @property
    def means(self) -> dict[str, np.ndarray]:
        """What is reported as its mean over rows."""
        return {"relative_error": self.relative, "cosine": self.cosine}


def deviation(exact: Rows, approximated: Rows, name: str, standardise: bool = False) -> Deviation:
    """Rows [T, D] of both in the same order; `name` is for messages. With `standardise`, `relative` and `cosine` are
    those of x and y less the mean of x, by its deviation in each dimension. Raises ProbeError for other shapes and
    values that are not finite."""
    if tuple(exact.shape) != tuple(approximated.shape):
        raise ProbeError(f"{name}: rows {tuple(approximated.shape)} cannot be compared with {tuple(exact.shape)}")
    mean = sum(part.sum(axis=0) for part in _parts(exact, name)) / exact.shape[0]
    scale = None
    if standardise:
        scale = np.sqrt(sum(((part - mean) ** 2).sum(axis=0) for part in _parts(exact, name)) / exact.shape[0])
    pairs = zip(_parts(exact, name), _parts(approximated, name), strict=True)
    columns = zip(*(_deviations(x, y, mean, scale) for x, y in pairs), strict=True)
    return Deviation(*map(np.concatenate, columns))


def _deviations(x: np.ndarray, y: np.ndarray, mean: np.ndarray, scale: np.ndarray | None) -> tuple[np.ndarray, ...]:
    squared, spread = ((y - x) ** 2).sum(axis=1), ((x - mean) ** 2).sum(axis=1)
    if scale is not None:
        x, y = (divided(one - mean, mean, scale) for one in (x, y))
    length, error = np.linalg.norm(x, axis=1), np.sqrt(((y - x) ** 2).sum(axis=1))
    cosine = _share((x * y).sum(axis=1), length * np.linalg.norm(y, axis=1)).clip(-1, 1)
    return _share(error, length), cosine, squared, spread


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)


def _parts(rows: Rows, name: str) -> Iterator[np.ndarray]:
    for start in range(0, rows.shape[0], STEP):
        part = rows[slice(start, start + STEP)].double().numpy()
        check_finite(part, name)
        yield part
