"""Ridge regression of many labels by its normal equations, which labels with the same rows share. Knows no layer.

The optimum is that of `linear.fit_linear` with squared loss: columns are standardised by the problem's training rows,
the intercept is free, and each label's loss is the mean over its own rows. With few columns it is there at once for all
labels and strengths, as no array has a number for every row, label and strength. Letters in shapes: n rows in use, D
width, S strengths, m labels with the same rows.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from mllm_probe.probes.solving.iterates import ROUNDINGS
from mllm_probe.probes.solving.linear import DECIDES, LinearFit, first_best
from mllm_probe.probes.solving.standardised import FULL, Features
from mllm_probe.records.problems import LayerData, Problem

COPIES = 3  # of the features in float64: as they are, the rows of some labels, and those of one of their splits
Cell = tuple[int, int]  # a label: its problem, and its column there


@dataclass(frozen=True)
class _Found:
    """What is found for some labels: weights [S, D, m], intercept [S, m], loss on validation [S, m], and how far the
    weights may be from the optimum's [S, m]."""

    weights: torch.Tensor
    intercept: torch.Tensor
    held_out: torch.Tensor
    radius: torch.Tensor

    @classmethod
    def joined(cls, labels: "Sequence[_Found]") -> "_Found":
        """Several labels side by side."""
        return cls(*(torch.stack([vars(one)[name] for one in labels], -1) for name in vars(labels[0])))


def few_columns(data: LayerData, problems: Sequence[Problem]) -> bool:
    """Whether there are labels only, and the rows of so few columns that the equations are cheap to set up."""
    room = len(data) * data.width * (4 + 8 * COPIES) <= data.compute.memory
    return room and data.width <= FULL and all(problem.kind == "labels" for problem in problems)


def fit_labels(data: LayerData, problems: Sequence[Problem], lambdas: Sequence[float]) -> list[LinearFit]:
    """One fit a problem, in order; the strength with the least validation loss over its labels wins, ties to the
    stronger. Raises ProbeError."""
    strengths = torch.tensor(sorted(lambdas, reverse=True), dtype=torch.float64, device=data.compute.device)
    features = Features(data, np.any([problem.train | problem.val for problem in problems], axis=0))
    train = torch.from_numpy(np.stack([problem.train for problem in problems])[:, features.used])
    splits, which = torch.unique(train.to(features.device), dim=0, return_inverse=True)
    mean, scale = features.splits(splits)
    longest = (features.lengths(mean, scale) * splits).amax(1)
    found: list[dict[int, _Found]] = [{} for _ in problems]
    factors = features.factors(scale)
    for rows, splits in _shared(problems, which.tolist(), features.used).items():
        asked = _Asked.of(features, np.frombuffer(rows, bool), len(splits) > 1)
        for (split, *_), cells in splits.items():
            solved = _solve(asked, factors[split], strengths, problems, cells)
            for at, (i, label) in enumerate(cells):
                found[i][label] = _Found(*(part[..., at] for part in vars(solved).values()))
    fits = []
    for problem, labels, split in zip(problems, found, which.tolist(), strict=True):
        own = _Found.joined([labels[i] for i in sorted(labels)])
        moved = (mean[split] - features.mean) / scale[split]
        facts = {"constant_columns": float(scale[split].isinf().sum()), "reach": float(longest[split])}
        fits.append(_fit(own, strengths, (mean[split], scale[split], moved), facts, DECIDES[problem.kind]))
    return fits


