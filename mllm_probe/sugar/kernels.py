"""The global alignment kernel (Cuturi 2011; Chow et al. 2024, section 3), in log space, for all pairs at once.

K(x, y) sums over all alignments of two sequences the product of a local kernel along the alignment. As printed it is
no similarity: of two equal sequences it is up to the number of alignments (1, 3, 13, 63, 321 for 1 to 5 slices).
Divided by the root of both self-kernels, all three with the pair's width, it is 1 for equal sequences.
Letters: P pairs, N and M slices (the longest of the batch), S sequences, L slices, D width.
"""

import math
from typing import Any

import torch
from torch import Tensor

from mllm_probe.errors import ProbeError

LEAST = -1e30  # stands for the log of nothing where two of them are subtracted


def local_kernel(phi: Tensor, sigma: Tensor | float) -> Tensor:
    """log k of slice distances phi: k = s / (2 - s) with s = exp(-phi / (2 sigma^2)); 0 (k = 1) at distance 0."""
    t = phi / (2 * torch.as_tensor(sigma, dtype=phi.dtype, device=phi.device) ** 2)
    return -t - torch.log(2 - torch.exp(-t))


def width(delta: float, a: Tensor, b: Tensor) -> Tensor:
    """sigma = delta sqrt((N + M) / 2) for lengths a and b."""
    return delta * torch.sqrt((a + b).double() / 2)


def log_gak(local: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """log K [P] of log local kernels [P, N, M], of which the first a [P] rows and b [P] columns are real.

    Differentiable in `local`: d log K / d log k_ij is how often alignments visit the cell. Raises ProbeError.
    """
    if int(min(a.min(), b.min())) < 1:
        raise ProbeError("a sequence has no slice, so it cannot be aligned; every sequence needs one or more")
    return _Alignments.apply(local, a, b)  # type: ignore[no-any-return, no-untyped-call]


class _Alignments(torch.autograd.Function):
    """Cells are visited by anti-diagonals, those of all pairs together: M_ij = k_ij (M_i,j-1 + M_i-1,j-1 + M_i-1,j)."""

    @staticmethod
    def forward(context: Any, local: Tensor, a: Tensor, b: Tensor) -> Tensor:
        skewed = _skew(local)
        begin = torch.full_like(skewed, -math.inf)
        begin[0, 0] = skewed[0, 0]
        reached = _sweep(skewed, begin)
        pairs = torch.arange(len(local), device=local.device)
        found = reached[a + b - 2, a - 1, pairs]
        context.save_for_backward(skewed, reached, found, a, b)
        return found

    @staticmethod
    def backward(context: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        """exp(log M + log B - log K), B what is summed from a cell to the end: the same sweep from the other corner."""
        skewed, reached, found, a, b = context.saved_tensors
        pairs = torch.arange(len(found), device=found.device)
        end = torch.full_like(skewed, -math.inf)
        end[a + b - 2, a - 1, pairs] = skewed[a + b - 2, a - 1, pairs]
        ahead = _sweep(skewed.flip(0, 1), end.flip(0, 1)).flip(0, 1)  # k_ij B_ij
        visits = torch.exp(reached + ahead - skewed.clamp(min=LEAST) - found)
        return _unskew(visits * upstream[0]), None, None


def _sweep(skewed: Tensor, begin: Tensor) -> Tensor:
    """Log kernels by diagonal and the cell where each pair's alignments begin, both [N + M - 1, N, P]; what arrives."""
    reached = begin.clone()
    diagonals, rows = skewed.shape[:2]
    columns = diagonals + 1 - rows
    for d in range(1, diagonals):
        here = slice(max(0, d - columns + 1), min(d, rows - 1) + 1)
        above = slice(here.start - 1, here.stop - 1) if here.start else None
        came = [reached[d - 1, here], _shifted(reached[d - 1], here, above)]
        if d > 1:
            came.append(_shifted(reached[d - 2], here, above))
        reached[d, here] = torch.maximum(reached[d, here], skewed[d, here] + _logsumexp(came))  # one of both is -inf
    return reached


def _shifted(cells: Tensor, here: slice, above: slice | None) -> Tensor:
    """The rows above those of `here`; nothing stands above the first."""
    if above is not None:
        return cells[above]
    return torch.cat([torch.full_like(cells[:1], -math.inf), cells[: here.stop - 1]])


def _logsumexp(parts: list[Tensor]) -> Tensor:
    most = parts[0]
    for part in parts[1:]:
        most = torch.maximum(most, part)
    most = most.clamp(min=LEAST)
    total = torch.exp(parts[0] - most)
    for part in parts[1:]:
        total += torch.exp(part - most)
    return most + torch.log(total)


def _skew(local: Tensor) -> Tensor:
    """[P, N, M] -> [N + M - 1, N, P]: cell (i, j) at diagonal i + j, row i; -inf where there is none."""
    pairs, rows, columns = local.shape
    padded = torch.nn.functional.pad(local, (0, rows), value=-math.inf).flatten(1)
    return padded[:, : rows * (rows + columns - 1)].reshape(pairs, rows, -1).permute(2, 1, 0).contiguous()


def _unskew(skewed: Tensor) -> Tensor:
    diagonals, rows, _ = skewed.shape
    flat = skewed.permute(2, 1, 0).flatten(1)
    columns = diagonals + 1 - rows
    return torch.nn.functional.pad(flat, (0, rows)).reshape(len(flat), rows, -1)[:, :, :columns]
