"""Intervals of measures over pictures that hold with few of them and near 0 and 1.

A share is judged by as many independent decisions as would give it the variance that pictures show (the effective
number of Korn and Graubard 1998), with the exact interval of Clopper and Pearson 1934. What has no bounds gets
Student's t. `share_limits` and `gap_limits` take sums by picture, many samples at once; the others take rows.
Letters: S seeds, N rows, G pictures, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit

from mllm_probe.errors import ProbeError, count
from mllm_probe.stats.bootstrap import Resamples, check_level, interval, picture_sums
from mllm_probe.stats.measures import linearised, measure, rows_of
from mllm_probe.stats.sums import combine, terms

LEAST = 8  # pictures of each label from which measures that weigh labels have an interval
# this share of the pictures, or 10, must hold an error; a decision that one side alone has right; a disagreement
SHOWN, ALONE_RIGHT, DISAGREE, ENOUGH = 0.4, 0.3, 0.2, 10
ALONE = 5  # where fewer pictures make up a variance, it is not known
TIE = 1e-9
BY_LABEL = frozenset({"balanced_accuracy", "auroc", "average_precision", "f1"})
LOSSES = frozenset({"nll", "mae", "r2"})
DRAWN = frozenset({"ece", "spearman"})


@dataclass(frozen=True)
class Interval:
    """Both ends, or nan and the reason why there are none."""

    low: float
    high: float
    reason: str = ""


ALIKE = Interval(np.nan, np.nan, "all test pictures give the same value, so the spread of others is unknown")


def of(
    metric: str,
    logits: np.ndarray,
    y: np.ndarray,
    pictures: Resamples,
    kind: str = "binary",
    level: float = 0.95,
    mask: np.ndarray | None = None,
) -> Interval:
    """The interval of a measure averaged over seeds: logits [S, N] or [S, N, C], y and mask as in `measure`.

    Accuracy by `share_limits`; balanced accuracy by those of the recalls, joined; AUROC, average precision and F1 exact
    on the effective number, with the degrees of the rarest label's pictures; nll, mae and r2 by Student's t on the
    logarithm of the loss (1 - r2); ece and spearman by percentiles of the draws. Raises ProbeError as `measure`.
    """
    if metric in DRAWN:
        return _of_draws(metric, logits, y, pictures, kind, level, mask)
    if metric in LOSSES:
        sums = [_terms(metric, one, y, pictures, kind, mask) for one in logits]
        return _of_loss(metric, np.mean(sums, axis=0), level, pictures.called)
    recalls = metric == "balanced_accuracy" and kind != "labels"
    rows = np.mean([linearised("accuracy" if recalls else metric, one, y, kind, mask) for one in logits], axis=0)
    if metric not in BY_LABEL:
        return of_rows(rows, pictures, level, share=True)
    _, labels, row = rows_of(metric, logits[0], y, kind, mask)
    held = [len(np.unique(pictures.member[row[labels == label]])) for label in np.unique(labels)]
    least = min(held) if len(held) > 1 else 0
    if least < LEAST:
        said = f"a label is in {count(least, f'test {pictures.called}')}; {metric} needs {LEAST} for an interval"
        return Interval(np.nan, np.nan, said.replace("_", " "))
    return _of_recalls(rows, y, pictures, level) if recalls else of_rows(rows, pictures, level, True, least)


def of_rows(
    rows: np.ndarray, pictures: Resamples, level: float = 0.95, share: bool = False, least: int | None = None
) -> Interval:
    """The interval of the mean of rows [N]: scores, or linearised scores of a measure; nan where one is nan.

    share: the mean lies within 0 and 1. Rows that do so too are decisions, or means of some, and taken by
    `share_limits`. Others are linearised: the effective number follows from their variance, its degrees from `least`,
    the pictures of the rarest label (all, if not given), and few pictures that make up the variance count as `least`.
    Without share: Student's t.
    """
    sums, sizes = _by_picture(rows, pictures)
    if np.isnan(sums).any():
        return Interval(np.nan, np.nan, "the measure is undefined on the test rows")
    if not share:
        return _of_mean(sums, sizes, level)
    if rows.min() >= 0 and rows.max() <= 1:
        return _between(*share_limits(sums, sizes, level))
    value, variance, parts = moments(sums, sizes)
    df = (least or pictures.size) - 1
    most = df + 1 if parts < ALONE else sizes.sum()
    n = _effective(value, variance, df, level, most)
    return _between(*_exact(np.clip(value, 0, 1), n, level))


def of_drawn_share(
    value: float, drawn: np.ndarray, pictures: int, decisions: float, most: float | None, level: float = 0.95
) -> Interval:
    """The interval of a share of decisions that belong to several pictures each: exact on the effective number that the
    variance of its draws [R] gives, with G - 1 degrees, and at most `most` where too few pictures show a variance."""
    if pictures < 2:
        raise ProbeError(f"draws of {pictures} picture(s) are too few to judge other pictures; 2 or more are needed")
    known = drawn[~np.isnan(drawn)]
    variance = known.var() if len(known) else 0.0
    share = np.asarray(value)
    n = _effective(share, np.asarray(variance), pictures - 1, level, decisions)
    return _between(*_exact(share, np.minimum(n, most or n), level))


def of_difference(a: np.ndarray, b: np.ndarray, pictures: Resamples, level: float = 0.95) -> Interval:
    """The interval of mean(a) - mean(b), scores [N] of the same rows: `gap_limits` for shares of right answers (scores
    within 0 and 1), Student's t for others."""
    gap = a - b
    if min(a.min(), b.min()) < 0 or max(a.max(), b.max()) > 1 or np.isnan(gap).any():
        return of_rows(gap, pictures, level)
    (plus, sizes), (minus, _) = (_by_picture(np.maximum(one, 0), pictures) for one in (gap, -gap))
    return _between(*gap_limits(plus, minus, sizes, level))


