"""The floor: always the more frequent label of the training part."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class ConstantFit:
    """The log-odds of label 1 in training, whatever the input."""

    logit: float
    facts: Mapping[str, float] = field(default_factory=lambda: {"converged": 1.0})

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return np.full(len(values), self.logit)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"intercept": np.asarray([self.logit])}


@dataclass(frozen=True)
class Majority:
    name: ClassVar[str] = "majority"

    def fit(self, train: np.ndarray, y: np.ndarray, val: np.ndarray, y_val: np.ndarray, seed: int) -> ConstantFit:
        share = (y.sum() + 0.5) / (len(y) + 1)
        return ConstantFit(float(np.log(share / (1 - share))))
