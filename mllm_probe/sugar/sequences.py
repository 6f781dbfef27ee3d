"""Sequences of pictures against sequences of captions, from the cosines of their slices.

Sequences are places in a matrix of cosines: slices recur in many of them, and the vectors of a wide model would be
copied for every pair. Knows no model.
Letters: N pictures, T texts, S sequences of each kind, L slices of the longest.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from mllm_probe.errors import ProbeError
from mllm_probe.sugar.pairwise import Tabled, paired

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
    table = torch.from_numpy(np.block([[own[0], cosines], [cosines.T, own[1]]]))
    tabled = Tabled(*_joined(left, right, len(cosines)), table, 2 * (1 - table).clamp(min=0))
    count = len(left.lengths)
    i, j = torch.cartesian_prod(torch.arange(count), torch.arange(count, len(tabled.lengths))).T
    return paired(tabled, i, j, delta, cosine=False).reshape(count, -1).numpy()


def _joined(left: Places, right: Places, offset: int) -> tuple[Tensor, Tensor]:
    """Both kinds of sequences over one table, in which the right ones' slices begin at `offset`: rows and lengths."""
    rows = [torch.from_numpy(left.index), torch.from_numpy(right.index) + offset]
    most = max(one.shape[1] for one in rows)
    lengths = torch.from_numpy(np.concatenate([left.lengths, right.lengths]))
    return torch.cat([pad(one, (0, most - one.shape[1])) for one in rows]), lengths


def median_distance(cosines: np.ndarray) -> float:
    """sqrt(phi) of the median pair of slices, phi = 2 (1 - cosine): the width at which a kernel sees differences."""
    return float(np.sqrt(2 * max(1 - np.median(cosines), 0)))
