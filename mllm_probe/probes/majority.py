"""A baseline: always the most frequent training label (or the training mean), for any input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from mllm_probe.records.problems import KINDS, LayerData, Problem


@dataclass(frozen=True)
class ConstantFit:
    """The same output for every row: the log-odds [1], the log shares [C], or the mean number [1] of training."""

    output: np.ndarray
    single: bool
    facts: Mapping[str, float] = field(default_factory=lambda: {"converged": 1.0})

    def __call__(self, data: LayerData) -> np.ndarray:
        return np.tile(self.output[0] if self.single else self.output, (len(data), 1)[: 2 - self.single])

    def arrays(self) -> dict[str, np.ndarray]:
        return {"intercept": self.output}


@dataclass(frozen=True)
class Majority:
    name: ClassVar[str] = "majority"
    kinds: ClassVar[tuple[str, ...]] = KINDS
    reads: ClassVar[str] = "vector"
    log_odds: ClassVar[bool] = True

    def fit(self, data: LayerData, problems: Sequence[Problem]) -> list[ConstantFit]:
        return [_constant(problem) for problem in problems]


def _constant(problem: Problem) -> ConstantFit:
    """Half a row is added to every class, so that log-odds stay finite."""
    y = problem.y[problem.train]
    if problem.kind == "number":
        return ConstantFit(np.asarray([y.mean()]), single=True)
    if problem.kind == "classes":
        counts = np.bincount(y.astype(int), minlength=int(problem.y.max()) + 1) + 0.5
        return ConstantFit(np.log(counts / counts.sum()), single=False)
    mask = np.ones(y.shape, dtype=bool) if problem.mask is None else problem.mask[problem.train]
    share = ((y * mask).sum(axis=0) + 0.5) / (mask.sum(axis=0) + 1)
    return ConstantFit(np.atleast_1d(np.log(share / (1 - share))), single=y.ndim == 1)
