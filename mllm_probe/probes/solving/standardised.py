"""A layer's rows as a standardised matrix that can be multiplied, in memory or read anew for every product, and its
eigenbasis, a preconditioner for every problem of that layer. Knows no label.

Letters in shapes: n rows in use, D width, P problems, S splits.

The basis need not be exact: it changes how fast a problem is solved, never the solution. Small layers get their full
eigenbasis; of large ones a randomised subspace iteration finds the leading directions (Halko, Martinsson and Tropp
2011, algorithm 4.4 with one power), and the rest counts as having the curvature of the last one found. An estimate that
is too high there makes steps shorter, one that is too low makes them overshoot.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mllm_probe.errors import ProbeError
from mllm_probe.records.problems import LayerData

CHUNK_BYTES = 8 << 20  # of float64 at once
ROUNDING = 5e-7  # of a column's mean, four roundings of float32: a column that varies less says nothing
CONSTANT = 1e-6  # a column that varies a million times less in a split than in all rows says nothing there
FULL = 1536  # up to so many rows or columns the whole basis is cheaper than the steps it saves
LEADING = 256


def chunks(data: LayerData, dtype: torch.dtype = torch.float64) -> Iterator[tuple[int, int, torch.Tensor]]:
    """(start, stop, rows [stop - start, D]) over all rows, on the data's device."""
    rows, width = data.rows.shape
    step = max(1, CHUNK_BYTES // (8 * max(1, width)))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        yield start, stop, data.rows[start:stop].to(device=data.compute.device, dtype=dtype)


class Features:
    """The rows `used` [N] of a layer, each column with mean 0 and standard deviation 1 over them.

    Kept as float32 where that fits `compute.memory`, and as float64 beside it where both do; what is not kept is read
    from `data.rows` for every product. A split's own standardisation is a factor per column on top, since an intercept
    is free.
    Raises ProbeError where a value is not finite.
    """

    def __init__(self, data: LayerData, used: np.ndarray) -> None:
        self._data, self.used = data, used
        self._used = torch.from_numpy(used)
        self.n, self.width, self.device = int(used.sum()), data.width, data.compute.device
        self._held: dict[torch.dtype, torch.Tensor] = {}
        self._mean, self._scale = self._moments()
        if self.n * self.width * 4 <= data.compute.memory:
            self._hold((torch.float32, torch.float64) if self.doubles(1) else (torch.float32,))

    def _hold(self, dtypes: Sequence[torch.dtype]) -> None:
        held = {dtype: torch.empty(self.n, self.width, dtype=dtype, device=self.device) for dtype in dtypes}
        for start, stop, x in self._chunks(torch.float64):
            for part in held.values():
                part[start:stop] = x
        self._held = held

    def doubles(self, copies: int) -> bool:
        """Whether so many copies in float64 fit the memory beside that in float32."""
        return self.n * self.width * (4 + 8 * copies) <= self._data.compute.memory

    def room(self, size: float) -> bool:
        """Whether so many bytes are little beside what may be used."""
        return 8 * size <= self._data.compute.memory

    def matrix(self, dtype: torch.dtype) -> torch.Tensor:
        """[n, D], where that is kept."""
        return self._held[dtype]

    @property
    def streamed(self) -> bool:
        return not self._held

    def _raw(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        done = 0
        for start, stop, x in chunks(self._data):
            kept = x[self._used[start:stop].to(x.device)]
            if len(kept):
                yield done, done + len(kept), kept
            done += len(kept)

    def _chunks(self, dtype: torch.dtype) -> Iterator[tuple[int, int, torch.Tensor]]:
        if dtype in self._held:
            step = self.n if dtype is torch.float32 else max(1, CHUNK_BYTES // (8 * self.width))
            for start in range(0, self.n, step):
                stop = min(self.n, start + step)
                yield start, stop, self._held[dtype][start:stop]
        else:
            for start, stop, x in self._raw():
                yield start, stop, x.sub_(self._mean).div_(self._scale).to(dtype)

    def times(self, weights: torch.Tensor) -> torch.Tensor:
        """[P, D] -> [P, n]. Problems lie along rows: a matrix product is several times faster so."""
        out = weights.new_empty(len(weights), self.n)
        for start, stop, x in self._chunks(weights.dtype):
            out[:, start:stop] = weights @ x.T
        return out

    def back(self, residuals: torch.Tensor) -> torch.Tensor:
        """[P, n] -> [P, D], the transposed product."""
        out = residuals.new_zeros(len(residuals), self.width)
        for start, stop, x in self._chunks(residuals.dtype):
            out.addmm_(residuals[:, start:stop], x)
        return out

    def covariance(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """x'x / n, [D, D]."""
        out = torch.zeros(self.width, self.width, dtype=dtype, device=self.device)
        for _, _, x in self._chunks(dtype):
            out.addmm_(x.T, x)
        return out / self.n

    def gram(self) -> torch.Tensor:
        """xx' / n, [n, n] float32; for fewer rows than columns."""
        x = torch.cat([x for _, _, x in self._chunks(torch.float32)])
        return x @ x.T / self.n

    def splits(self, train: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation [S, D] float64 of raw columns over each split; train [S, n] says how often a row
        is in it.

        The deviation of a column that is constant in a split is infinite: divided by it, the column is nothing.
        """
        weights = train.double()
        first = second = torch.zeros(len(train), self.width, dtype=torch.float64, device=self.device)
        for start, stop, x in self._chunks(torch.float64):
            first = first.addmm(weights[:, start:stop], x)
            second = second.addmm(weights[:, start:stop], x.square())
        count = weights.sum(1, keepdim=True)
        scale = (second / count - (first / count).square()).clamp_min(0).sqrt()
        live = self._scale.nan_to_num(posinf=0.0)
        return self._mean + first / count * live, torch.where(scale > CONSTANT, scale * live, torch.inf)

    def factors(self, scale: torch.Tensor) -> torch.Tensor:
        """[S, D]: what turns columns of this matrix into columns standardised by a split."""
        return torch.where(scale.isinf(), 0.0, self._scale.nan_to_num(posinf=0.0) / scale)

    def lengths(self, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Euclidean norms [S, n] of the rows as splits with these means and deviations [S, D] standardise them."""
        factor, offset = self.factors(scale), (mean - self._mean) / scale
        out = torch.empty(len(mean), self.n, dtype=torch.float64, device=self.device)
        for start, stop, x in self._chunks(torch.float64):
            out[:, start:stop] = factor.square() @ x.square().T - 2 * (factor * offset) @ x.T
        return (out + offset.square().sum(1, keepdim=True)).clamp_min(0).sqrt()

    @property
    def mean(self) -> torch.Tensor:
        return self._mean

    @property
    def scale(self) -> torch.Tensor:
        """The columns' deviations [D], infinite where a column is constant."""
        return self._scale

    def _moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation [D] of the raw rows; sums are around a first guess, so that large means cost no digits."""
        guess = None
        first = second = torch.zeros(())
        for _, _, x in self._raw():
            if guess is None:
                guess = x.mean(0)
                first, second = torch.zeros_like(guess), torch.zeros_like(guess)
            x.sub_(guess)
            first += x.sum(0)
            second += x.square_().sum(0)
        if guess is None:
            raise ProbeError(f"{self._data.name or 'the layer'} has no rows to train on")
        if not bool(second.isfinite().all()):
            self._name_bad_rows()
        mean, scale = guess + first / self.n, (second / self.n - (first / self.n).square()).clamp_min(0).sqrt()
        return mean, torch.where(scale > ROUNDING * mean.abs() + 1e-12, scale, torch.inf)

    def _name_bad_rows(self) -> None:
        bad = sum(int((~x.isfinite().all(1)).sum()) for _, _, x in self._raw())
        raise ProbeError(
            f"{self._data.name or 'the layer'} has {bad} of {self.n} rows with values that are not finite; "
            "`mllm-probe cache verify` finds damaged shards, model.dtype=bfloat16 or float32 avoids overflow"
        )


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
        """(curvature * x'x / n + penalty)^-1 v for v [P, C, D], curvature [P, C] and penalty [P]."""
        c, p = curvature[:, :, None], penalty[:, None, None]
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
