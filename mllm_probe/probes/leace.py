"""Erasing what every linear probe could read, with the least change to the rows. Not a probe: it returns an eraser.

LEACE (Belrose et al. 2023, arXiv 2306.03819, theorem 4.3): r(x) = x - W^+ P W (x - mu) with W = (Sigma_xx^(1/2))^+
and P the projector onto the columns of W Sigma_xz. Written out, W^+ P W = Sigma_xz (B' Sigma_xz)^+ B' with
B = Sigma_xx^+ Sigma_xz, the least-squares regression of the labels on the rows, so D x D matrices are never needed.
With any B for which B' Sigma_xz keeps the rank of Sigma_xz, cov(r(x), z) = Sigma_xz (I - A^+ A) = 0, A = B' Sigma_xz:
the guarantee on the rows it was fitted on is exact whatever the regression; how small the change is depends on it, and
how much is gone from other rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch

from mllm_probe.probes.solving.linear import check_lambdas, fit_linear
from mllm_probe.probes.solving.objectives import Squared
from mllm_probe.probes.solving.standardised import Features, chunks
from mllm_probe.records.problems import LayerData, Problem, Rows, check_problems

RANK = 1e-9  # singular values below this share of the largest are rounding
NOTHING = 1e-10  # of a column's variance


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
    """Where the training rows are more than the columns, counted without repetitions, B is least squares: LEACE itself,
    the least change. Fewer rows determine no such B (any labels would be fitted, and nothing taken from other rows): it
    is then ridge regression on standardised rows, the strength being the one of `lambdas` that predicts validation
    best, which is LEACE for a covariance shrunk towards its diagonal.

    Classes are erased as one-hot labels, one direction fewer than there are classes. Facts: `edit`, the mean squared
    change of a training row, and `edit_ratio`, that over the least that leaves them no covariance. Deterministic.
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
        features = Features(data, problem.train)
        centred = z[problem.train] - z[problem.train].mean(axis=0)
        mean, facts = features.mean.cpu().numpy(), {"converged": 1.0}
        shared, inner = _covariance(data, z, problem.train, mean), centred.T @ centred / len(centred)
        if _enough(features):
            slopes = _least_squares(features, centred)
            inner = slopes @ shared.T
        else:
            line = fit_linear(data, [problem], self.lambdas, {problem.kind: Squared()})[0]
            slopes, facts = np.atleast_2d(line.weights / line.scale), dict(line.facts)
        eraser = Eraser(mean, shared, np.linalg.pinv(slopes @ shared.T, rcond=RANK) @ slopes)
        edit = _edit(data, problem.train, eraser)
        least = float(np.trace(shared.T @ np.linalg.pinv(inner, rcond=RANK) @ shared))
        return replace(eraser, facts={**facts, "edit": edit, "edit_ratio": edit / least if least > 0 else 1.0})


def _enough(features: Features) -> bool:
    """Whether different rows outnumber columns that vary; equal rows have equal projections."""
    direction = torch.from_numpy(np.random.default_rng(0).normal(size=(1, features.width))).to(features.device)
    different = len(torch.unique((features.times(direction)[0] / features.width**0.5).round(decimals=9)))
    return different > int(features.scale.isfinite().sum())


def _least_squares(features: Features, centred: np.ndarray) -> np.ndarray:
    """B' = (Sigma_xx^+ Sigma_xz)' [K, D] by the correlation matrix, with next to nothing on its diagonal for columns
    that follow from others."""
    target = torch.from_numpy(centred.T.copy()).to(features.device)
    matrix = features.covariance(torch.float64)
    matrix.diagonal().add_(NOTHING)
    found = torch.cholesky_solve(features.back(target / features.n).T, torch.linalg.cholesky(matrix))
    return (found.T / features.scale).cpu().numpy()


def _edit(data: LayerData, train: np.ndarray, eraser: Eraser) -> float:
    """Mean squared change of the training rows."""
    mean, right = (torch.from_numpy(part).to(data.compute.device) for part in (eraser.mean, eraser.right))
    told = torch.cat([(x - mean) @ right.T for _, _, x in chunks(data)]).cpu().numpy()[train]
    return float(np.trace(eraser.left.T @ (told.T @ told / len(told)) @ eraser.left))


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
