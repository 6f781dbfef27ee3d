"""The default probe: logistic regression on standardised features, its strength chosen on validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from mllm_probe.errors import ConfigError, ProbeError
from mllm_probe.probes.solver import Basis, solve


@dataclass(frozen=True)
class LinearFit:
    """logits = ((x - mean) / scale) @ weights + intercept; mean, scale and weights are [D]."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: float
    facts: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return ((values - self.mean) / self.scale) @ self.weights + self.intercept

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "mean": self.mean,
            "scale": self.scale,
            "weights": self.weights,
            "intercept": np.asarray([self.intercept]),
        }


@dataclass(frozen=True)
class Logistic:
    """`lambdas` are tried from strong to weak; the one with the least validation loss wins, ties to the stronger."""

    lambdas: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    name: ClassVar[str] = "logistic"

    def __post_init__(self) -> None:
        if not self.lambdas or not all(0 < value < np.inf for value in self.lambdas):
            raise ConfigError(f"probe.lambdas={list(self.lambdas)} must hold numbers above 0")

    def fit(self, train: np.ndarray, y: np.ndarray, val: np.ndarray, y_val: np.ndarray, seed: int) -> LinearFit:
        """train [N, D], val [M, D]; labels 0 or 1. Deterministic: `seed` is not used. Raises ProbeError."""
        if len(np.unique(y)) < 2:
            raise ProbeError(f"all {len(y)} training rows have the label {y[0] if len(y) else 'none'}; two are needed")
        mean, scale = train.mean(axis=0), train.std(axis=0)
        scale = np.where(scale > 1e-9 * np.abs(mean) + 1e-12, scale, np.inf)  # a constant column says nothing
        basis, held_out = Basis.of((train - mean) / scale), (val - mean) / scale
        best, best_loss, penalty, solution = None, np.inf, 0.0, None
        for strength in sorted(self.lambdas, reverse=True):
            solution = solve(basis, y, strength, solution)
            margin = np.where(y_val > 0, 1.0, -1.0) * (held_out @ solution.weights + solution.intercept)
            loss = float(np.logaddexp(0, -margin).mean())
            if loss < best_loss - 1e-12:
                best, best_loss, penalty = solution, loss, strength
        assert best is not None
        facts = {
            "lambda": penalty,
            "converged": float(best.converged),
            "gradient": best.gradient,
            "iterations": best.iterations,
            "val_loss": best_loss,
        }
        return LinearFit(mean, scale, best.weights, best.intercept, facts)
