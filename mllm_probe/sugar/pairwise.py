"""Sequences of slices compared, all with all: the global alignment kernel between unit vectors, one block or two.

A slice is a picture or a sentence. With two blocks a and b of unit vectors (the Triple Kernel of Chow et al. 2024,
section 3.2) slices of one kind are compared by a (DINOv2 for pictures, BGE for sentences), slices of different kinds by
b (CLIP). Such a matrix need not be positive semi-definite, whatever the paper says: take it as a similarity.
Letters: S sequences, L slices of the longest, D width, P pairs, U different slices.
"""

from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mllm_probe.errors import ProbeError
from mllm_probe.sugar.kernels import local_kernel, log_gak, width

CHUNK = 1 << 16  # pairs that are aligned together


@dataclass(frozen=True)
class Sequences:
    """Vectors `a` [S, L, D], of which the first `lengths` [S] are real; for the Triple Kernel `b` [S, L, D'] too, and
    `kinds` [S, L], the number of each slice's modality."""

    a: Tensor
    lengths: Tensor
    b: Tensor | None = None
    kinds: Tensor | None = None

    def __post_init__(self) -> None:
        """Raises ProbeError for sequences without a slice and vectors of length 0, which point nowhere."""
        real = torch.arange(self.a.shape[1], device=self.a.device) < self.lengths[:, None]
        if (short := int((self.lengths < 1).sum())) or (self.b is None) != (self.kinds is None):
            raise ProbeError(
                f"{short} of {len(self.lengths)} sequences have no slice, or only one of b and kinds is given; every "
                "sequence needs a slice, and two blocks need the modality of each"
            )
        for vectors in (self.a, self.b):
            if vectors is not None and (zero := int((vectors.norm(dim=-1)[real] == 0).sum())):
                raise ProbeError(f"{zero} slices are vectors of zeros, which have no direction; leave them out")

    def cosines(self, left: Tensor, right: Tensor, most: int | None = None) -> Tensor:
        """Between the slices of pairs of sequences (left [P], right [P]), the first `most` of each: [P, most, most]; of
        the first slices alone [P] where `most` is None. The distance of two slices is phi = 2 (1 - cosine)."""
        first = most or 1
        one = _cosines(self.a[:, :first], left, right)
        if self.b is not None and self.kinds is not None:
            kinds = self.kinds[:, :first]
            same = kinds[left][:, :, None] == kinds[right][:, None]
            one = torch.where(same, one, _cosines(self.b[:, :first], left, right))
        return one[:, 0, 0] if most is None else one

    def phi(self, left: Tensor, right: Tensor, most: int) -> Tensor:
        """The distances of slices [P, most, most]."""
        return 2 * (1 - self.cosines(left, right, most)).clamp(min=0)


@dataclass(frozen=True)
class Tabled:
    """Sequences over slices that occur often: `rows` [S, L] of the tables of what any two slices have, `cosine` and
    `distance` [U, U]; the first `lengths` [S] of each are real."""

    rows: Tensor
    lengths: Tensor
    cosine: Tensor
    distance: Tensor

    def cosines(self, left: Tensor, right: Tensor) -> Tensor:
        """Of the first slices [P]."""
        return self.cosine[self.rows[left, 0], self.rows[right, 0]]

    def phi(self, left: Tensor, right: Tensor, most: int) -> Tensor:
        """The distances of slices [P, most, most]."""
        return self.distance[self.rows[left, :most, None], self.rows[right, None, :most]]


def _cosines(vectors: Tensor, left: Tensor, right: Tensor) -> Tensor:
    unit = normalize(vectors, dim=-1)
    return unit[left] @ unit[right].transpose(1, 2)


def similarities(sequences: Sequences | Tabled, delta: float, cosine: bool = True, normalised: bool = True) -> Tensor:
    """K(x, y) / sqrt(K(x, x) K(y, y)), all three with the pair's sigma, for all sequences: [S, S], 1 on the diagonal;
    K(x, y) itself where it shall not be `normalised`.

    `cosine`: two sequences of one slice each have the cosine of their slices instead, as the paper replaces it; the
    kernel is a rising function of it. Differentiable. Raises ProbeError for a delta that is not above 0.
    """
    count, device = len(sequences.lengths), sequences.lengths.device
    left, right = torch.tensor(list(combinations_with_replacement(range(count), 2)), device=device).T
    found = paired(sequences, left, right, delta, cosine, normalised)
    whole = found.new_zeros(count, count)
    return whole.index_put((left, right), found).index_put((right, left), found)


def paired(
    sequences: Sequences | Tabled,
    left: Tensor,
    right: Tensor,
    delta: float,
    cosine: bool = True,
    normalised: bool = True,
) -> Tensor:
    """The same for the pairs of sequences left [P] and right [P] alone: [P]."""
    if not delta > 0:
        raise ProbeError(f"delta={delta} must be above 0")
    lengths = sequences.lengths
    own = _self_kernels(sequences, delta)
    if not normalised:
        own = torch.zeros_like(own)  # the log of 1
    order = torch.argsort(torch.maximum(lengths[left], lengths[right]))  # alike long ones together: little is in vain
    parts = [_aligned(sequences, left[chunk], right[chunk], delta, own, cosine) for chunk in torch.split(order, CHUNK)]
    return torch.cat(parts)[torch.argsort(order)]


def _aligned(
    sequences: Sequences | Tabled, left: Tensor, right: Tensor, delta: float, own: Tensor, cosine: bool
) -> Tensor:
    """The normalised kernel of pairs [P], or the cosine of single slices; `own` are the self-kernels."""
    a, b = sequences.lengths[left], sequences.lengths[right]
    most = int(torch.maximum(a, b).max())
    phi = sequences.phi(left, right, most)
    found = log_gak(local_kernel(phi, width(delta, a, b)[:, None, None]), a, b)
    kernel = torch.exp(found - (own[left, b - 1] + own[right, a - 1]) / 2)
    return torch.where((a == 1) & (b == 1), sequences.cosines(left, right), kernel) if cosine else kernel


def _self_kernels(sequences: Sequences | Tabled, delta: float) -> Tensor:
    """log K(x, x) of each sequence with the width of a pair whose other side is as long as any there is: [S, L], column
    m - 1 for a length m; nan for lengths that do not occur."""
    count, most = len(sequences.lengths), int(sequences.lengths.max())
    there = torch.unique(sequences.lengths)
    which = torch.arange(count, device=there.device).repeat_interleave(len(there))
    other, lengths = there.repeat(count), sequences.lengths[which]
    phi = sequences.phi(which, which, most)
    found = log_gak(local_kernel(phi, width(delta, lengths, other)[:, None, None]), lengths, lengths)
    return found.new_full((count, most), torch.nan).index_put((which, other - 1), found)
