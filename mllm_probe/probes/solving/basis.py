"""The eigenbasis of a layer's features: a preconditioner for every problem of that layer. Knows no label.

It need not be exact: it changes how fast a problem is solved, never the solution. Small layers get their full
eigenbasis; of large ones a randomised subspace iteration finds the leading directions (Halko, Martinsson and Tropp
2011, algorithm 4.4 with one power), and the rest counts as having the curvature of the last one found. An estimate
that is too high there makes steps shorter, one that is too low makes them overshoot.
"""

from dataclasses import dataclass

import torch

from mllm_probe.probes.solving.standardised import Features

FULL = 1536  # up to so many rows or columns the whole basis is cheaper than the steps it saves
LEADING = 256


@dataclass(frozen=True)
class Basis:
    """x'x / n = axes' diag(values) axes + about `rest` on all other directions; axes [R, D] orthonormal, float32."""

    axes: torch.Tensor
    values: torch.Tensor
    rest: float

    @classmethod
    def of(cls, features: Features) -> "Basis":
        if features.width <= min(FULL, features.n):
            values, vectors = _eigh(features.covariance())
            return cls(vectors.T.contiguous(), values.clamp_min(0), 0.0)
        if features.n <= FULL and not features.streamed:
            return cls._of_rows(features)
        return cls.leading(features, LEADING)

    @classmethod
    def _of_rows(cls, features: Features) -> "Basis":
        values, vectors = _eigh(features.gram())
        kept = values > 1e-5 * values.max()
        values = values[kept]
        axes = features.back(vectors[:, kept].T.contiguous()) / (values * features.n).sqrt()[:, None]
        return cls(axes, values, float(values.min()) if len(values) else 0.0)

    @classmethod
    def leading(cls, features: Features, rank: int) -> "Basis":
        generator = torch.Generator(device="cpu").manual_seed(0)
        q = torch.randn(rank + 16, features.width, generator=generator).to(features.device)
        for _ in range(2):
            q = torch.linalg.qr(features.back(features.times(q)).T)[0].T.contiguous()
        small = features.times(q)
        values, vectors = _eigh(small @ small.T / features.n)
        values, axes = values[-rank:].clamp_min(0), vectors.T[-rank:] @ q
        return cls(axes, values, float(values.min()))

    def solve(self, v: torch.Tensor, curvature: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
        """(curvature * x'x / n + penalty)^-1 v for v [P, C, D], curvature and penalty [P]."""
        c, p = curvature[:, None, None], penalty[:, None, None]
        axes = self.axes.to(v.dtype)
        elsewhere = 1 / (c * self.rest + p)
        leading = 1 / (c * self.values.to(v.dtype) + p) - elsewhere
        return elsewhere * v + (leading * (v @ axes.T)) @ axes


def _eigh(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues and vectors; rows that differ by rounding alone have so many equal ones that float32 may not do."""
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except RuntimeError:  # LinAlgError, which torch does not show to type checkers
        values, vectors = torch.linalg.eigh(matrix.double())
    return values.to(matrix.dtype), vectors.to(matrix.dtype)
