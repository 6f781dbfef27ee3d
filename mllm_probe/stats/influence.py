"""What each row adds to a measure: the linearised scores that any measure is compared, resampled and tested by.

A measure is a function of the weights of rows. Its derivative by the weight of one row (the infinitesimal jackknife,
Efron 1982) turns it into a mean of one number a row, with the same standard error to first order; rows of one picture
are added up afterwards, as Obuchowski 1997 does it for AUROC. Letters: N rows, C classes, M scored items.
"""

import numpy as np
from scipy.special import log_softmax

from mllm_probe.errors import ProbeError
from mllm_probe.stats import rank_measures as ranks
from mllm_probe.stats.measures import rows_of
from mllm_probe.stats.sums import MEANS, SUMS, combine, gradient, terms


def linearised(
    metric: str, logits: np.ndarray, y: np.ndarray, kind: str = "binary", mask: np.ndarray | None = None
) -> np.ndarray:
    """Scores [N] with u_i = value + N x d value / d weight_i, so that their mean is the value of `measures.measure`.

    Arguments as in `measure`. Raises ProbeError as it does, and for spearman, which has no such derivative here.
    """
    if metric == "spearman":
        raise ProbeError("spearman has no scores by row; use r2 to compare predicted numbers row by row")
    rows = len(y)
    logits, y, row = rows_of(metric, logits, y, kind, mask)
    if metric in SUMS:
        each = terms(metric, "binary" if kind == "labels" else kind, logits, y)
        if metric in MEANS and kind != "labels":
            return each[:, 0]  # the same, without rounding
        value, slope = float(combine(metric, each.sum(axis=0))), each @ gradient(metric, each.sum(axis=0))
    else:
        value, slope = _ranked(metric, logits, y)
    return value + rows * np.bincount(row, slope, minlength=rows)


def _ranked(metric: str, logits: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and slopes [M] of a measure of order; for classes the mean over the classes present, one against the
    rest."""
    rank = ranks.auroc_slopes if metric == "auroc" else ranks.average_precision_slopes
    if logits.ndim == 1:
        return rank(logits, y)
    columns = log_softmax(logits, axis=1)
    values, slopes = zip(*(rank(columns[:, k], y == k) for k in np.unique(y)), strict=True)
    return float(np.mean(values)), np.mean(slopes, axis=0)
