"""Ridge regression of many labels by its normal equations, which labels with the same rows share. Knows no layer.

The optimum is that of `linear.fit_linear` with squared loss: columns are standardised by the problem's training rows,
the intercept is free, and each label's loss is the mean over its own rows. With few columns it is there at once for all
labels and strengths, as no array has a number for every row, label and strength. Letters in shapes: n rows in use, D
width, S strengths, m labels with the same rows.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mllm_probe.probes.solving.iterates import ROUNDINGS
from mllm_probe.probes.solving.linear import DECIDES, LinearFit, first_best
from mllm_probe.probes.solving.standardised import FULL, Features
from mllm_probe.records.problems import LayerData, Problem

COPIES = 3  # of the features in float64: as they are, and a problem's rows of both splits


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
    for (split, *_), cells in _shared(problems, which.tolist(), features.used).items():
        solved = _solve(features, factors[split], strengths, problems, cells)
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
) -> dict[tuple[int, bytes, bytes], list[tuple[int, int]]]:
    """{training split, its rows and those of validation that count: labels (problem, column) with the same}."""
    found: dict[tuple[int, bytes, bytes], list[tuple[int, int]]] = defaultdict(list)
    for i, problem in enumerate(problems):
        for label in range(problem.y.shape[1]):
            rows = (_counted(problem, split, label)[used].tobytes() for split in ("train", "val"))
            found[which[i], *rows].append((i, label))  # type: ignore[index]
    return found


def _counted(problem: Problem, split: str, label: int) -> np.ndarray:
    rows: np.ndarray = getattr(problem, split)
    return rows if problem.mask is None else rows & problem.mask[:, label]


def _solve(
    features: Features,
    factor: torch.Tensor,
    strengths: torch.Tensor,
    problems: Sequence[Problem],
    cells: Sequence[tuple[int, int]],
) -> _Found:
    """(x'x / n + lambda) w = x'y / n for centred x and y, at every strength; `factor` [D] scales the columns of x."""
    (x, y), (held_x, held_y) = (_rows(features, problems, cells, split) for split in ("train", "val"))
    level, sums = y.mean(0), x.T @ torch.cat([y, y.new_ones(len(y), 1)], 1) / len(x) * factor[:, None]
    middle = sums[:, -1]
    square = x.T @ x / len(x) * torch.outer(factor, factor) - torch.outer(middle, middle)
    right = sums[:, :-1] - torch.outer(middle, level)
    whole = square + strengths[:, None, None] * torch.eye(len(square), dtype=x.dtype, device=x.device)
    weights = torch.linalg.solve(whole, right.expand(len(strengths), -1, -1))  # faster than Cholesky's, of small ones
    intercept = level - middle @ weights
    held_out = (held_x @ (factor[:, None] * weights) + intercept[:, None] - held_y).square().mean(1) / 2
    rounding = ROUNDINGS * torch.finfo(x.dtype).eps * len(middle) ** 0.5
    left = (whole @ weights - right).norm(dim=1)
    return _Found(weights, intercept, held_out, (left + rounding) / strengths[:, None])


def _rows(
    features: Features, problems: Sequence[Problem], cells: Sequence[tuple[int, int]], split: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [n, D] of the labels `cells` (problem, column), and the labels themselves as -1 and 1 [n, m]."""
    problem, label = cells[0]
    counted = np.flatnonzero(_counted(problems[problem], split, label))
    y = np.stack([np.where(problems[i].y[counted, k] > 0, 1.0, -1.0) for i, k in cells], axis=1)
    place = torch.from_numpy(features.place[counted]).to(features.device)
    rows = features.matrix(torch.float64).index_select(0, place)
    return rows, torch.from_numpy(y).to(features.device)


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
