"""Rows made of others by something fitted on training rows alone: random features of one layer, fewer axes of several.

Letters in shapes: T stored rows, D width, N decisions. Knows no label.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from mllm_probe.features.controls import PCA, RELU
from mllm_probe.probes.solving.standardised import Basis, Features
from mllm_probe.records.problems import LayerData, Rows

EXACT = 4096  # up to so many rows or columns the principal axes are exact
RANK = 1e-6  # variances below this share of the largest are rounding


class Derived(Rows, Protocol):
    """Rows made of others by something fitted, which `arrays` gives to be kept."""

    def arrays(self) -> dict[str, np.ndarray]: ...


@dataclass(frozen=True)
class Widened:
    """Rows x [T, D] and relu(((x - mean) / scale) @ weights + bias) beside them: [T, D + M] float32."""

    rows: Rows
    mean: torch.Tensor
    scale: torch.Tensor
    weights: torch.Tensor
    bias: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape[0], sum(self.weights.shape)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        x = self.rows[rows].double()
        made = torch.relu(((x - self.mean) / self.scale).float() @ self.weights + self.bias)
        return torch.cat([x.float(), made], dim=1)

    def arrays(self) -> dict[str, np.ndarray]:
        parts = {"mean": self.mean, "scale": self.scale, "weights": self.weights, "bias": self.bias}
        return {f"{RELU}.{name}": part.numpy() for name, part in parts.items()}


@dataclass(frozen=True)
class Reduced:
    """((x - mean) / scale) @ axes.T of rows x [T, D]: [T, R] float32; the axes are orthonormal."""

    rows: Rows
    mean: torch.Tensor
    scale: torch.Tensor
    axes: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.shape[0], self.axes.shape[0]

    def __getitem__(self, rows: slice) -> torch.Tensor:
        return ((self.rows[rows].double() - self.mean) / self.scale).float() @ self.axes.T

    def arrays(self) -> dict[str, np.ndarray]:
        parts = {"mean": self.mean, "scale": self.scale, "axes": self.axes}
        return {f"{PCA}.{name}": part.numpy() for name, part in parts.items()}


def widened(data: LayerData, train: np.ndarray, columns: int, seed: int) -> Widened:
    """Random ReLU features (weights and biases of a standard normal, weights / sqrt(D)) of rows standardised by the
    decisions `train` [N] bool."""
    _, mean, scale = _standard(data, train)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(data.width, columns, generator=generator) / data.width**0.5
    return Widened(data.rows, mean, scale, weights, torch.randn(columns, generator=generator))


def reduced(data: LayerData, train: np.ndarray, width: int) -> Reduced:
    """The space of the `width` leading principal axes, fewer where training rows span fewer, of the standardised rows
    of the decisions `train` [N] bool; no other row has a part in it.

    The axes are turned at random within that space: a probe standardises its columns, and principal components would
    be whitened by that, which changes what its penalty means.
    """
    features, mean, scale = _standard(data, train)
    axes = _principal(features, width).float().cpu()
    turn = torch.linalg.qr(torch.randn(len(axes), len(axes), generator=torch.Generator().manual_seed(0)))[0]
    return Reduced(data.rows, mean, scale, turn @ axes)


def _standard(data: LayerData, train: np.ndarray) -> tuple[Features, torch.Tensor, torch.Tensor]:
    """The rows of some decisions, and their mean and deviation [D] float64 (infinite where constant)."""
    used = train if data.bounds is None else train.repeat(np.diff(data.bounds))
    features = Features(data, used)
    mean, scale = features.splits(torch.ones(1, features.n, dtype=torch.bool, device=features.device))
    return features, mean[0].cpu(), scale[0].cpu()


def _principal(features: Features, count: int) -> torch.Tensor:
    """[R, D], R <= count."""
    if min(features.n, features.width) > EXACT:
        return Basis.leading(features, count).axes
    wide = features.width > features.n
    values, vectors = torch.linalg.eigh((features.gram() if wide else features.covariance()).double())
    kept = torch.nonzero(values > RANK * values.max())[-count:, 0]
    if not wide:
        return vectors.T[kept]
    return features.back(vectors.T[kept].contiguous()) / (values[kept] * features.n).sqrt()[:, None]
