"""Measures that are functions of sums over rows: one matrix product gives them for every resample at once.

Each measure has two halves: `terms` (what a row adds) and `combine` (what the sums mean), and `gradient`, the slope of
the second. The sums may be weighted by row or, after adding up rows, by picture; this file does not know which.
Letters: N rows, C classes, k terms.
A binary target is the two-class case with logits (0, z), so a logit of exactly 0 is half an answer for either class.
"""

import numpy as np
from scipy.special import log_softmax

BINS = 15  # equal-width bins of the calibration error, as in Guo et al. 2017
SUMS = frozenset({"accuracy", "balanced_accuracy", "nll", "ece", "f1", "r2", "mae"})
MEANS = frozenset({"accuracy", "nll", "mae"})  # of one number a row


def terms(metric: str, kind: str, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Logits [N] or [N, C], y [N] -> what every row adds: [N, k] float64."""
    if kind == "number":
        return _number_terms(metric, logits, y)
    if kind == "binary":
        return _binary_terms(metric, logits, y)
    z = logits
    answer = z == z.max(axis=1, keepdims=True)
    answer = answer / answer.sum(axis=1, keepdims=True)
    truth = np.arange(z.shape[1]) == y[:, None]
    right, one = (answer * truth).sum(axis=1), np.ones(len(y))
    if metric == "accuracy":
        return np.column_stack([right, one])
    if metric == "balanced_accuracy":
        return np.column_stack([answer * truth, truth])
    if metric == "f1":
        return np.column_stack([2 * answer * truth, answer + truth])
    log_p = log_softmax(z, axis=1)
    if metric == "nll":
        return np.column_stack([-log_p[truth], one])
    return _gaps(np.exp(log_p.max(axis=1)), right)


def _binary_terms(metric: str, logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The same of the logits (0, z), column by column, which is several times as fast."""
    yes, truth, one = (logits > 0) + (logits == 0) / 2, y > 0, np.ones(len(y))
    right = np.where(truth, yes, 1 - yes)
    if metric == "accuracy":
        return np.column_stack([right, one])
    if metric == "balanced_accuracy":
        return np.column_stack([right * ~truth, right * truth, ~truth, truth])
    if metric == "f1":  # that of label 1, not the mean over both
        return np.column_stack([2 * right * truth, yes + truth])
    largest = np.maximum(logits, 0)
    no, yes = 0 - largest, logits - largest
    total = np.log(np.exp(no) + np.exp(yes))
    no, yes = no - total, yes - total
    if metric == "nll":
        return np.column_stack([-np.where(truth, yes, no), one])
    return _gaps(np.exp(np.maximum(no, yes)), right)


def _gaps(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """What each row adds to the gap of its own bin, and 1."""
    one = np.ones(len(right))
    own_bin = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1)  # bins are open on the left: ((m-1)/M, m/M]
    return np.column_stack([(own_bin[:, None] == np.arange(BINS)) * (right - confidence)[:, None], one])


def _number_terms(metric: str, predicted: np.ndarray, y: np.ndarray) -> np.ndarray:
    one, centred = np.ones(len(y)), y - y.mean()  # centred, or the sum of squares would cancel for y far from 0
    if metric == "mae":
        return np.column_stack([np.abs(y - predicted), one])
    return np.column_stack([(y - predicted) ** 2, centred, centred**2, one])


def combine(metric: str, sums: np.ndarray) -> np.ndarray:
    """Sums of terms [..., k] -> values [...]; nan where the measure is undefined."""
    if metric in MEANS:
        return ratio(sums[..., 0], sums[..., 1])
    if metric == "ece":
        return ratio(np.abs(sums[..., :-1]).sum(axis=-1), sums[..., -1])
    if metric == "r2":
        total = sums[..., 2] - sums[..., 1] ** 2 * ratio(1.0, sums[..., 3])
        return 1 - ratio(sums[..., 0], np.where(total > 1e-12 * sums[..., 2], total, 0))
    half = sums.shape[-1] // 2
    least = 2 if metric == "balanced_accuracy" else 1
    return mean_where_defined(ratio(sums[..., :half], sums[..., half:]), least)


def gradient(metric: str, sums: np.ndarray) -> np.ndarray:
    """Slopes of `combine` by each sum: [k] -> [k]; nan where the measure is undefined.

    At a kink of ece (a bin without a gap) 0, which is between the slopes of both sides.
    """
    value, last = combine(metric, sums), sums[-1]
    if np.isnan(value):
        return np.full(len(sums), np.nan)
    if metric in MEANS:
        return np.array([1, -value]) / last
    if metric == "ece":
        return np.append(np.sign(sums[:-1]), -value) / last
    if metric == "r2":  # the labels are centred, so their sum is 0 and has no slope
        return np.array([-1, 0, 1 - value, 0]) / sums[2]
    above, below = np.split(sums, 2)
    each = ratio(1.0, below)
    return np.nan_to_num(np.concatenate([each, -above * each**2])) / (below > 0).sum()


def ratio(above: np.ndarray | float, below: np.ndarray) -> np.ndarray:
    """above / below, nan where below is 0."""
    shape = np.broadcast_shapes(np.shape(above), below.shape)
    return np.divide(above, below, out=np.full(shape, np.nan), where=np.broadcast_to(below > 0, shape))


def mean_where_defined(values: np.ndarray, least: int) -> np.ndarray:
    """Mean over the last axis without nan; nan where fewer than `least` entries are left."""
    known = ~np.isnan(values)
    count = known.sum(axis=-1)
    return ratio(np.where(known, values, 0).sum(axis=-1), np.where(count >= least, count, 0))