def _shared(
    problems: Sequence[Problem], which: Sequence[int], used: np.ndarray
) -> dict[bytes, dict[tuple[int, bytes, bytes], list[Cell]]]:
    """{rows in use [n] bool that count for training or validation: {training split, its rows and those of validation
    that count: labels with the same}}."""
    found: dict[bytes, dict[tuple[int, bytes, bytes], list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for i, problem in enumerate(problems):
        for label in range(problem.y.shape[1]):
            train, val = (_counted(problem, split, label)[used] for split in ("train", "val"))
            found[(train | val).tobytes()][which[i], train.tobytes(), val.tobytes()].append((i, label))
    return found


def _counted(problem: Problem, split: str, label: int) -> np.ndarray:
    rows: np.ndarray = getattr(problem, split)
    return rows if problem.mask is None else rows & problem.mask[:, label]


@dataclass(frozen=True)
class _Asked:
    """Rows that some labels train or validate on, x [n, D] by their places in the layer [n]; `several` splits of them
    are asked about, such as those of several seeds."""

    x: torch.Tensor
    places: np.ndarray
    several: bool

    @classmethod
    def of(cls, features: Features, rows: np.ndarray, several: bool) -> "_Asked":
        index = torch.from_numpy(np.flatnonzero(rows)).to(features.device)
        return cls(features.matrix(torch.float64).index_select(0, index), np.flatnonzero(features.used)[rows], several)

    @cached_property
    def square(self) -> torch.Tensor:
        return self.x.T @ self.x

    def square_of(self, rows: torch.Tensor) -> torch.Tensor:
        """x'x of the rows [n] bool: for a split of several, that of all rows without that of the fewer others."""
        if self.several and 2 * int(rows.sum()) > len(rows):
            others = self.x[~rows]
            return self.square - others.T @ others
        own = self.x[rows]
        return own.T @ own

    def counted(self, problem: Problem, split: str, label: int) -> torch.Tensor:
        """Which rows [n] bool of a split count."""
        return torch.from_numpy(_counted(problem, split, label)[self.places]).to(self.x.device)


def _solve(
    asked: _Asked,
    factor: torch.Tensor,
    strengths: torch.Tensor,
    problems: Sequence[Problem],
    cells: Sequence[Cell],
) -> _Found:
    """(x'x / n + lambda) w = x'y / n for centred x and y, at every strength; `factor` [D] scales the columns of x."""
    problem, label = cells[0]
    train, val = (asked.counted(problems[problem], split, label) for split in ("train", "val"))
    y = torch.from_numpy(np.stack([np.where(problems[i].y[asked.places, k] > 0, 1.0, -1.0) for i, k in cells], axis=1))
    y, n = y.to(asked.x.device), int(train.sum())
    weights = train.double()[:, None] / n
    sums = asked.x.T @ torch.cat([y * weights, weights], 1) * factor[:, None]
    level, middle = (y * weights).sum(0), sums[:, -1]
    square = asked.square_of(train) / n * torch.outer(factor, factor) - torch.outer(middle, middle)
    right = sums[:, :-1] - torch.outer(middle, level)
    whole = square + strengths[:, None, None] * torch.eye(len(square), dtype=square.dtype, device=square.device)
    found = torch.linalg.solve(whole, right.expand(len(strengths), -1, -1))  # faster than Cholesky's, of small ones
    intercept = level - middle @ found
    held_out = (asked.x[val] @ (factor[:, None] * found) + intercept[:, None] - y[val]).square().mean(1) / 2
    rounding = ROUNDINGS * torch.finfo(square.dtype).eps * len(middle) ** 0.5
    left = (whole @ found - right).norm(dim=1)
    return _Found(found, intercept, held_out, (left + rounding) / strengths[:, None])


def _fit(
    found: _Found,
    strengths: torch.Tensor,
    split: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    facts: dict[str, float],
    decides: str,
) -> LinearFit:
    """The strength that validation chooses, with the intercept that belongs to the split's own mean."""
    chosen = int(first_best(found.held_out.mean(1)[None])[0])
    mean, scale, moved = split
    weights = found.weights[chosen].T
    intercept = found.intercept[chosen] + weights @ moved
    eps = ROUNDINGS * torch.finfo(weights.dtype).eps
    facts |= {
        "lambda": float(strengths[chosen]),
        "converged": 1.0,
        "val_loss": float(found.held_out[chosen].mean()),
        "radius": float(found.radius[chosen].max()),
        "drift": eps * (1 + float(intercept.abs().max())),
    }
    kept = weights[0] if len(weights) == 1 else weights
    parts = [part.cpu().numpy() for part in (mean, scale, kept, intercept)]
    return LinearFit(parts[0], parts[1], parts[2], parts[3], facts, decides)
