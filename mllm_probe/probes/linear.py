"""Linear probes: the frozen result, and the path over strengths of which validation picks one.

What is common to logistic regression and ridge; they differ in the loss alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mllm_probe.errors import ConfigError, ProbeError
from mllm_probe.probes.basis import Basis
from mllm_probe.probes.features import Features, chunks
from mllm_probe.probes.losses import Loss
from mllm_probe.probes.solver import Solution, Work, solve
from mllm_probe.protocols import Fit
from mllm_probe.types import LayerData, Problem


@dataclass(frozen=True)
class LinearFit:
    """logits = ((x - mean) / scale) @ weights + intercept.

    mean and scale are [D] (scale is infinite where a column was constant); weights are [D] and intercept [1] for one
    output, [C, D] and [C] for several.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    facts: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, data: LayerData) -> np.ndarray:
        return _together([self], data)[0]

    def arrays(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean, "scale": self.scale, "weights": self.weights, "intercept": self.intercept}


def logits_of(fits: Sequence[Fit], data: LayerData) -> list[np.ndarray]:
    """What each fit says of all rows; linear ones share one pass over them."""
    linear = [fit for fit in fits if isinstance(fit, LinearFit)]
    return _together(linear, data) if len(linear) == len(fits) else [fit(data) for fit in fits]


def _together(fits: Sequence[LinearFit], data: LayerData) -> list[np.ndarray]:
    weights = [np.atleast_2d(fit.weights / fit.scale) for fit in fits]
    offsets = [fit.intercept - w @ fit.mean for fit, w in zip(fits, weights, strict=True)]
    moved = torch.from_numpy(np.concatenate(weights).T.copy()).to(data.compute.device)
    logits = np.concatenate([(x @ moved).cpu().numpy() for _, _, x in chunks(data)]) + np.concatenate(offsets)
    parts = np.split(logits, np.cumsum([len(w) for w in weights])[:-1], axis=1)
    return [part[:, 0] if fit.weights.ndim == 1 else part for part, fit in zip(parts, fits, strict=True)]


def check_lambdas(lambdas: Sequence[float]) -> None:
    if not lambdas or not all(0 < value < np.inf for value in lambdas):
        raise ConfigError(f"probe.lambdas={list(lambdas)} must hold numbers above 0")


def fit_linear(
    data: LayerData, problems: Sequence[Problem], lambdas: Sequence[float], losses: Mapping[str, Loss]
) -> list[LinearFit]:
    """One fit per problem, in order. Raises ProbeError.

    The strength with the least validation loss wins, ties to the stronger; a problem with several labels has one
    strength for all of them.
    """
    strengths = sorted(lambdas, reverse=True)
    features = Features(data, np.any([p.train | p.val for p in problems], axis=0))
    basis = Basis.of(features)
    batch = _Batch(data, features, basis, strengths)
    found: dict[int, LinearFit] = {}
    for kind in dict.fromkeys((p.kind, _outputs(p)) for p in problems):
        members = [i for i, p in enumerate(problems) if (p.kind, _outputs(p)) == kind]
        size = batch.fitting(kind[1])
        for start in range(0, len(members), size):
            block = members[start : start + size]
            fits = batch.fit([problems[i] for i in block], losses[kind[0]])
            found.update(zip(block, fits, strict=True))
    return [found[i] for i in range(len(problems))]


def _outputs(problem: Problem) -> int:
    if problem.kind == "classes":
        return int(problem.y.max()) + 1
    return problem.y.shape[1] if problem.kind == "labels" else 1


