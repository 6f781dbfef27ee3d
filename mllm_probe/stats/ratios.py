"""The ratio of two means over the same pictures, with an interval that stays honest where the lower mean is small.

Fieller 1954: the ratio may be every rho for which mean(above - rho x below) is not told apart from 0. Knows sums by
picture. Letters: G pictures.
"""

import numpy as np
from scipy.special import stdtr, stdtrit

from mllm_probe.stats.bootstrap import check_level
from mllm_probe.stats.intervals import degrees


def fieller(above: np.ndarray, below: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Sums by picture [.., G] -> both ends [..] of sum(above) / sum(below); nan where no interval is bounded.

    The roots of (a - rho b)^2 = t^2 (s_aa - 2 rho s_ab + rho^2 s_bb) / G in rho, a and b the means over pictures, s
    their covariances with G - 1; t of Student with the degrees that few pictures leave (`intervals.degrees` of the
    residuals above - ratio x below). They bound the interval where b itself is told apart from 0; elsewhere the set of
    ratios is all numbers, or all but some. Where no picture leaves a residual the spread of others is unknown: nan.
    """
    check_level(level)
    pictures = above.shape[-1]
    a, b = above.mean(axis=-1), below.mean(axis=-1)
    left, lower = above - a[..., None], below - b[..., None]
    saa, sab, sbb = ((one * other).sum(axis=-1) for one, other in ((left, left), (left, lower), (lower, lower)))
    t = stdtrit(degrees(_parts(left, lower, a, b), pictures), (1 + level) / 2)
    f = t**2 / (pictures * (pictures - 1))
    square, middle, rest = b**2 - f * sbb, a * b - f * sab, a**2 - f * saa
    inside = middle**2 - square * rest
    bounded = (square > 0) & (inside > 0)
    root, square = np.sqrt(np.where(bounded, inside, np.nan)), np.where(bounded, square, np.nan)
    return (middle - root) / square, (middle + root) / square


def below_bound(above: np.ndarray, below: np.ndarray, bound: float) -> np.ndarray:
    """Sums by picture [.., G], of `below` with a mean above 0 -> one-sided p [..] that their ratio is `bound` or more.

    By Student's t of the mean of above - bound x below, with the degrees of `fieller`: where the upper end of its
    interval is the bound, p is half of what the level leaves. nan where no picture differs from another.
    """
    pictures = above.shape[-1]
    a, b = above.mean(axis=-1), below.mean(axis=-1)
    df = degrees(_parts(above - a[..., None], below - b[..., None], a, b), pictures)
    error = (above - bound * below).std(axis=-1, ddof=1) / np.sqrt(pictures)
    found: np.ndarray = stdtr(df, np.divide(a - bound * b, error, out=np.full_like(a, np.nan), where=error > 0))
    return found


def _parts(left: np.ndarray, lower: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many pictures make up the variance of the residuals, as in `intervals.moments`; 0 where there are none."""
    ratio = np.divide(a, b, out=np.zeros_like(a), where=b != 0)
    squared = (left - ratio[..., None] * lower) ** 2
    fourth = (squared**2).sum(axis=-1)
    return np.divide(squared.sum(axis=-1) ** 2, fourth, out=np.zeros_like(fourth), where=fourth > 0)
