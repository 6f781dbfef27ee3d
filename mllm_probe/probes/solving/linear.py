"""Linear probes: the frozen result, and the path over strengths of which validation picks one.

What is common to logistic regression and ridge; they differ in the loss alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from mllm_probe.errors import ConfigError, ProbeError
from mllm_probe.probes.solving.iterates import Solution
from mllm_probe.probes.solving.objectives import Loss, Work
from mllm_probe.probes.solving.solver import finish, solve
from mllm_probe.probes.solving.standardised import Basis, Features, chunks
from mllm_probe.records.problems import LayerData, Problem
from mllm_probe.records.protocols import Fit

SIGN, LARGEST = "sign", "largest"
DECIDES = {"binary": SIGN, "labels": SIGN, "classes": LARGEST, "number": ""}


@dataclass(frozen=True)
class LinearFit:
    """logits = ((x - mean) / scale) @ weights + intercept; what may lie on either side at the optimum is a tie.

    mean and scale are [D] (scale is infinite where a column was constant); weights are [D] and intercept [1] for one
    output, [C, D] and [C] for several. `decides`: "sign", "largest" (of several), or nothing, for numbers.

    A row x of standardised length |x| has logits (for the largest: margins) within `radius` (|x| + `reach`) of those
    of the exact optimum, by `facts`. Where that does not settle a decision, logits are made equal, or 0.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    facts: Mapping[str, float] = field(default_factory=dict)
    decides: str = ""

    def __call__(self, data: LayerData) -> np.ndarray:
        return _together([self], data)[0]

    def settled(self, logits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Logits [N, C] of rows of these lengths [N] -> [N] or [N, C], ties where the optimum may decide otherwise."""
        if self.decides:
            doubt = self.facts["radius"] * (lengths + self.facts["reach"]) + self.facts["drift"]
            top = logits.max(1, keepdims=True) if self.decides == LARGEST else 0.0
            logits = np.where(np.abs(logits - top) <= doubt[:, None], top, logits)
        return logits[:, 0] if self.weights.ndim == 1 else logits

    def arrays(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean, "scale": self.scale, "weights": self.weights, "intercept": self.intercept}


def logits_of(fits: Sequence[Fit], data: LayerData) -> list[np.ndarray]:
    """What each fit says of all rows; linear ones share one pass over them."""
    linear = [fit for fit in fits if isinstance(fit, LinearFit)]
    return _together(linear, data) if len(linear) == len(fits) else [fit(data) for fit in fits]


def _together(fits: Sequence[LinearFit], data: LayerData) -> list[np.ndarray]:
    """Columns are moved by the first fit's means: large ones cost no digits so."""
    slopes = [np.atleast_2d(fit.weights / fit.scale) for fit in fits]
    square, shift = np.stack([fit.scale**-2.0 for fit in fits]), np.stack([fit.mean - fits[0].mean for fit in fits])
    first, second, origin = (
        torch.from_numpy(part).to(data.compute.device)
        for part in (np.concatenate([*slopes, -2 * square * shift]), square, fits[0].mean)
    )
    ends = np.cumsum([len(w) for w in slopes] + [len(fits)])
    said, squares = np.empty((ends[-1], len(data))), np.empty((len(fits), len(data)))  # an output's rows stand together
    for start, stop, x in chunks(data):
        x = (x - origin).T
        said[:, start:stop], squares[:, start:stop] = (first @ x).cpu().numpy(), (second @ x.square()).cpu().numpy()
    *logits, across = np.split(said, ends[:-1])
    lengths = (squares + across + (square * shift**2).sum(1)[:, None]).clip(0) ** 0.5
    each = zip(fits, slopes, shift, logits, lengths, strict=True)
    return [fit.settled((z + (fit.intercept - w @ moved)[:, None]).T, length) for fit, w, moved, z, length in each]


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
    merged = _Merged.of(data, problems, all(loss.shares for loss in losses.values()))
    features = Features(merged.data, merged.used)
    batch = _Batch(merged, features, Basis.of(features), strengths)
    found: dict[int, LinearFit] = {}
    for kind in dict.fromkeys((p.kind, _outputs(p)) for p in problems):
        members = [i for i, p in enumerate(problems) if (p.kind, _outputs(p)) == kind]
        size = batch.fitting(kind[1])
        for start in range(0, len(members), size):
            block = members[start : start + size]
            fits = batch.fit([problems[i] for i in block], losses[kind[0]])
            found.update(zip(block, fits, strict=True))
    return [found[i] for i in range(len(problems))]


@dataclass(frozen=True)
class _Merged:
    """`data` with each row once that many decisions read, such as a picture's; `place` [N] says which row is whose,
    and `used` which rows any problem trains or validates on.

    Decisions that share a row share its logit, so their targets are one target, a mean, with the sum of their weights.
    """

    data: LayerData
    used: np.ndarray
    place: np.ndarray | None = None

    @classmethod
    def of(cls, data: LayerData, problems: Sequence[Problem], shares: bool) -> "_Merged":
        """As it is, unless there are half as many rows, or fewer, as decisions, and targets may be shares."""
        used: np.ndarray = np.any([p.train | p.val for p in problems], axis=0)
        distinct = getattr(data.rows, "distinct", None) if shares else None
        rows, place = distinct() if distinct else (data.rows, None)
        if place is None or 2 * rows.shape[0] > len(data):
            return cls(data, used)
        return cls(replace(data, rows=rows), np.bincount(place[used], minlength=rows.shape[0]) > 0, place)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Of decisions [..., N], over those that share a row, for each row in use [..., n] float64."""
        if self.place is None:
            return values[..., self.used].astype(np.float64)
        flat = values.reshape(-1, values.shape[-1])
        found = np.stack([np.bincount(self.place, row, minlength=len(self.used)) for row in flat])[:, self.used]
        return found.reshape(*values.shape[:-1], -1)

    def asked(self, problems: Sequence[Problem], loss: Loss) -> Iterator[torch.Tensor]:
        """Targets [P, C, n] and weights [P, n] of training, and those of validation; each label of several is a
        problem. Raises ProbeError."""
        for split, name in (("train", "training"), ("val", "validation")):
            counted = [rows for problem in problems for rows in _counted(problem, split)]
            many = np.stack([self.sums(rows) for rows in counted])
            if not many.any(1).all():
                raise ProbeError(f"a problem has no {name} rows")
            yield torch.from_numpy(self._targets(problems, loss, counted))
            yield torch.from_numpy(many / many.sum(1, keepdims=True))

    def _targets(self, problems: Sequence[Problem], loss: Loss, counted: Sequence[np.ndarray]) -> np.ndarray:
        """Of decisions that share a row the mean over those that count."""
        targets = [y for problem in problems for y in _targets(problem, loss)]
        if self.place is None:
            return np.stack([y[:, self.used] for y in targets])
        return np.stack(
            [self.sums(y * rows) / self.sums(rows).clip(1) for y, rows in zip(targets, counted, strict=True)]
        )


def _outputs(problem: Problem) -> int:
    if problem.kind == "classes":
        return int(problem.y.max()) + 1
    return problem.y.shape[1] if problem.kind == "labels" else 1


def _counted(problem: Problem, split: str) -> list[np.ndarray]:
    """Which decisions [N] of a split count, of each label."""
    rows: np.ndarray = problem.train if split == "train" else problem.val
    if problem.kind != "labels":
        return [rows]
    return [rows] * problem.y.shape[1] if problem.mask is None else [rows & counted for counted in problem.mask.T]


def _targets(problem: Problem, loss: Loss) -> list[np.ndarray]:
    """[C, N] of each label."""
    if problem.kind == "classes":
        return [(np.arange(_outputs(problem))[:, None] == problem.y).astype(np.float64)]
    if problem.kind == "labels":
        return [_labels(y, loss) for y in problem.y.T]
    return [_labels(problem.y, loss) if problem.kind == "binary" else problem.y[None].astype(np.float64)]


def _labels(y: np.ndarray, loss: Loss) -> np.ndarray:
    """0 and 1, or for ridge -1 and 1, [1, N]."""
    return np.where(y > 0, 1.0, 0.0 if loss.shares else -1.0)[None]


class _Batch:
    """Problems of one layer that are solved together, every strength of each."""

    def __init__(self, merged: _Merged, features: Features, basis: Basis, strengths: Sequence[float]) -> None:
        self._features, self._basis, self._strengths = features, basis, strengths
        self._merged = merged
        self._penalty = torch.tensor(strengths, dtype=torch.float64, device=features.device)

    def fitting(self, outputs: int) -> int:
        """How many problems fit beside the features: each holds some arrays [n] and many [D]."""
        each = 8 * outputs * len(self._strengths) * (10 * self._features.n + 40 * self._features.width)
        return max(1, self._merged.data.compute.memory // (4 * each))

    def fit(self, problems: Sequence[Problem], loss: Loss) -> list[LinearFit]:
        merged, device = self._merged, self._features.device
        train = torch.from_numpy(merged.sums(np.stack([p.train for p in problems]))).to(device)
        splits, which = torch.unique(train, dim=0, return_inverse=True)
        mean, scale = self._features.splits(splits)
        factor = self._features.factors(scale)[which]
        target, weight, held_target, held_weight = (part.to(device) for part in merged.asked(problems, loss))
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
        held_out = loss.value(
            solution.logits, held_target.repeat_interleave(each, 0), held_weight.repeat_interleave(each, 0)
        )
        chosen = first_best(held_out.reshape(len(problems), labels, each).mean(1))
        rows = torch.arange(len(target), device=device) * each + chosen.repeat_interleave(labels)
        final = finish(self._features, self._basis, work.pick(rows), solution.pick(rows))
        lost = loss.value(final.logits, held_target, held_weight)
        longest = (self._features.lengths(mean, scale) * (splits > 0)).amax(1)
        fits = []
        for i, problem in enumerate(problems):
            split, mine = which[i], slice(i * labels, (i + 1) * labels)
            path = solution.converged[i * labels * each : (i + 1) * labels * each]
            facts = {
                "lambda": self._strengths[int(chosen[i])],
                "converged": float(path.all()),
                "val_loss": float(lost[mine].mean()),
                "constant_columns": float(scale[split].isinf().sum()),
                **_certified(final.pick(mine), float(longest[split])),
            }
            moved = mean[split] - self._features.mean
            fits.append(_frozen(final.pick(mine), (moved, mean[split], scale[split]), facts, DECIDES[problem.kind]))
        return fits


def _certified(found: Solution, longest: float) -> dict[str, float]:
    """What the solutions of a problem's outputs say of themselves; `longest` is the length of its longest training row.

    Along the way from the weights found to the optimum's, each row moves by at most its length times the way. The
    intercept follows as a weighted mean of the training rows' moves. Of C classes it is the difference of two logits
    that counts: weights of two classes move by at most sqrt(2) times the way, and the intercepts, sorted, part by at
    most the largest move of a row between one and the next, C - 1 times in all.
    """
    several = found.weights.shape[1]
    apart, between = (2**0.5, several - 1) if several > 1 else (1.0, 1)
    return {
        "objective": float(found.objective.mean()),
        "gradient": float(found.gradient.max()),
        "gap": float(found.gap.max()),
        "radius": apart * float(found.radius.max()),
        "reach": between * longest,
        "drift": 2 * float(found.drift.max()),
        "iterations": float(found.steps.max()),
    }


def _frozen(
    found: Solution, split: tuple[torch.Tensor, torch.Tensor, torch.Tensor], facts: Mapping[str, float], decides: str
) -> LinearFit:
    """The solution with the intercept that belongs to the split's own mean."""
    moved, mean, scale = split
    weights = found.weights.flatten(0, 1) * scale.isfinite()  # no weight for nothing
    intercept = found.intercept.flatten() + (weights / scale) @ moved
    kept = weights[0] if len(weights) == 1 else weights
    return LinearFit(_numpy(mean), _numpy(scale), _numpy(kept), _numpy(intercept), facts, decides)


def _numpy(values: torch.Tensor) -> np.ndarray:
    return values.cpu().numpy()


def first_best(losses: torch.Tensor) -> torch.Tensor:
    """The column of the least loss [P, S]; a later (weaker) one must be better by more than rounding.

    Raises ProbeError where a problem has no column that is a number.
    """
    losses = losses.nan_to_num(nan=torch.inf)
    best = losses.min(1, keepdim=True).values
    if bool(best.isinf().any()):
        raise ProbeError("no strength of probe.lambdas could be solved; try stronger ones, such as 0.001 and above")
    return (losses <= best * (1 + 1e-9)).to(torch.int8).argmax(1)
