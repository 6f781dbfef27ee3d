"""Sequences of pictures against sequences of captions, from the cosines of their slices.

What `similarity` computes from vectors is here computed from a matrix of cosines, of which the sequences are places:
slices recur in many sequences, and the vectors of a wide model would be copied for every pair. Knows no model.
Letters: N pictures, T texts, S sequences of each kind, L slices of the longest.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mllm_probe.errors import ProbeError
from mllm_probe.sugar.kernels import local_kernel, log_gak, width

CHUNK = 1 << 15  # pairs that are aligned together
GAK, ALIGNED, BAG = "gak", "aligned_mean", "bag_mean"


@dataclass(frozen=True)
class Places:
    """`index` [S, L]: which rows a sequence consists of, the first `lengths` [S] real, the others 0."""

    index: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, sequences: list[list[int]]) -> "Places":
        """Raises ProbeError for a sequence without a slice."""
        if not sequences or min(map(len, sequences)) < 1:
            raise ProbeError("a sequence has no slice of one modality, so it cannot be aligned; each needs one or more")
        lengths = np.asarray([len(one) for one in sequences])
        index = np.zeros((len(sequences), lengths.max()), dtype=np.int64)
        for row, one in zip(index, sequences, strict=True):
            row[: len(one)] = one
        return cls(index, lengths)

    @property
    def real(self) -> np.ndarray:
        """[S, L] bool."""
        return np.arange(self.index.shape[1]) < self.lengths[:, None]


def aligned_mean(cosines: np.ndarray, left: Places, right: Places) -> np.ndarray:
    """Mean cosine of the first slices, the second ones, ...: [S, S'], nan where the lengths differ."""
    most = min(left.index.shape[1], right.index.shape[1])
    total = np.zeros((len(left.lengths), len(right.lengths)))
    for place in range(most):
        here = left.real[:, place, None] & right.real[None, :, place]
        total += np.where(here, cosines[np.ix_(left.index[:, place], right.index[:, place])], 0)
    same = left.lengths[:, None] == right.lengths
    return np.where(same, total / left.lengths[:, None], np.nan)


def bag_mean(cosines: np.ndarray, left: Places, right: Places) -> np.ndarray:
    """Mean cosine of every slice with every slice, whatever their order: [S, S']."""
    weights = [_weights(places, size) for places, size in zip((left, right), cosines.shape, strict=True)]
    return weights[0] @ cosines @ weights[1].T


def _weights(places: Places, size: int) -> np.ndarray:
    found = np.zeros((len(places.lengths), size))
    for row, index, length in zip(found, places.index, places.lengths, strict=True):
        np.add.at(row, index[:length], 1 / length)
    return found


def gak(
    cosines: np.ndarray, own: tuple[np.ndarray, np.ndarray], left: Places, right: Places, delta: float
) -> np.ndarray:
    """The normalised global alignment kernel of `similarity.similarities`, without the cosine for single slices.

    cosines [N, T] between pictures and texts, `own` those within each kind, [N, N] and [T, T]. Returns [S, S'].
    Raises ProbeError for a delta that is not above 0.
    """
    if not delta > 0:
        raise ProbeError(f"align.delta={delta} must be above 0; all slices of this layer may be the same")
    a, b = (torch.from_numpy(places.lengths) for places in (left, right))
    selves = [
        _self_kernels(torch.from_numpy(cosine), here, delta, other)
        for cosine, here, other in zip(own, (left, right), (b, a), strict=True)
    ]
    pairs = torch.cartesian_prod(torch.arange(len(a)), torch.arange(len(b)))
    rows, columns, table = torch.from_numpy(left.index), torch.from_numpy(right.index), torch.from_numpy(cosines)
    found = []
    for chunk in torch.split(pairs, CHUNK):
        i, j = chunk.T
        here = table[rows[i][:, :, None], columns[j][:, None]]
        log = _log_gak(here, a[i], b[j], width(delta, a[i], b[j]))
        found.append(torch.exp(log - (selves[0][i, b[j]] + selves[1][j, a[i]]) / 2))
    return torch.cat(found).reshape(len(a), len(b)).numpy()


def _self_kernels(cosines: Tensor, places: Places, delta: float, others: Tensor) -> Tensor:
    """log K(x, x) with the width of a pair whose other side has m slices: [S, M + 1], column m; nan elsewhere."""
    index, lengths = torch.from_numpy(places.index), torch.from_numpy(places.lengths)
    pairs = cosines[index[:, :, None], index[:, None, :]]
    found = cosines.new_full((len(lengths), int(others.max()) + 1), torch.nan)
    for m in torch.unique(others):
        found[:, m] = _log_gak(pairs, lengths, lengths, width(delta, lengths, m))
    return found


def _log_gak(cosines: Tensor, a: Tensor, b: Tensor, sigma: Tensor) -> Tensor:
    phi = 2 * (1 - cosines).clamp(min=0)
    return log_gak(local_kernel(phi, sigma[:, None, None]), a, b)


def median_distance(cosines: np.ndarray) -> float:
    """sqrt(phi) of the median pair of slices, phi = 2 (1 - cosine): the width at which a kernel sees differences."""
    return float(np.sqrt(2 * max(1 - np.median(cosines), 0)))
