"""Intervals by the cluster bootstrap: pictures are drawn, not rows, because rows of one picture are not independent."""

from collections.abc import Callable

import numpy as np


def resample_weights(groups: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """How often each row counts in each resample: [draws, N], the groups [N] drawn with replacement."""
    names, member = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return counts[:, member].astype(np.float64)


def interval(statistic: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, level: float) -> tuple[float, float]:
    """Percentile interval of `statistic(weights [R, N]) -> [R]`; resamples where it is nan are left out."""
    values = statistic(weights)
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, (tail, 1 - tail))
    return float(low), float(high)
