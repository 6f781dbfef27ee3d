"""Problems with a known answer for each kind of probe."""

from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

from mllm_probe.records.problems import LayerData, Problem


def split(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, validation and test rows [n] bool: a half, a quarter, a quarter."""
    part = np.random.default_rng(seed).permutation(n) % 4
    return part < 2, part == 2, part == 3


def problem(y: np.ndarray, seed: int = 0, **more: Any) -> Problem:
    train, val, _ = split(len(y), seed)
    return Problem(y, train, val, seed=seed, **more)


def layer(x: np.ndarray, **more: Any) -> LayerData:
    return LayerData(torch.from_numpy(x), name="lm.03@last", **more)


def planted(n: int = 300, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated columns of unequal scales around large means, and labels from a noisy direction."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) * np.exp(rng.normal(size=width)) + 30
    y = (x - x.mean(0)) / x.std(0) @ rng.normal(size=width) + rng.normal(size=n) * 2 > 0.7
    return x, y.astype(int)


def tokens(n: int = 320, width: int = 16, seed: int = 0) -> tuple[LayerData, np.ndarray]:
    """Spans of 3 to 14 tokens; at a random place, marked by one direction, another one carries the label.

    Every other token carries strong noise in the label's direction, which a mean over tokens cannot tell from it.
    """
    rng = np.random.default_rng(seed)
    lengths, y = rng.integers(3, 15, n), rng.integers(0, 2, n)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    x = rng.normal(size=(bounds[-1], width))
    x[:, 1] *= 3
    place = bounds[:-1] + rng.integers(0, lengths)
    x[place, 0] += 6
    x[place, 1] = 4 * (2 * y - 1) + rng.normal(size=n)
    return LayerData(torch.from_numpy(x * 3 + 50), bounds=bounds, name="lm.03@tokens"), y


def pairs(m: int = 120, width: int = 10, seed: int = 0) -> tuple[LayerData, np.ndarray, Problem]:
    """Statements and their contradictions in random order; the side moves a row far, its truth less far."""
    rng = np.random.default_rng(seed)
    side, truth = rng.normal(size=width) * 5, rng.normal(size=width)
    topic, yes = np.repeat(rng.normal(size=(m, width)), 2, axis=0), np.repeat(rng.integers(0, 2, m), 2)
    sides = np.tile([1, -1], m)
    y = np.where(sides > 0, yes, 1 - yes)
    x = topic + sides[:, None] * side + (2 * y[:, None] - 1) * truth + rng.normal(size=(2 * m, width)) * 0.5
    order, split_of = rng.permutation(2 * m), np.repeat(rng.permutation(m) % 4, 2)
    ids = np.repeat(rng.permutation(m) + 100, 2)
    data = layer((x * np.exp(np.arange(width) / 2) + 9)[order], pairs=ids[order], sides=sides[order])
    part = split_of[order]
    return data, part == 3, Problem(y[order], part < 2, part == 2)


def ccs_loss(data: LayerData, train: np.ndarray, theta: np.ndarray, bias: float) -> float:
    """The published loss on training pairs, row by row, with each side standardised by itself."""
    x, total = data.rows.numpy(), 0.0
    z = {side: StandardScaler().fit(x[train & (data.sides == side)]) for side in (1, -1)}
    for pair in (found := np.unique(data.pairs[train])):
        row = {side: np.flatnonzero((data.pairs == pair) & (data.sides == side)) for side in (1, -1)}
        yes, no = (1 / (1 + np.exp(-(z[side].transform(x[row[side]])[0] @ theta + bias))) for side in (1, -1))
        total += (yes - (1 - no)) ** 2 + min(yes, no) ** 2
    return total / len(found)
