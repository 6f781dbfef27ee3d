"""Two layers on the same rows: their difference, its interval, its p by sign flips, and what could have been seen.

Knows a score per row (the share of seeds that were right, or any other), and pictures. Letters: N rows, G pictures,
L layers. Pictures are the unit throughout: of resampling, of standard errors and of sign flips.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from mllm_probe.errors import ProbeError
from mllm_probe.stats.bootstrap import Resamples, picture_sums
from mllm_probe.stats.intervals import BY_LABEL, of_difference
from mllm_probe.stats.measures import HIGHER_IS_BETTER, linearised

EXACT = 12  # up to this many pictures that differ, all 2^G sign patterns are tried
TIE = 1e-9
STEP = 512


@dataclass(frozen=True)
class Difference:
    """mean(a) - mean(b) in units of the score, with interval, cluster standard error and sign-flip p values.

    `p` is two-sided, `p_greater` for a above b. `detectable` is the least true difference that a two-sided test at
    5 % finds in 80 % of samples of this size: (t_.975 + t_.8) x standard error, or that of the interval where it is
    wider than t standard errors. Interval and detectable are nan where every picture has the same difference of scores
    that have no bounds.
    """

    value: float
    low: float
    high: float
    se: float
    p: float
    p_greater: float
    detectable: float

    @property
    def untested(self) -> "Difference":
        """The value alone, of scores that may not be compared."""
        return Difference(self.value, *[np.nan] * 6)


def difference(
    a: np.ndarray, b: np.ndarray, draws: Resamples, level: float = 0.95, permutations: int = 9999, seed: int = 0
) -> Difference:
    """Scores a and b [N] of the same rows, in the row order of `draws`. Raises ProbeError for shapes or non-finite."""
    one, other = check_scores(np.stack([a, b]), draws)
    gap, between = one - other, of_difference(one, other, draws, level)
    se = float(standard_errors(np.stack([gap, np.zeros(len(gap))]), draws)[0, 1])
    p, p_greater = sign_flip(picture_sums(draws.member, draws.size, gap), permutations, seed)
    beyond = stdtrit(draws.size - 1, [(1 + level) / 2, 0.975, 0.8])
    own = max(se, (between.high - between.low) / 2 / float(beyond[0]))
    detectable = float(beyond[1] + beyond[2]) * (own if between.low <= between.high else np.nan)
    return Difference(float(gap.mean()), between.low, between.high, se, p, p_greater, detectable)


def known(number: float) -> float | None:
    """As a table keeps it: None for nan."""
    return None if np.isnan(number) else number


def row_scores(
    logits: np.ndarray,
    y: np.ndarray,
    kind: str = "binary",
    metric: str | None = None,
    pictures: np.ndarray | None = None,
) -> np.ndarray:
    """Logits [S, N] or [S, N, C] of S seeds and labels [N] -> scores [N]: their mean is the measure, mean over seeds.

    metric: accuracy (r2 for numbers) unless it is named. Accuracy gives the share of seeds that are right about each
    row, balanced accuracy that share with the weight of the row's label, so that signs of differences may be flipped
    as those of accuracy; other measures are linearised, and those that weigh labels longer by what few `pictures` [N]
    (rows, if not given) of the rarest label leave open. Larger is better throughout: nll, ece and mae enter negated.
    nan where the measure is undefined. Raises ProbeError as `linear.linearised`.
    """
    metric = metric or ("r2" if kind == "number" else "accuracy")
    weighed = metric == "balanced_accuracy" and kind != "labels"
    found = np.mean([linearised("accuracy" if weighed else metric, one, y, kind) for one in logits], axis=0)
    if weighed:
        _, label, sizes = np.unique(y, return_inverse=True, return_counts=True)
        return found * len(y) / (len(sizes) * sizes[label])
    if metric in BY_LABEL and kind != "labels":
        return found.mean() + (found - found.mean()) * _longer(y, np.arange(len(y)) if pictures is None else pictures)
    return found if metric in HIGHER_IS_BETTER else -found


def _longer(y: np.ndarray, pictures: np.ndarray) -> float:
    """By how much deviations of linearised scores are too short for flips of signs, which know no degrees of freedom.

    Those of a label add up to 0, so that n pictures of it have n - 1 degrees: sqrt(n / (n - 1)) x t / z.
    """
    n = max(2, min(len(np.unique(pictures[y == label])) for label in np.unique(y)))
    return float(np.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.975) / ndtri(0.975))


def standard_errors(scores: np.ndarray, draws: Resamples) -> np.ndarray:
    """Cluster standard errors of all differences between the means of scores [L, N]: [L, L], 0 on the diagonal.

    The linearised ratio: with d_g the sum of a difference over picture g and n_g its rows, the variance of the mean is
    G / (G - 1) x sum of (d_g - n_g x mean)^2 / N^2.
    """
    n = picture_sums(draws.member, draws.size, np.ones(scores.shape[1]))
    residual = picture_sums(draws.member, draws.size, scores.T) - n[:, None] * scores.mean(axis=1)
    covariance = residual.T @ residual * (draws.size / (draws.size - 1) / scores.shape[1] ** 2)
    own = np.diag(covariance)
    variance = own[:, None] + own - 2 * covariance
    variance[variance < 1e-12 * (own[:, None] + own)] = 0  # what is left of two equal layers after cancellation
    return np.sqrt(variance)


def sign_flip(sums: np.ndarray, permutations: int = 9999, seed: int = 0) -> tuple[float, float]:
    """Differences summed by picture [G] -> p two-sided and p for a positive mean.

    Under the null of two exchangeable layers each picture's difference has either sign with equal chance. Exact by
    enumeration for at most 12 pictures that are not 0; otherwise p = (1 + #{as extreme}) / (B + 1).
    """
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0, 1.0
    observed, tie = sums.sum(), TIE * np.abs(sums).sum()
    flipped = np.concatenate(list(_flipped(sums, permutations, seed)))
    two, one = (np.abs(flipped) >= abs(observed) - tie).sum(), (flipped >= observed - tie).sum()
    extra = 0 if len(sums) <= EXACT else 1
    return float((two + extra) / (len(flipped) + extra)), float((one + extra) / (len(flipped) + extra))


def _flipped(sums: np.ndarray, permutations: int, seed: int) -> Iterator[np.ndarray]:
    if len(sums) <= EXACT:
        patterns = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1
        yield (2 * patterns - 1) @ sums
        return
    rng = np.random.default_rng(seed)
    for start in range(0, permutations, STEP):
        signs = rng.integers(0, 2, (min(STEP, permutations - start), len(sums)), dtype=np.int8)
        yield 2 * (signs.astype(np.float64) @ sums) - sums.sum()


def check_scores(scores: np.ndarray, draws: Resamples) -> np.ndarray:
    """Scores [L, N] as float64. Raises ProbeError unless N is the rows of `draws` and all are finite."""
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or scores.shape[1] != len(draws.member):
        raise ProbeError(f"scores of shape {scores.shape} must be [layers, {len(draws.member)}], the rows of the draws")
    bad = int((~np.isfinite(scores)).sum())
    if bad:
        raise ProbeError(f"{bad} of {scores.size} scores are not finite; layers cannot be compared")
    return scores
