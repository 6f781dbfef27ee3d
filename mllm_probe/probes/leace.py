"""Erasing what every linear probe could read, with the least change to the rows. Not a probe: it returns an eraser.

LEACE (Belrose et al. 2023, arXiv 2306.03819, theorem 4.3): r(x) = x - W^+ P W (x - mu) with W = (Sigma_xx^(1/2))^+
and P the projector onto the columns of W Sigma_xz. Written out, W^+ P W = Sigma_xz (B' Sigma_xz)^+ B' with
B = Sigma_xx^+ Sigma_xz, the least-squares regression of the labels on the rows, so D x D matrices are never needed.
With any B for which B' Sigma_xz keeps the rank of Sigma_xz, cov(r(x), z) = Sigma_xz (I - A^+ A) = 0, A = B' Sigma_xz:
the guarantee is exact whatever the regression; how small the change is depends on it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch

from mllm_probe.probes.checks import check_problems
from mllm_probe.probes.features import chunks
from mllm_probe.probes.linear import check_lambdas, fit_linear
from mllm_probe.probes.losses import Squared
from mllm_probe.types import LayerData, Problem, Rows

RANK = 1e-9  # singular values below this share of the largest are rounding


@dataclass(frozen=True)
class Eraser:
    """r(x) = x - ((x - mean) @ right.T) @ left; mean [D], left and right [K, D], float64."""

    mean: np.ndarray
    left: np.ndarray
    right: np.ndarray
    facts: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows [n, D] without the concept, on their device; float32 where they were narrower."""
        mean, left, right = (torch.from_numpy(part).to(rows.device) for part in (self.mean, self.left, self.right))
        x = rows.to(torch.float64)
        return (x - (x - mean) @ right.T @ left).to(torch.promote_types(rows.dtype, torch.float32))

    def arrays(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean, "left": self.left, "right": self.right}


@dataclass(frozen=True)
class Erased:
    """The same rows with the concept erased where they are read; LayerData takes them like any rows."""

    rows: Rows
    eraser: Eraser

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape[0], self.rows.shape[1]

    def __getitem__(self, rows: slice) -> torch.Tensor:
        return self.eraser(self.rows[rows])


@dataclass(frozen=True)
class Leace:
    """B is ridge regression on standardised rows, its strength the one of `lambdas` that predicts validation best.

    As lambda goes to 0 this is LEACE itself; as it grows, the projection orthogonal to the class means. Classes are
    erased as one-hot labels, one direction fewer than there are classes. The guarantee is for the training rows: others
    come near it where there are many more rows than columns. Deterministic.
    """

    lambdas: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    name: ClassVar[str] = "leace"
    kinds: ClassVar[tuple[str, ...]] = ("binary", "classes", "number")

    def __post_init__(self) -> None:
        check_lambdas(self.lambdas)

    def fit(self, data: LayerData, problem: Problem) -> Eraser:
        """An eraser of what `problem` asks for, after which it has covariance 0 with the training rows.

        Raises ProbeError.
        """
        check_problems(data, [problem], self.kinds, self.name)
        z = problem.y[:, None].astype(np.float64)
        if problem.kind == "classes":
            z = (z == np.arange(problem.y.max() + 1)).astype(np.float64)
            problem = replace(problem, y=z, kind="labels")
        line = fit_linear(data, [problem], self.lambdas, {problem.kind: Squared()})[0]
        slopes = np.atleast_2d(line.weights / line.scale)
        shared = _covariance(data, z, problem.train, line.mean)
        inverse = np.linalg.pinv(slopes @ shared.T, rcond=RANK)
        return Eraser(line.mean, shared, inverse @ slopes, line.facts)


def _covariance(data: LayerData, z: np.ndarray, train: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Sigma_zx [K, D] over the training rows, one pass."""
    device = data.compute.device
    weights = torch.from_numpy(np.where(train[:, None], z - z[train].mean(axis=0), 0) / train.sum()).to(device)
    middle, keep = torch.from_numpy(mean).to(device), torch.from_numpy(train).to(device)
    total = weights.new_zeros(weights.shape[1], data.width)
    for start, stop, x in chunks(data):
        here = keep[start:stop]
        total += weights[start:stop][here].T @ (x[here] - middle)
    return total.cpu().numpy()
