"""Logistic regression on the k columns that differ most between the classes: is a property in a few neurons?

Gurnee et al. 2023 (arXiv 2305.01610), section 3: choose columns by a statistic of each alone, then fit a probe there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from mllm_probe.errors import ConfigError, ProbeError, choices
from mllm_probe.probes.solving.class_means import Contrast
from mllm_probe.probes.solving.linear import LinearFit, check_lambdas, fit_linear
from mllm_probe.probes.solving.objectives import Sigmoid
from mllm_probe.probes.solving.standardised import CHUNK_BYTES, Features
from mllm_probe.records.problems import LayerData, Problem, Rows, check_problems

SELECTIONS = ("mean_difference", "f_statistic")


@dataclass(frozen=True)
class Columns:
    """Some columns of rows, as rows [T, k]; the full width is read a chunk at a time."""

    rows: Rows
    columns: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape[0], len(self.columns)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        start, stop, _ = rows.indices(self.rows.shape[0])
        step = max(1, CHUNK_BYTES // (8 * self.rows.shape[1]))
        places = [slice(at, min(stop, at + step)) for at in range(start, stop, step)]
        return torch.cat([self.rows[place][:, self.columns] for place in places or [slice(0, 0)]])


@dataclass(frozen=True)
class SparseFit:
    """A linear fit to `columns` [k] (ascending) of the rows."""

    linear: LinearFit
    columns: np.ndarray

    @property
    def facts(self) -> Mapping[str, Any]:
        return {**self.linear.facts, "k": float(len(self.columns))}

    def __call__(self, data: LayerData) -> np.ndarray:
        return self.linear(replace(data, rows=Columns(data.rows, self.columns)))

    def arrays(self) -> dict[str, np.ndarray]:
        return {**self.linear.arrays(), "columns": self.columns}


@dataclass(frozen=True)
class KSparse:
    """`k` columns chosen on training rows, ties to the first; `lambdas` as in the logistic probe. Deterministic.

    `selection`: `mean_difference` = the largest distance between the class means in the model's own units, so columns
    of large values are preferred; `f_statistic` = the largest ratio of variance between the classes to that within.
    """

    k: int = 16
    selection: str = "mean_difference"
    lambdas: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    name: ClassVar[str] = "k_sparse"
    kinds: ClassVar[tuple[str, ...]] = ("binary",)
    reads: ClassVar[str] = "vector"
    log_odds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_lambdas(self.lambdas)
        if self.k < 1:
            raise ConfigError(f"probe.k={self.k} must be 1 or more")
        if self.selection not in SELECTIONS:
            raise ConfigError(f"probe.selection={self.selection} is unknown; {choices(self.selection, SELECTIONS)}")

    def fit(self, data: LayerData, problems: Sequence[Problem]) -> list[SparseFit]:
        """Raises ProbeError."""
        check_problems(data, problems, self.kinds, self.name)
        if self.k > data.width:
            raise ProbeError(f"probe.k={self.k} is more than the {data.width} columns of {data.name or 'a layer'}")
        chosen = self._choose(data, problems)
        union = np.unique(chosen)
        picked = Columns(data.rows, union)[:]  # one reading of the rows serves every problem
        fits = []
        for problem, columns in zip(problems, chosen, strict=True):
            own = replace(data, rows=picked[:, np.searchsorted(union, columns)])
            fits.append(SparseFit(fit_linear(own, [problem], self.lambdas, {"binary": Sigmoid()})[0], columns))
        return fits

    def _choose(self, data: LayerData, problems: Sequence[Problem]) -> np.ndarray:
        """[P, k] column numbers, ascending."""
        contrast = Contrast.of(Features(data, np.any([p.train for p in problems], axis=0)), problems)
        score = contrast.delta.abs()
        if self.selection == "f_statistic":  # but for a factor that all columns share
            score = (score.square() / contrast.within).nan_to_num(nan=0.0)
        order = score.argsort(dim=1, descending=True, stable=True)
        return order[:, : self.k].sort(dim=1).values.cpu().numpy()
