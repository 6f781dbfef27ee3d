"""L2-regularised logistic regression to convergence. Knows arrays, nothing of layers or files.

The objective is the mean log loss plus lambda / 2 times the squared norm of the weights; the intercept is free.
scikit-learn's LogisticRegression with C = 1 / (lambda * N) has the same optimum, and is the oracle of the tests.
The problem is rotated into the eigenbasis of the features and scaled by the curvature there: the same minimum,
reached in few steps however unequal the directions are.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh, svd
from scipy.optimize import minimize
from scipy.special import expit

MAX_ITERATIONS = 1000
TOLERANCE = 1e-6  # largest entry of the gradient, along the eigenvectors of the standardised features


@dataclass(frozen=True)
class Basis:
    """Train features rotated: z [N, R] = x [N, D] @ axes [D, R], with eigenvalues [R] of x'x / N."""

    axes: np.ndarray
    z: np.ndarray
    eigenvalues: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> "Basis":
        """x: [N, D] float64, standardised. R is the numerical rank, at most min(N, D)."""
        n, width = x.shape
        if width <= n:
            values, axes = eigh(x.T @ x / n)
        else:
            _, singular, rows = svd(x, full_matrices=False)
            values, axes = singular**2 / n, rows.T
        kept = values > 1e-12 * max(float(values.max(initial=0.0)), 1e-300)
        return cls(axes[:, kept], x @ axes[:, kept], values[kept])


@dataclass(frozen=True)
class Solution:
    """weights [D] and intercept for standardised features; `gradient` is the largest entry at the end."""

    weights: np.ndarray
    intercept: float
    objective: float
    gradient: float
    iterations: int

    @property
    def converged(self) -> bool:
        return self.gradient <= TOLERANCE


def solve(basis: Basis, y: np.ndarray, penalty: float, start: Solution | None = None) -> Solution:
    """y: [N] of 0 and 1; `penalty` is lambda > 0; `start` is a neighbouring solution to begin from."""
    scale = 1 / np.sqrt(basis.eigenvalues / 4 + penalty)
    sign = np.where(y > 0, 1.0, -1.0)
    n, rank = basis.z.shape

    def objective(u: np.ndarray) -> tuple[float, np.ndarray]:
        w = u[:rank] * scale
        margin = sign * (basis.z @ w + u[rank])
        residual = -sign * expit(-margin) / n
        loss = float(np.logaddexp(0, -margin).mean() + penalty / 2 * w @ w)
        return loss, np.append((basis.z.T @ residual + penalty * w) * scale, residual.sum())

    first = np.zeros(rank + 1)
    if start is not None:
        first = np.append((start.weights @ basis.axes) / scale, start.intercept)
    found = minimize(
        objective,
        first,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": MAX_ITERATIONS, "maxfun": 2 * MAX_ITERATIONS, "ftol": 0.0, "gtol": 1e-7, "maxcor": 20},
    )
    loss, gradient = objective(found.x)
    size = float(np.abs(gradient / np.append(scale, 1.0)).max())
    return Solution(basis.axes @ (found.x[:rank] * scale), float(found.x[rank]), loss, size, int(found.nit))
