"""The Law of Vision Representation: benchmark performance as a quadratic in alignment A and correspondence C.

Yang et al., arXiv 2408.16357: Z = sum of w_ij A^i C^j over i + j <= 2, ordinary least squares, one fit a benchmark,
A and C scaled to [0, 1]. Knows arrays only, neither representations nor benchmarks by name.
Letters: N representations, P terms; leading dimensions `...` are a batch of fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllm_probe.errors import DataError
from mllm_probe.stats.rank_measures import spearman

Terms = Sequence[tuple[int, int]]  # exponents of A and C; the constant is the intercept
LAW, A_ALONE, C_ALONE, LINEAR, RANDOM = "quadratic_ac", "quadratic_a", "quadratic_c", "linear_ac", "random"
MODELS: dict[str, Terms] = {
    LAW: ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2)),
    A_ALONE: ((1, 0), (2, 0)),
    C_ALONE: ((0, 1), (0, 2)),
    LINEAR: ((1, 0), (0, 1)),
    "linear_a": ((1, 0),),
    "linear_c": ((0, 1),),
}
COEFFICIENTS = 1 + len(MODELS[LAW])  # as many points are fitted exactly: nothing is estimated
FEWEST = 3  # the least that can be left out of one by one
AT_ONCE = 50  # draws whose N fits without one point lie in memory together: 20 MB for a hundred points
CUTOFF = 1e-12  # singular values below this share of the largest are rounding, not directions


@dataclass(frozen=True)
class Surface:
    """Fits of one or of many: weights [..., P] of the terms, intercept [...], rank [...] of the centred terms."""

    weights: np.ndarray
    intercept: np.ndarray
    rank: np.ndarray

    def at(self, x: np.ndarray) -> np.ndarray:
        """Predictions [..., N] for terms [..., N, P]."""
        return np.einsum("...np,...p->...n", x, self.weights) + self.intercept[..., None]


@dataclass(frozen=True)
class Quality:
    """How far fits [...] are to be believed, as shares of the variance.

    `r2` in sample, `adjusted` for the number of terms (nan where all points are fitted exactly), `left_out`: every
    point predicted by a fit of all others; `noise` is the `r2` to expect of random A and C.
    """

    r2: np.ndarray
    adjusted: np.ndarray
    left_out: np.ndarray
    noise: np.ndarray


def min_max(values: np.ndarray, column: str) -> np.ndarray:
    """[N] scaled to [0, 1], nan kept. Raises DataError for a constant column."""
    low, high = np.nanmin(values), np.nanmax(values)
    if low == high:
        raise DataError(f"column '{column}' is constant ({low:g} in every row), so nothing can be fitted; leave it out")
    return (values - low) / (high - low)


def terms(unit: np.ndarray, model: Terms) -> np.ndarray:
    """[..., N, P] products of scaled A and C [..., N, 2]."""
    return np.stack([unit[..., 0] ** i * unit[..., 1] ** j for i, j in model], axis=-1)


def fit(x: np.ndarray, y: np.ndarray) -> Surface:
    """Least squares of y [..., N] on terms [..., N, P] with an intercept.

    Where points are fewer than coefficients, the weights of least norm: the intercept, found by centring, does not
    count, and directions below CUTOFF carry no weight.
    """
    middle, mean = x.mean(axis=-2), y.mean(axis=-1)
    u, s, v = np.linalg.svd(x - middle[..., None, :], full_matrices=False)
    kept = s > CUTOFF * s.max(axis=-1, keepdims=True)
    along = np.einsum("...np,...n->...p", u, y - mean[..., None])
    weights = np.einsum("...pq,...p->...q", v, np.divide(along, s, out=np.zeros_like(s), where=kept))
    return Surface(weights, mean - (middle * weights).sum(axis=-1), kept.sum(axis=-1))


def left_out(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Each point of y [..., N] as a fit of all others predicts it from terms [..., N, P] -> [..., N]."""
    n = y.shape[-1]
    others = np.array([[i for i in range(n) if i != point] for point in range(n)])
    return fit(x[..., others, :], y[..., others]).at(x[..., None, :])[..., 0]


def explained(y: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """R² of predictions [..., N] for y [..., N] -> [...]; below 0 where the mean of y predicts better."""
    centred = y - y.mean(axis=-1, keepdims=True)
    return 1 - ((y - predicted) ** 2).sum(axis=-1) / (centred**2).sum(axis=-1)


def assess(x: np.ndarray, y: np.ndarray) -> Quality:
    """What fits of y [..., N] on terms [..., N, P] are worth.

    Random regressors of that rank explain rank / (N - 1) of any y on average, 5 / (N - 1) for the whole law.
    """
    n, surface = y.shape[-1], fit(x, y)
    r2 = explained(y, surface.at(x))
    spare = n - 1 - surface.rank
    adjusted = 1 - np.divide((1 - r2) * (n - 1), spare, out=np.full(r2.shape, np.nan), where=spare > 0)
    return Quality(r2, adjusted, explained(y, left_out(x, y)), surface.rank / (n - 1))


def rank_correlation(predicted: np.ndarray, y: np.ndarray) -> float:
    """Spearman's, over [N]; nan where one side is constant."""
    return float(spearman(predicted, y, np.ones((1, len(y))))[0])


def random_quality(y: np.ndarray, draws: int, seed: int) -> Quality:
    """Of `draws` fits of the law to y [N] with A and C drawn uniformly the means, of `left_out`, which has no mean, the
    median: what six coefficients make of nothing. Yang et al. show one such draw."""
    rng = np.random.default_rng(seed)
    x = terms(rng.uniform(size=(draws, len(y), 2)), MODELS[LAW])
    parts = [assess(some, np.broadcast_to(y, some.shape[:2])) for some in np.array_split(x, -(-draws // AT_ONCE))]
    r2, adjusted, alone, noise = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("r2", "adjusted", "left_out", "noise")
    )
    return Quality(r2.mean(), adjusted.mean(), np.median(alone), noise.mean())
