"""What an integration must beat before its gain may be put down to its layers: the same width without other layers, and
other layers at the same width.

    final_layer         V_L alone, always there; the paper's baseline
    repeated            V_L as often as the integration has parts: the width, nothing else
    random_relu         V_L beside random non-linear features of itself: the width and new columns, no other layer
    pca                 the integration reduced to the width of one layer
    random_layers_1 ... other layers in the places of its parts, drawn by seed
    best_layer          the single layer, up to V_L, that validation prefers
    all_layers          every layer up to V_L side by side

Those that need a fit (random_relu, pca) see training rows only. Knows no label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Protocol

import numpy as np
import torch

from mllm_probe.errors import ConfigError, choices
from mllm_probe.integration import MLP, Recipe
from mllm_probe.probes.basis import Basis
from mllm_probe.probes.features import Features
from mllm_probe.types import LayerData, Rows

FINAL = "final_layer"
CONTROLS = REPEATED, RELU, PCA, RANDOM_LAYERS, BEST, ALL = (
    "repeated",
    "random_relu",
    "pca",
    "random_layers",
    "best_layer",
    "all_layers",
)
WIDTH = (REPEATED, RELU)  # as wide, and no other layer
EXACT = 4096  # up to so many rows or columns the principal axes are exact
RANK = 1e-6  # variances below this share of the largest are rounding


def check_controls(names: Sequence[str], features: str) -> None:
    """Raises ConfigError."""
    for name in names:
        if name not in CONTROLS:
            raise ConfigError(f"features.{features}.controls names '{name}'; {choices(str(name), CONTROLS)}")


@dataclass(frozen=True)
class Arms:
    """An integration and the names of its `controls`; `others` are those that only take other layers, None where there
    is no such control of it."""

    own: Recipe
    others: Mapping[str, Recipe | None]
    controls: tuple[str, ...]

    @classmethod
    def of(cls, own: Recipe, controls: Sequence[str], sets: int, seed: int) -> "Arms":
        others = _others(own, controls, sets, seed)
        return cls(own, others, (*others, *(name for name in (RELU, PCA, BEST) if name in controls)))

    @property
    def layers(self) -> tuple[int, ...]:
        """All that are read, of the integration and of its controls."""
        below = range(self.own.final) if BEST in self.controls else ()
        read = (self.own, *(other for other in self.others.values() if other))
        return tuple(sorted({*below, *(layer for one in read for layer in one.layers)}))


def _others(own: Recipe, controls: Sequence[str], sets: int, seed: int) -> dict[str, Recipe | None]:
    found: dict[str, Recipe | None] = {FINAL: Recipe(MLP, own.final)}
    everything = tuple((layer,) for layer in range(own.final))
    if REPEATED in controls:
        found[REPEATED] = replace(own, groups=((own.final,),) * len(own.groups))
    if RANDOM_LAYERS in controls:
        found |= {f"{RANDOM_LAYERS}_{i + 1}": other for i, other in enumerate(_drawn(own, sets, seed))}
    if ALL in controls:
        found[ALL] = None if set(own.groups) == set(everything) else replace(own, groups=everything)
    return found


def _drawn(own: Recipe, sets: int, seed: int) -> list[Recipe]:
    """As many single layers as it has groups, each set once and its own never: fewer where a tower has no more."""
    size, generator = len(own.groups), np.random.default_rng(seed)
    seen = {tuple(sorted(own.groups))}
    own_is_one = all(len(group) == 1 and group[0] < own.final for group in own.groups)
    wanted = min(sets, comb(own.final, size) - own_is_one)
    drawn: list[Recipe] = []
    while len(drawn) < wanted:
        groups = tuple((int(layer),) for layer in sorted(generator.choice(own.final, size, replace=False)))
        if groups not in seen:
            seen.add(groups)
            drawn.append(replace(own, groups=groups))
    return drawn


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
    """((x - mean) / scale) @ axes.T of rows x [T, D]: [T, R] float32; orthonormal axes, the largest variance last."""

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
    """The `width` leading principal axes, fewer where training rows span fewer, of the standardised rows of the
    decisions `train` [N] bool; no other row has a part in them."""
    features, mean, scale = _standard(data, train)
    return Reduced(data.rows, mean, scale, _principal(features, width).float().cpu())


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
