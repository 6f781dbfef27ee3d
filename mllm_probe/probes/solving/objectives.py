"""The convex losses of linear probes, for a batch of problems at once. Knows logits and targets, no features.

Letters in shapes: P problems, C outputs (1 for binary labels and numbers), n rows. Weights [P, n] are 1 / (rows in
training) on the rows of a problem's training split and 0 elsewhere, so every loss is a mean.

Newton's direction is exact, of one problem, or found by conjugate gradients, of many. Where a few rows decide (nearly
separable labels, a weak penalty), the curvature differs so much between rows that no preconditioner common to all
problems helps, and a Newton step is worth its matrix.
"""

from collections.abc import Callable
from typing import ClassVar, Protocol

import torch
from torch.nn.functional import logsigmoid

At = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Along = tuple[torch.Tensor, torch.Tensor]
AFFORDABLE = 4e9  # rows times the square of the smaller dimension: about 0.2 s of float64 on one core
LEFT, STEPS = 1e-2, 500  # what conjugate gradients leave of a gradient, and how many there are at most


class Loss(Protocol):
    """`third` bounds the third derivative along any direction: that many times the second and the largest entry."""

    third: ClassVar[float]

    def at(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> At:
        """Logits and targets [P, C, n] -> loss [P], its derivative by the logits [P, C, n], mean curvature [P]."""

    def bend(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
        """Second derivative by each logit [P, n], None where rows have several logits that bend together."""

    def level(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Second derivative by the intercepts [P, C, C]; where they can all move and nothing changes, that is filled
        in, so that it can be inverted."""

    def turn(self, z: torch.Tensor, dz: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """How fast the derivative by the logits changes along the direction dz, [P, C, n]."""

    def along(self, z: torch.Tensor, dz: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> Along:
        """Slope and second derivative [P] of the loss at z along the direction dz."""


class _Single:
    """What losses of one logit share."""

    def bend(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def level(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return self.bend(z, weight).sum(1)[:, None, None]

    def turn(self, z: torch.Tensor, dz: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return self.bend(z, weight)[:, None] * dz


class Sigmoid(_Single):
    """Log loss of one label; targets 1 and -1."""

    name: ClassVar[str] = "sigmoid"
    third: ClassVar[float] = 1.0

    def at(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> At:
        margin = target * z
        wrong = torch.sigmoid(-margin)
        w = weight[:, None]
        loss = -(logsigmoid(margin) * w).sum((1, 2))
        curvature = (wrong * (1 - wrong) * w).sum((1, 2))
        return loss, -(target * w) * wrong, curvature

    def bend(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wrong = torch.sigmoid(-z[:, 0].abs())  # where p is near 1, 1 - p would round
        return weight * wrong * (1 - wrong)

    def along(self, z: torch.Tensor, dz: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> Along:
        wrong = torch.sigmoid(-target * z)
        wdz = weight[:, None] * dz
        return -(target * wrong * wdz).sum((1, 2)), (wrong * (1 - wrong) * wdz * dz).sum((1, 2))


class Softmax:
    """Cross-entropy over C classes; targets are one-hot."""

    name: ClassVar[str] = "softmax"
    third: ClassVar[float] = 2.0

    def at(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> At:
        p, w = torch.softmax(z, 1), weight[:, None]
        loss = ((torch.logsumexp(z, 1) - (target * z).sum(1)) * weight).sum(1)
        return loss, w * (p - target), (w * p * (1 - p)).sum((1, 2)) / z.shape[1]

    def bend(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
        return None

    def level(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        p = torch.softmax(z, 1)
        pw = p * weight[:, None]
        return torch.diag_embed(pw.sum(2)) - pw @ p.mT + 1 / z.shape[1]

    def turn(self, z: torch.Tensor, dz: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        p = torch.softmax(z, 1)
        return weight[:, None] * p * (dz - (p * dz).sum(1, keepdim=True))

    def along(self, z: torch.Tensor, dz: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> Along:
        p = torch.softmax(z, 1)
        mean = (p * dz).sum(1)
        slope = (weight * (mean - (target * dz).sum(1))).sum(1)
        return slope, (weight * ((p * dz * dz).sum(1) - mean * mean)).sum(1)


class Squared(_Single):
    """Half the squared error."""

    name: ClassVar[str] = "squared"
    third: ClassVar[float] = 0.0

    def at(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> At:
        off, w = z - target, weight[:, None]
        return (w * off * off).sum((1, 2)) / 2, w * off, weight.sum(1)

    def bend(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return weight

    def along(self, z: torch.Tensor, dz: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> Along:
        off, w = z - target, weight[:, None]
        return (w * off * dz).sum((1, 2)), (w * dz * dz).sum((1, 2))


def affordable(rows: int, width: int) -> bool:
    return rows * float(min(rows, width)) ** 2 <= AFFORDABLE


def newton_direction(x: torch.Tensor, bend: torch.Tensor, penalty: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """-H^-1 g with H = x'Sx - x's s'x / sum s + penalty, the curvature where the intercept follows; x is [n, D], s =
    bend [n], S = diag s and g [D].

    float64. With fewer rows than columns the inverse is taken in the rows (Woodbury). Returns [D].
    """
    kept = bend > 0
    x, s = x[kept], bend[kept]
    scaled = (x - s @ x / s.sum()) * s.sqrt()[:, None]
    if x.shape[1] <= len(x):
        return -_solve(scaled.T @ scaled, penalty, g)
    return -(g - _solve(scaled @ scaled.T, penalty, scaled @ g) @ scaled) / penalty


def _solve(matrix: torch.Tensor, penalty: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    matrix.diagonal().add_(penalty)
    return torch.cholesky_solve(right[:, None], torch.linalg.cholesky(matrix))[:, 0]


def conjugate_gradients(
    curved: Callable[[torch.Tensor], torch.Tensor], lent: Callable[[torch.Tensor], torch.Tensor], right: torch.Tensor
) -> torch.Tensor:
    """About H^-1 right for P problems at once, right [P, C, D] each of norm 1: `curved` multiplies by H, `lent` by
    about its inverse (Nocedal and Wright, algorithm 5.3)."""
    found, rest = torch.zeros_like(right), right
    way = near = lent(rest)
    power = _dot(rest, near)
    for _ in range(STEPS):
        turned = curved(way)
        step = torch.where(_dot(rest, rest) > LEFT**2, power / _dot(way, turned), 0.0)
        found, rest = found + step * way, rest - step * turned
        if not bool(step.any()):
            break
        near = lent(rest)
        before, power = power, _dot(rest, near)
        way = near + torch.where(before > 0, power / before, 0.0) * way
    return found


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum((1, 2), keepdim=True)
