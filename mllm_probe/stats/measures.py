"""How good predictions are, of one set of rows or of many resamples at once. Knows kinds of target, not pictures.

Kinds of target, with N rows, C classes, L labels a row and R resamples:

    binary   logits [N], y [N] of 0 and 1
    classes  logits [N, C], y [N] of 0 .. C-1
    labels   logits [N, L], y [N, L] of 0 and 1, mask [N, L] bool; scored as binary over the unmasked cells (micro)
    number   predictions [N], y [N] float

What each row adds to a measure are the linearised scores that it is compared, resampled and tested by. A measure is a
function of the weights of rows. Its derivative by the weight of one row (the infinitesimal jackknife, Efron 1982) turns
it into a mean of one number a row, with the same standard error to first order; rows of one picture are added up
afterwards, as Obuchowski 1997 does it for AUROC. Letters: N rows, C classes, M scored items.
"""

from collections.abc import Mapping

import numpy as np
from scipy.special import log_softmax

from mllm_probe.errors import ProbeError, choices
from mllm_probe.stats import rank_measures as ranks
from mllm_probe.stats.sums import MEANS, SUMS, combine, gradient, mean_where_defined, terms

_TWO_WAY = ("accuracy", "balanced_accuracy", "auroc", "average_precision", "nll", "ece", "f1")
METRICS: Mapping[str, tuple[str, ...]] = {
    "binary": _TWO_WAY,
    "classes": ("accuracy", "balanced_accuracy", "auroc", "nll", "ece", "f1"),
    "labels": _TWO_WAY,
    "number": ("r2", "mae", "spearman"),
}
HIGHER_IS_BETTER = frozenset({"accuracy", "balanced_accuracy", "auroc", "average_precision", "f1", "r2", "spearman"})


def measure(
    metric: str,
    logits: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray | None = None,
    kind: str = "binary",
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Values [R] float64 under weights [R, N] (how often a row counts in each resample); R = 1 without weights.

    accuracy: a tie of the largest logits counts its share, so a binary logit of exactly 0 is half right.
    balanced_accuracy: mean recall of the classes present. auroc: ties half; for classes one against the rest by
    log-probability, mean over the classes present. average_precision: as scikit-learn. nll: nats. ece: expected
    calibration error, 15 equal-width bins of the confidence in the predicted class (Guo et al. 2017, eq. 3).
    f1: of label 1; for classes the mean over classes that are present or predicted. spearman: mean ranks.
    The value is nan where it is undefined: an empty resample; balanced_accuracy, auroc and average_precision with
    one class only (also of the full sample); f1 with neither a positive nor a predicted one; r2 and spearman of
    constant y. Raises ProbeError for what `rows_of` names and for weights of a wrong shape or sign.
    """
    rows = len(y)
    logits, y, row = rows_of(metric, logits, y, kind, mask)
    w = np.ones((1, len(y))) if weights is None else _weights(weights, rows)[:, row]
    flat = "binary" if kind == "labels" else kind
    if metric in SUMS:
        return combine(metric, w @ terms(metric, flat, logits, y))
    if metric == "spearman":
        return ranks.spearman(logits, y, w)
    rank = ranks.auroc if metric == "auroc" else ranks.average_precision
    if flat == "binary":
        return rank(logits, y, w)
    return over_classes(np.stack([rank(column, y == k, w) for k, column in enumerate(log_softmax(logits, axis=1).T)]))


def weighed_alike(logits: np.ndarray, log_shares: np.ndarray, kind: str) -> np.ndarray:
    """Logits as balanced accuracy reads them: less the log shares [C] of the labels that a probe was trained on.

    Log-odds carry how common the labels were in training, so that where one is rare no row is ever said to have it. A
    measure that weighs labels alike takes the label whose probability lies highest above its share, which is Bayes'
    rule for equal shares. logits: [N] or [N, C]; a logit of exactly 0, an undecided row, stays one.
    """
    if kind == "binary":
        return logits - np.where(logits == 0, 0, log_shares[1] - log_shares[0])
    return logits - log_shares


def over_classes(values: np.ndarray) -> np.ndarray:
    """One-against-rest values [C, R] -> their mean over the classes present [R]; nan where only one is."""
    return mean_where_defined(values.T, least=2)


def rows_of(
    metric: str, logits: np.ndarray, y: np.ndarray, kind: str, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Checked logits [M] or [M, C], y [M] and the row [M] that each scored item comes from; M = N but for labels.

    Raises ProbeError: unknown kind or metric, shapes that do not fit, no rows, labels out of range, values not finite.
    """
    if kind not in METRICS:
        raise ProbeError(f"kind of target '{kind}' is unknown; {choices(kind, METRICS)}")
    if metric not in METRICS[kind]:
        raise ProbeError(f"metric '{metric}' is not measured on {kind} targets; {choices(metric, METRICS[kind])}")
    logits, y = np.asarray(logits, np.float64), np.asarray(y)
    _fit_together(logits, y, kind, mask)
    row = np.arange(len(y))
    if kind == "labels" and mask is not None:
        row, logits, y = np.nonzero(mask)[0], logits[mask], y[mask]
    if not len(y):
        raise ProbeError("there are no rows to measure; at least one is needed")
    for name, values in (("logits", logits), ("labels", y)):
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise ProbeError(f"{bad} of {values.size} {name} are not finite; {metric} needs numbers")
    top = logits.shape[1] - 1 if kind == "classes" else 1
    if kind != "number" and not (fits := (y >= 0) & (y <= top) & (y == np.floor(y))).all():
        wrong = y[~fits]
        raise ProbeError(
            f"{len(wrong)} labels such as {wrong[0]} are no label of a {kind} target; allowed are 0 to {top}"
        )
    return logits, y, row


def _fit_together(logits: np.ndarray, y: np.ndarray, kind: str, mask: np.ndarray | None) -> None:
    wide = 2 if kind in ("classes", "labels") else 1
    shape = logits.shape if kind == "labels" else logits.shape[:1]
    if logits.ndim != wide or y.shape != shape:
        raise ProbeError(f"{kind} logits of shape {logits.shape} do not fit labels of shape {y.shape}")
    if kind == "labels" and (mask is None or mask.shape != y.shape or mask.dtype != bool):
        seen = "none" if mask is None else f"{mask.dtype} {mask.shape}"
        raise ProbeError(f"labels of shape {y.shape} need a bool mask of that shape, which is {seen}")
    if kind == "classes" and logits.shape[1] < 2:
        raise ProbeError(f"classes need at least 2 columns of logits, not {logits.shape[1]}")


def _weights(weights: np.ndarray, rows: int) -> np.ndarray:
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 2 or weights.shape[1] != rows or not (weights >= 0).all():
        raise ProbeError(f"weights of shape {weights.shape} must be [R, {rows}] and hold no number below 0")
    return weights


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
        return rank(ranks.Blocks.of(logits, y))
    columns = log_softmax(logits, axis=1)
    values, slopes = zip(*(rank(ranks.Blocks.of(columns[:, k], y == k)) for k in np.unique(y)), strict=True)
    return float(np.mean(values)), np.mean(slopes, axis=0)
