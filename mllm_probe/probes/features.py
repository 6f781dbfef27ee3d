"""A layer's rows as a standardised matrix that can be multiplied, in memory or read anew for every product.

Letters in shapes: n rows in use, D width, P problems, S splits. Knows no label.
"""

from collections.abc import Iterator

import numpy as np
import torch

from mllm_probe.errors import ProbeError
from mllm_probe.types import LayerData

CHUNK_BYTES = 32 << 20  # of float64 at once
CONSTANT = 1e-6  # a column that varies this much less in training than in all rows says nothing


def chunks(data: LayerData, dtype: torch.dtype = torch.float64) -> Iterator[tuple[int, int, torch.Tensor]]:
    """(start, stop, rows [stop - start, D]) over all rows, on the data's device."""
    rows, width = data.rows.shape
    step = max(1, CHUNK_BYTES // (8 * max(1, width)))
    for start in range(0, rows, step):
        stop = min(rows, start + step)
        yield start, stop, data.rows[start:stop].to(device=data.compute.device, dtype=dtype)


class Features:
    """The rows `used` [N] of a layer, each column with mean 0 and standard deviation 1 over them.

    Kept as float32 where that fits `compute.memory`, else read from `data.rows` for every product; products in float64
    convert chunk by chunk. A split's own standardisation is a factor per column on top, since an intercept is free.
    Raises ProbeError where a value is not finite.
    """

    def __init__(self, data: LayerData, used: np.ndarray) -> None:
        self._data, self.used = data, used
        self._used = torch.from_numpy(used)
        self.n, self.width, self.device = int(used.sum()), data.width, data.compute.device
        everyone = torch.ones(1, self.n, dtype=torch.float64, device=self.device)
        mean, scale = self._moments(everyone)
        self._mean, self._scale = mean[0], scale[0]
        scale[0][scale[0] <= 1e-9 * mean[0].abs() + 1e-12] = torch.inf
        self._held: torch.Tensor | None = None
        if self.n * self.width * 4 <= data.compute.memory:
            held = torch.empty(self.n, self.width, device=self.device)
            for start, stop, x in self._chunks(torch.float32):
                held[start:stop] = x
            self._held = held

    @property
    def streamed(self) -> bool:
        return self._held is None

    def _raw(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        done = 0
        for start, stop, x in chunks(self._data):
            kept = x[self._used[start:stop].to(x.device)]
            if len(kept):
                yield done, done + len(kept), kept
            done += len(kept)

    def _chunks(self, dtype: torch.dtype) -> Iterator[tuple[int, int, torch.Tensor]]:
        if getattr(self, "_held", None) is None:
            for start, stop, x in self._raw():
                yield start, stop, x.sub_(self._mean).div_(self._scale).to(dtype)
        elif dtype is torch.float32:
            yield 0, self.n, self._held  # type: ignore[misc]
        else:
            step = max(1, CHUNK_BYTES // (8 * self.width))
            for start in range(0, self.n, step):
                yield start, min(self.n, start + step), self._held[start : start + step].to(dtype)  # type: ignore[index]

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

    def covariance(self) -> torch.Tensor:
        """x'x / n, [D, D] float32."""
        out = torch.zeros(self.width, self.width, device=self.device)
        for _, _, x in self._chunks(torch.float32):
            out.addmm_(x.T, x)
        return out / self.n

    def gram(self) -> torch.Tensor:
        """xx' / n, [n, n] float32; for fewer rows than columns."""
        x = torch.cat([x for _, _, x in self._chunks(torch.float32)])
        return x @ x.T / self.n

    def splits(self, train: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation [S, D] float64 of raw columns over each split, train [S, n] bool.

        The deviation of a column that is constant in a split is infinite: divided by it, the column is nothing.
        """
        mean, scale = self._moments(train.double())
        scale[scale <= CONSTANT * self._scale.nan_to_num(posinf=0.0)] = torch.inf
        scale[:, self._scale.isinf()] = torch.inf
        return mean, scale

    def factors(self, scale: torch.Tensor) -> torch.Tensor:
        """[S, D]: what turns columns of this matrix into columns standardised by a split."""
        return torch.where(scale.isinf(), 0.0, self._scale.nan_to_num(posinf=0.0) / scale)

    @property
    def mean(self) -> torch.Tensor:
        return self._mean

    def _moments(self, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted mean and deviation [S, D]; sums are taken around a first guess, so that large means cost no digits."""
        guess = None
        first = second = torch.zeros(())
        for start, stop, x in self._raw():
            if guess is None:
                guess = x.mean(0)
                first = second = torch.zeros(len(weights), self.width, dtype=torch.float64, device=self.device)
            x.sub_(guess)
            w = weights[:, start:stop]
            first = first + w @ x
            second = second + w @ x.square_()
        if guess is None:
            raise ProbeError(f"{self._data.name or 'the layer'} has no rows to train on")
        if not bool(second.isfinite().all()):
            self._name_bad_rows()
        count = weights.sum(1, keepdim=True)
        mean = first / count
        return mean + guess, (second / count - mean.square()).clamp_min(0).sqrt()

    def _name_bad_rows(self) -> None:
        bad = sum(int((~x.isfinite().all(1)).sum()) for _, _, x in self._raw())
        raise ProbeError(
            f"{self._data.name or 'the layer'} has {bad} of {self.n} rows with values that are not finite; "
            "`mllm-probe cache verify` finds damaged shards, model.dtype=bfloat16 or float32 avoids overflow"
        )
