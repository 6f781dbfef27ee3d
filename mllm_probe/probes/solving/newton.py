"""Newton's direction: exact, of one problem, or by conjugate gradients, of many.

Where a few rows decide (nearly separable labels, a weak penalty), the curvature differs so much between rows that no
preconditioner common to all problems helps, and a Newton step is worth its matrix.
"""

from collections.abc import Callable

import torch

AFFORDABLE = 4e9  # rows times the square of the smaller dimension: about 0.2 s of float64 on one core

LEFT, STEPS = 1e-2, 500  # what conjugate gradients leave of a gradient, and how many there are at most


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
