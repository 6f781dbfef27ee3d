"""Contrast pairs: which rows belong together, and the two sides as standardised matrices. Knows no label.

Letters in shapes: m pairs, D width, R directions, n rows in use.
"""

from dataclasses import dataclass

import numpy as np
import torch

from mllm_probe.errors import ProbeError
from mllm_probe.probes.solving.standardised import Features
from mllm_probe.records.problems import LayerData


def halves(data: LayerData, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the + rows and of the - rows among `rows`, [m] each, pair by pair.

    Raises ProbeError where a row belongs to no pair, or a pair has not exactly one row on each side.
    """
    name = data.name or "the layer"
    if data.pairs is None or data.sides is None:
        raise ProbeError(f"{name} has no contrast pairs; choose a task whose statements come in pairs")
    pairs, sides = data.pairs[rows], data.sides[rows]
    if (pairs < 0).any():
        raise ProbeError(f"{name}: {(pairs < 0).sum()} of {len(rows)} rows belong to no contrast pair")
    ids, number = np.unique(pairs, return_inverse=True)
    plus, minus = (np.bincount(number[sides == side], minlength=len(ids)) for side in (1, -1))
    if len(broken := ids[(plus != 1) | (minus != 1)]):
        raise ProbeError(
            f"{name}: {len(broken)} of {len(ids)} contrast pairs are incomplete (pair {broken[0]} first); "
            "both rows must be in the same split, one on each side"
        )
    order = rows[np.argsort(number, kind="stable")]
    first = data.sides[order] == 1
    return order[first], order[~first]


@dataclass(frozen=True)
class Halves:
    """The sides of m pairs, each column with mean 0 and deviation 1 on its own side; mean and scale are [2, D].

    `index` [2, m] places them among the n rows of the features.
    """

    features: Features
    index: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, features: Features, plus: np.ndarray, minus: np.ndarray) -> "Halves":
        place = np.cumsum(features.used) - 1
        index = torch.from_numpy(place[np.stack([plus, minus])]).to(features.device)
        member = torch.zeros(2, features.n, dtype=torch.bool, device=features.device).scatter(1, index, True)
        return cls(features, index, *features.splits(member))

    @property
    def width(self) -> int:
        return self.features.width

    @property
    def device(self) -> str:
        return self.features.device

    def _frame(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[2, 1, D]: the features' columns times the first less the second are each side's standardised columns."""
        offset = (self.mean - self.features.mean) / self.scale
        return self.features.factors(self.scale)[:, None], offset[:, None]

    def times(self, theta: torch.Tensor) -> torch.Tensor:
        """Directions [R, D] -> projections [2, R, m]."""
        factor, offset = self._frame()
        z = self.features.times((theta * factor).flatten(0, 1)).reshape(2, len(theta), -1)
        z = z - (theta * offset).sum(2, keepdim=True)
        return torch.stack([z[side][:, self.index[side]] for side in (0, 1)])

    def back(self, residuals: torch.Tensor) -> torch.Tensor:
        """The transposed product, [2, R, m] -> [R, D]."""
        factor, offset = self._frame()
        spread = residuals.new_zeros(*residuals.shape[:2], self.features.n)
        for side in (0, 1):
            spread[side][:, self.index[side]] = residuals[side]
        products = self.features.back(spread.flatten(0, 1)).reshape(2, residuals.shape[1], -1)
        return (products * factor - residuals.sum(2, keepdim=True) * offset).sum(0)