def p_above(between: Callable[[float], Interval], value: float) -> float | None:
    """One-sided p of "the truth is not above 0": the least tail whose interval `between(level)` lies above 0.

    1 where the value does not lie above 0, None where it has no interval; found to 1 % of p, and at least 1e-8.
    """
    if np.isnan(between(0.95).low):
        return None
    if value <= 0:
        return 1.0
    low, high = np.log(1e-8), np.log(0.5)
    while high - low > 0.01:
        middle = (low + high) / 2
        low, high = (low, middle) if between(1 - 2 * np.exp(middle)).low > 0 else (middle, high)
    return float(np.exp(high))


def share_limits(sums: np.ndarray, sizes: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Right decisions by picture [.., G], of sizes [G] decisions -> both ends of the share's interval [..].

    n = p (1 - p) / variance x (z / t with G - 1 degrees)^2, within 1 and N decisions; where fewer than 4 in 10
    pictures, and fewer than 10, hold an error (or a success), at most G. Means over seeds are fractional counts.
    """
    value, n = _decisions(sums, sizes, level, SHOWN, np.shape(sums)[-1])
    return _exact(value, n, level)


def gap_limits(
    plus: np.ndarray, minus: np.ndarray, sizes: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Decisions that only one of two has right, and only the other, by picture [.., G] -> both ends of the difference.

    Two shares as in `share_limits`, but where few pictures (3 in 10) hold one of them its number is at most that of all
    disagreements, and at most G where few (2 in 10) hold these; joined by the method of variance estimates recovery
    (Zou and Donner 2008) with their correlation over pictures. Nobody disagrees: the ends are those of 0 of G.
    """
    _, most = _decisions(plus + minus, sizes, level, DISAGREE, plus.shape[-1])
    both = [_decisions(side, sizes, level, ALONE_RIGHT, most) for side in (plus, minus)]
    value = np.stack([both[0][0], both[1][0]], axis=-1)
    low, high = (np.stack(ends, axis=-1) for ends in zip(*(_exact(*side, level) for side in both), strict=True))
    residual = np.stack([plus, minus], axis=-2) - value[..., None] * sizes
    return _joined(np.array([1.0, -1.0]), value, low, high, residual)


def _of_recalls(right: np.ndarray, y: np.ndarray, pictures: Resamples, level: float) -> Interval:
    """Right [N] -> the interval of the mean of the recalls of the classes present, each over its own pictures."""
    found = []
    for label in np.unique(y):
        sums, sizes = _by_picture(right * (y == label), pictures)[0], _by_picture(1.0 * (y == label), pictures)[0]
        value, own = sums.sum() / sizes.sum(), sizes > 0
        found.append((value, *share_limits(sums[own], sizes[own], level), sums - value * sizes))
    value, low, high, residual = (np.stack(part) for part in zip(*found, strict=True))
    return _between(*_joined(np.full(len(found), 1 / len(found)), value, low, high, residual))


def _between(low: np.ndarray, high: np.ndarray) -> Interval:
    return Interval(float(low), float(high))


def _joined(
    weights: np.ndarray, value: np.ndarray, low: np.ndarray, high: np.ndarray, residual: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Interval of the weighted sum of values [.., k] with their own ends, correlated as residuals [.., k, G] are."""
    length = np.linalg.norm(residual, axis=-1, keepdims=True)
    unit = residual / np.where(length > TIE, length, np.inf)
    r = unit @ np.swapaxes(unit, -1, -2)
    r[..., range(len(weights)), range(len(weights))] = 1
    below, above = value - low, high - value
    down, up = np.where(weights > 0, below, above) * weights, np.where(weights > 0, above, below) * weights
    middle, squared = value @ weights, [np.einsum("...i,...ij,...j", arm, r, arm) for arm in (down, up)]
    return middle - np.sqrt(np.maximum(squared[0], 0)), middle + np.sqrt(np.maximum(squared[1], 0))


def _decisions(
    sums: np.ndarray, sizes: np.ndarray, level: float, shown: float, most: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """Share and effective number [..] of sums by picture [.., G]: at most `most` where few hold a kind of decision."""
    pictures = sums.shape[-1]
    value, variance, _ = moments(sums, sizes)
    n = _effective(value, variance, pictures - 1, level, sizes.sum())
    held = np.minimum((sums < sizes - TIE).sum(axis=-1), (sums > TIE).sum(axis=-1))
    return value, np.where(held < min(ENOUGH, shown * pictures), np.minimum(n, most), n)


def moments(sums: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [..] of sums by picture [.., G] of sizes [G] rows, its linearised variance, and how many pictures make this
    up: (sum r^2)^2 / sum r^4 of the residuals, k where k pictures alone deviate, G / 3 where all do normally."""
    pictures, rows = sums.shape[-1], sizes.sum()
    value = sums.sum(axis=-1) / rows
    squared = (sums - value[..., None] * sizes) ** 2
    total, fourth = squared.sum(axis=-1), (squared**2).sum(axis=-1)
    known = total > TIE**2 * np.maximum((sums**2).sum(axis=-1), 1)
    parts = np.divide(total**2, fourth, out=np.zeros_like(total), where=known & (fourth > 0))
    return value, np.where(known, total, 0) * pictures / (pictures - 1) / rows**2, parts


def degrees(parts: np.ndarray, pictures: int) -> np.ndarray:
    """Degrees of freedom [..] of a variance that so many `parts` (of `moments`) make up: 2 G / (kurtosis - 1), which is
    2 for one picture alone, and at most G - 1."""
    return np.clip(2 * pictures / np.maximum(pictures / np.maximum(parts, 0.5) - 1, TIE), 1, pictures - 1)


def _effective(value: np.ndarray, variance: np.ndarray, df: int, level: float, most: float) -> np.ndarray:
    """Independent decisions that give a share this variance, fewer by (z / t)^2 as the variance is an estimate."""
    shrink = (ndtri((1 + level) / 2) / stdtrit(df, (1 + level) / 2)) ** 2
    variance = np.asarray(variance)
    n = np.divide(value * (1 - value), variance, out=np.full(variance.shape, np.inf), where=variance > 0)
    return np.clip(n * shrink, 1, most)


def _exact(value: np.ndarray, n: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Clopper and Pearson's ends for value x n right of n decisions, both of which may be fractions."""
    check_level(level)
    tail, k = (1 - level) / 2, value * n
    low, high = betaincinv(k, n - k + 1, tail), betaincinv(k + 1, n - k, 1 - tail)
    return np.where(value > TIE, low, 0.0), np.where(value < 1 - TIE, high, 1.0)


def _of_mean(sums: np.ndarray, sizes: np.ndarray, level: float) -> Interval:
    """Student's t, with the degrees that few pictures leave."""
    check_level(level)
    value, variance, parts = moments(sums, sizes)
    if not variance:
        return ALIKE
    arm = stdtrit(degrees(parts, len(sums)), (1 + level) / 2) * np.sqrt(variance)
    return Interval(float(value - arm), float(value + arm))


def _terms(
    metric: str, logits: np.ndarray, y: np.ndarray, pictures: Resamples, kind: str, mask: np.ndarray | None
) -> np.ndarray:
    """What the rows of each picture add to a measure of `sums`: [G, k]."""
    if len(y) != len(pictures.member):
        raise ProbeError(f"{len(y)} labels must be {len(pictures.member)}, the rows of the pictures")
    logits, y, row = rows_of(metric, logits, y, kind, mask)
    each = terms(metric, "binary" if kind == "labels" else kind, logits, y)
    return picture_sums(pictures.member[row], pictures.size, each)


def _of_loss(metric: str, sums: np.ndarray, level: float, called: str) -> Interval:
    """Student's t on the logarithm of a loss above 0 (of 1 - r2), as losses have a long tail upwards; sums [G, k].
    The variance is that of leaving out one picture at a time (Efron and Stein 1981), as one moves both sums of r2."""
    every = np.vstack([sums.sum(axis=0), sums.sum(axis=0) - sums])
    value, *without = 1 - combine(metric, every) if metric == "r2" else combine(metric, every)
    if not value > 0:
        return ALIKE if value == 0 else Interval(np.nan, np.nan, "the measure is undefined on the test rows")
    if not (np.array(without) > TIE * value).all():
        return Interval(np.nan, np.nan, f"without one test {called} nothing is left to measure")
    logs = np.log(without)
    found = _of_mean((len(sums) - 1) * (logs.mean() - logs), np.ones(len(sums)), level)
    low, high = (float(value * np.exp(end)) for end in (found.low, found.high))
    return Interval(1 - high, 1 - low, found.reason) if metric == "r2" else Interval(low, high, found.reason)


def _of_draws(
    metric: str,
    logits: np.ndarray,
    y: np.ndarray,
    pictures: Resamples,
    kind: str,
    level: float,
    mask: np.ndarray | None,
) -> Interval:
    """Percentiles of the draws, moved by as much as draws are off on average: ece is larger in them than in the sample,
    as it is larger there than in truth."""
    drawn = pictures.means(metric, logits[None], y, kind, mask)[0]
    value = np.mean([measure(metric, one, y, None, kind, mask)[0] for one in logits])
    moved = drawn - (np.nanmean(drawn) if np.isfinite(drawn).any() else 0) + value
    return _between(*interval(np.clip(moved, 0 if metric == "ece" else -1, 1), pictures.size, level))


def _by_picture(rows: np.ndarray, pictures: Resamples) -> tuple[np.ndarray, np.ndarray]:
    """Sums and numbers of rows [G]. Raises ProbeError unless rows are those of the pictures."""
    if np.shape(rows) != pictures.member.shape:
        raise ProbeError(f"scores of shape {np.shape(rows)} must be [{len(pictures.member)}], the rows of the pictures")
    ones = np.ones(len(rows))
    return tuple(picture_sums(pictures.member, pictures.size, one) for one in (np.asarray(rows, float), ones))  # type: ignore[return-value]
