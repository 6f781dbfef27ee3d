"""The convex losses of linear probes, for a batch of problems at once. Knows logits and targets, no features.

Letters in shapes: P problems, C outputs (1 for binary labels and numbers), n rows. Weights [P, n] are 1 / (rows in
training) on the rows of a problem's training split and 0 elsewhere, so every loss is a mean.

Newton's direction is found by conjugate gradients, of many problems at once, or by a matrix, of one. Where a few rows
decide (nearly separable labels, a weak penalty), the curvature differs so much between rows that no preconditioner
common to all problems helps, and a Newton step is worth its matrix. That of C classes has C D rows; where these are too
many, its C blocks [D, D] are a preconditioner of the problem's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

Pair = tuple[torch.Tensor, torch.Tensor]
Turning = Callable[[torch.Tensor], torch.Tensor]
AFFORDABLE = 4e9  # rows times the square of the smaller dimension: about 0.2 s of float64 on one core
FILL = 1e-10  # curvature given to each intercept: those of certain classes have next to none
LEFT, STEPS = 1e-2, 500  # what conjugate gradients leave of a gradient, and how many there are at most


class Loss(Protocol):
    """`third` times the second derivative and the largest entry bounds the third; with `shares` targets are shares."""

    third: ClassVar[float]
    shares: ClassVar[bool]

    def value(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Logits and targets [P, C, n] -> loss [P]."""

    def at(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> Pair:
        """Its derivative by the logits [P, C, n] and the mean curvature [P, C]."""

    def constant(self, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The intercepts [P, C] that are best where no weight is."""

    def off(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The sums of that derivative over rows [P, C], without the rest."""

    def level(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Second derivative by the intercepts [P, C, C], invertible: filled in where all can move alike."""

    def turning(self, z: torch.Tensor, weight: torch.Tensor) -> Turning:
        """The derivative by the logits changes so along a direction dz, both [P, C, n]."""

    def bends(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Second derivative by each logit alone [P, C, n]."""

    def newton(
        self, x: torch.Tensor, z: torch.Tensor, w: torch.Tensor, penalty: float, g: torch.Tensor
    ) -> torch.Tensor:
        """Newton's direction [C, D] of one problem where the intercepts follow: rows [n, D], logits [C, n], weights
        [n], lambda, gradient [C, D], all in float64."""

    def along(self, z: torch.Tensor, dz: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> Pair:
        """Slope and second derivative [P] of the loss at z along the direction dz."""


@dataclass(frozen=True)
class Work:
    """P problems with C outputs each: targets [P, C, n], row weights [P, n], lambda [P], column factors [P, D]."""

    loss: Loss
    target: torch.Tensor
    weight: torch.Tensor
    penalty: torch.Tensor
    factor: torch.Tensor

    def pick(self, index: torch.Tensor) -> "Work":
        return Work(self.loss, self.target[index], self.weight[index], self.penalty[index], self.factor[index])

    def to(self, dtype: torch.dtype) -> "Work":
        parts = (self.target, self.weight, self.penalty, self.factor)
        return Work(self.loss, *(part.to(dtype) for part in parts))


class _Single:
    """What losses of one logit share."""

    def bend(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Second derivative by each logit [P, n]."""
        raise NotImplementedError

    def bends(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return self.bend(z, weight)[:, None]

    def newton(
        self, x: torch.Tensor, z: torch.Tensor, w: torch.Tensor, penalty: float, g: torch.Tensor
    ) -> torch.Tensor:
        return newton_direction(x, self.bend(z[None], w[None])[0], penalty, g[0])[None]

    def level(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return self.bend(z, weight).sum(1)[:, None, None]

    def turning(self, z: torch.Tensor, weight: torch.Tensor) -> Turning:
        bend = self.bend(z, weight)[:, None]
        return lambda dz: bend * dz


class Sigmoid(_Single):
    """Log loss of one label; targets are the share of a row that has it."""

    name: ClassVar[str] = "sigmoid"
    third: ClassVar[float] = 1.0
    shares: ClassVar[bool] = True

    def value(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        loss = z.abs().neg_().exp_().log1p_().add_(z.clamp_min(0).sub_(target * z))
        return _weighed(loss, weight)[:, 0]

    def at(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> Pair:
        p = torch.sigmoid(z)
        curvature = _weighed(p * (1 - p), weight)
        return p.sub_(target).mul_(weight[:, None]), curvature

    def constant(self, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.logit(_weighed(target, weight), torch.finfo(target.dtype).eps)

    def off(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return _weighed(torch.sigmoid(z).sub_(target), weight)

    def bend(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        wrong = torch.sigmoid(-z[:, 0].abs())  # where p is near 1, 1 - p would round
        return weight * wrong * (1 - wrong)

    def along(self, z: torch.Tensor, dz: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> Pair:
        p = torch.sigmoid(z)
        bend = _weighed((p * (1 - p)).mul_(dz).mul_(dz), weight)[:, 0]
        return _weighed(p.sub_(target).mul_(dz), weight)[:, 0], bend


class Softmax:
    """Cross-entropy over C classes; targets are one-hot."""

    name: ClassVar[str] = "softmax"
    third: ClassVar[float] = 2.0
    shares: ClassVar[bool] = True

    def value(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return -((target * torch.log_softmax(z, 1)).sum(1) * weight).sum(1)

    def at(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> Pair:
        p = torch.softmax(z, 1)
        mass, square = _summed(p, weight), _summed(p.square(), weight)
        return p.sub_(target).mul_(weight[:, None]), mass - square

    def constant(self, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        logs = _summed(target, weight).clamp_min(torch.finfo(target.dtype).eps).log()
        return logs - logs.mean(1, keepdim=True)

    def off(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return _summed(torch.softmax(z, 1).sub_(target), weight)

    def bends(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        p = torch.softmax(z, 1)
        return p.sub_(p.square()).mul_(weight[:, None])

    def newton(
        self, x: torch.Tensor, z: torch.Tensor, w: torch.Tensor, penalty: float, g: torch.Tensor
    ) -> torch.Tensor:
        return newton_direction_of_classes(x, torch.softmax(z, 0), w, penalty, g)

    def level(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        p = torch.softmax(z, 1)
        pw = p * weight[:, None]
        return torch.diag_embed(pw.sum(2)) - pw @ p.mT + 1 / z.shape[1]

    def turning(self, z: torch.Tensor, weight: torch.Tensor) -> Turning:
        p = torch.softmax(z, 1)
        pw = p * weight[:, None]
        return lambda dz: pw * (dz - (p * dz).sum(1, keepdim=True))

    def along(self, z: torch.Tensor, dz: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> Pair:
        moved = torch.softmax(z, 1).mul_(dz)
        mean = moved.sum(1)
        slope = (weight * (mean - (target * dz).sum(1))).sum(1)
        return slope, (weight * (moved.mul_(dz).sum(1) - mean * mean)).sum(1)


class Squared(_Single):
    """Half the squared error."""

    name: ClassVar[str] = "squared"
    third: ClassVar[float] = 0.0
    shares: ClassVar[bool] = False

    def value(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return _weighed((z - target).square_(), weight)[:, 0] / 2

    def at(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> Pair:
        return (z - target).mul_(weight[:, None]), weight.sum(1, keepdim=True)

    def constant(self, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return _weighed(target, weight)

    def off(self, z: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return _weighed(z - target, weight)

    def bend(self, z: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return weight

    def along(self, z: torch.Tensor, dz: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> Pair:
        return _weighed((z - target).mul_(dz), weight)[:, 0], _weighed(dz.square(), weight)[:, 0]


def _weighed(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[P, 1, n] by weights [P, n] over rows -> [P, 1]."""
    return (values[:, 0] * weight).sum(1, keepdim=True)


def _summed(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[P, C, n] by weights [P, n] over rows -> [P, C]."""
    return (values @ weight[:, :, None])[:, :, 0]


def affordable(rows: int, width: int, outputs: int) -> bool:
    """Whether the matrix of one problem is, which `newton` needs."""
    if outputs == 1:
        return rows * float(min(rows, width)) ** 2 <= AFFORDABLE
    return outputs**2 * float(width) ** 2 * (rows + outputs * width / 3) <= AFFORDABLE / 4


def newton_direction(x: torch.Tensor, bend: torch.Tensor, penalty: float, g: torch.Tensor) -> torch.Tensor:
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


def newton_direction_of_classes(
    x: torch.Tensor, p: torch.Tensor, weight: torch.Tensor, penalty: float, g: torch.Tensor
) -> torch.Tensor:
    """The same for C classes with probabilities p [C, n], row weights [n] and g [C, D]: the intercepts are a column of
    their own, without a penalty but with what makes them invertible. Returns [C, D]."""
    kept = weight > 0
    x, p, weight = torch.cat([x[kept], x.new_ones(int(kept.sum()), 1)], 1), p[:, kept], weight[kept]
    (classes, width), size = g.shape, x.shape[1] * len(p)
    matrix = x.new_empty(classes, width + 1, classes, width + 1)
    for a in range(classes):
        for b in range(a + 1):
            matrix[a, :, b] = (x * (weight * p[a] * (float(a == b) - p[b]))[:, None]).T @ x
            matrix[b, :, a] = matrix[a, :, b]
    matrix[:, -1, :, -1] += 1 / classes
    matrix[:, -1, :, -1].diagonal().add_(FILL)
    matrix[:, :-1, :, :-1].diagonal(dim1=0, dim2=2).diagonal(dim1=0, dim2=1).add_(penalty)
    right = torch.cat([g, g.new_zeros(classes, 1)], 1).flatten()
    return -_solve(matrix.reshape(size, size), 0.0, right).reshape(classes, -1)[:, :-1]


def _solve(matrix: torch.Tensor, penalty: float, right: torch.Tensor) -> torch.Tensor:
    matrix.diagonal().add_(penalty)
    return torch.cholesky_solve(right[:, None], torch.linalg.cholesky(matrix))[:, 0]


def inverse_blocks(x: torch.Tensor, bends: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    """The inverse of the second derivative by the weights of each output alone, [C, D, D] for bends [C, n]."""
    blocks = x.new_empty(len(bends), x.shape[1], x.shape[1])
    for block, s in zip(blocks, bends, strict=True):
        mean = s @ x
        torch.addmm(torch.outer(mean, -mean / s.sum().clamp_min(1e-30)), (x * s[:, None]).T, x, out=block)
        block.diagonal().add_(penalty.clamp_min(3e-5 * float(block.diagonal().max())))  # float32 must see it
    return torch.cholesky_inverse(torch.linalg.cholesky(blocks))


def conjugate_gradients(
    curved: Callable[[torch.Tensor], torch.Tensor],
    lent: Callable[[torch.Tensor], torch.Tensor],
    right: torch.Tensor,
    most: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """About H^-1 right for P problems at once, right [P, C, D] each of norm 1, and which got there [P] in `most` steps:
    `curved` multiplies by H, `lent` by about its inverse (Nocedal and Wright, algorithm 5.3)."""
    found, rest = torch.zeros_like(right), right
    way = near = lent(rest)
    power, left = _dot(rest, near), _dot(rest, rest) > LEFT**2
    for _ in range(most):
        turned = curved(way)
        step = torch.where(left, power / _dot(way, turned), 0.0)
        found, rest = found + step * way, rest - step * turned
        left = left & (_dot(rest, rest) > LEFT**2)
        if not bool(left.any()):
            break
        near = lent(rest)
        before, power = power, _dot(rest, near)
        way = near + torch.where(before > 0, power / before, 0.0) * way
    return found, ~left[:, 0, 0]


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum((1, 2), keepdim=True)
