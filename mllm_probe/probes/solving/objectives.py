"""The convex losses of linear probes, for a batch of problems at once. Knows logits and targets, no features.

Letters in shapes: P problems, C outputs (1 for binary labels and numbers), n rows. Weights [P, n] are 1 / (rows in
training) on the rows of a problem's training split and 0 elsewhere, so every loss is a mean.
"""

from typing import ClassVar, Protocol

import torch
from torch.nn.functional import logsigmoid

At = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Along = tuple[torch.Tensor, torch.Tensor]


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