class _Batch:
    """Problems of one layer that are solved together, every strength of each."""

    def __init__(self, data: LayerData, features: Features, basis: Basis, strengths: Sequence[float]) -> None:
        self._features, self._basis, self._strengths = features, basis, strengths
        self._data = data
        self._penalty = torch.tensor(strengths, dtype=torch.float64, device=features.device)

    def fitting(self, outputs: int) -> int:
        """How many problems fit beside the features: each holds some arrays [n] and many [D]."""
        each = 8 * outputs * len(self._strengths) * (10 * self._features.n + 40 * self._features.width)
        return max(1, self._data.compute.memory // (4 * each))

    def fit(self, problems: Sequence[Problem], loss: Loss) -> list[LinearFit]:
        device, used = self._features.device, self._features.used
        train = torch.from_numpy(np.stack([p.train[used] for p in problems])).to(device)
        splits, which = torch.unique(train, dim=0, return_inverse=True)
        mean, scale = self._features.splits(splits)
        factor = self._features.factors(scale)[which]
        target, weight, val = (torch.from_numpy(part).to(device) for part in _arrays(problems, used))
        labels = len(target) // len(problems)  # several where each label is a problem of its own
        each = len(self._strengths)
        work = Work(
            loss,
            target.repeat_interleave(each, 0),
            weight.repeat_interleave(each, 0),
            self._penalty.repeat(len(target)),
            factor.repeat_interleave(labels * each, 0),
        )
        solution = solve(self._features, self._basis, work)
        held_out = loss.at(solution.logits, work.target, val.repeat_interleave(each, 0))[0]
        held_out = held_out.reshape(len(problems), labels, each)
        chosen = _first_best(held_out.mean(1))
        splits_of = ((mean[i] - self._features.mean, mean[i], scale[i]) for i in which.tolist())
        return [
            self._frozen(solution, (i, labels, int(chosen[i])), held_out[i], split) for i, split in enumerate(splits_of)
        ]

    def _frozen(
        self,
        solution: Solution,
        place: tuple[int, int, int],
        held_out: torch.Tensor,
        split: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> LinearFit:
        """The chosen strength's solution, with the intercept that belongs to the split's own mean."""
        (problem, labels, chosen), (moved, mean, scale), each = place, split, len(self._strengths)
        path = slice(problem * labels * each, (problem + 1) * labels * each)
        rows = torch.arange(labels, device=mean.device) * each + chosen + path.start
        weights = solution.weights[rows].flatten(0, 1) * scale.isfinite()  # no weight for nothing
        intercept = solution.intercept[rows].flatten() + (weights / scale) @ moved
        facts: dict[str, Any] = {
            "lambda": self._strengths[chosen],
            "converged": float(solution.converged[path].all()),
            "objective": float(solution.objective[rows].mean()),
            "gradient": float(solution.gradient[rows].max()),
            "gap": float(solution.gap[rows].max()),
            "iterations": float(solution.steps[rows].max()),
            "val_loss": float(held_out[:, chosen].mean()),
            "constant_columns": float(scale.isinf().sum()),
        }
        kept = weights[0] if len(weights) == 1 else weights
        return LinearFit(_numpy(mean), _numpy(scale), _numpy(kept), _numpy(intercept), facts)


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.cpu().numpy()


def _first_best(losses: torch.Tensor) -> torch.Tensor:
    """The column of the least loss [P, S]; a later (weaker) one must be better by more than rounding.

    Raises ProbeError where a problem has no column that is a number.
    """
    losses = losses.nan_to_num(nan=torch.inf)
    best = losses.min(1, keepdim=True).values
    if bool(best.isinf().any()):
        raise ProbeError("no strength of probe.lambdas could be solved; try stronger ones, such as 0.001 and above")
    return (losses <= best * (1 + 1e-9)).to(torch.int8).argmax(1)


def _arrays(problems: Sequence[Problem], used: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets [P, C, n] and weights [P, n] of training and of validation rows; each label of several is a problem."""
    targets: list[np.ndarray] = []
    train: list[np.ndarray] = []
    val: list[np.ndarray] = []
    for problem in problems:
        for y, rows in _columns(problem):
            targets.append(y[:, used])
            for weights, split, name in ((train, problem.train, "training"), (val, problem.val, "validation")):
                counted = (split & rows)[used].astype(np.float64)
                if not counted.any():
                    raise ProbeError(f"a problem has no {name} rows")
                weights.append(counted / counted.sum())
    return np.stack(targets), np.stack(train), np.stack(val)


def _columns(problem: Problem) -> list[tuple[np.ndarray, np.ndarray]]:
    """(target [C, N], rows that count [N]) of what is fitted on its own."""
    everyone = np.ones(len(problem.y), dtype=bool)
    if problem.kind == "classes":
        return [((np.arange(_outputs(problem))[:, None] == problem.y).astype(np.float64), everyone)]
    if problem.kind == "labels":
        mask = np.ones(problem.y.shape, dtype=bool) if problem.mask is None else problem.mask
        return [(_signs(y), rows) for y, rows in zip(problem.y.T, mask.T, strict=True)]
    return [(_signs(problem.y) if problem.kind == "binary" else problem.y[None].astype(np.float64), everyone)]


def _signs(y: np.ndarray) -> np.ndarray:
    return np.where(y > 0, 1.0, -1.0)[None]
