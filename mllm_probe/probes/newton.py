"""The exact second-order direction of one problem, for those that the shared eigenbasis leaves unsolved.

Where a few rows decide (nearly separable labels, a weak penalty), the curvature differs so much between rows that no
preconditioner common to all problems helps, and a Newton step is worth its matrix.
"""

import torch

AFFORDABLE = 4e9  # rows times the square of the smaller dimension: about 0.2 s of float64 on one core


def affordable(rows: int, width: int) -> bool:
    return rows * float(min(rows, width)) ** 2 <= AFFORDABLE


def newton_direction(
    x: torch.Tensor, bend: torch.Tensor, penalty: torch.Tensor, g: torch.Tensor, gb: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """-H^-1 (g, gb) with H = [[x'Sx + penalty, x's], [s'x, sum s]] for x [n, D], s = bend [n], g [D] and gb [].

    float64. With fewer rows than columns the inverse is taken in the rows (Woodbury). Returns [D] and [].
    """
    kept = bend > 0
    x, s = x[kept], bend[kept]
    scaled = x * s.sqrt()[:, None]
    right = torch.stack([g, x.T @ s])
    if x.shape[1] <= len(x):
        solved = _solve(scaled.T @ scaled, penalty, right.T).T
    else:
        inner = _solve(scaled @ scaled.T, penalty, scaled @ right.T).T
        solved = (right - inner @ scaled) / penalty
    rest = s.sum() - right[1] @ solved[1]
    db = (right[1] @ solved[0] - gb) / rest.clamp_min(1e-300)
    return -solved[0] - solved[1] * db, db


def _solve(matrix: torch.Tensor, penalty: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    matrix.diagonal().add_(penalty)
    return torch.cholesky_solve(right, torch.linalg.cholesky(matrix))
