"""Accuracy and AUROC, of one set of rows or of many resamples at once. Letters: N rows, R resamples."""

import numpy as np

METRICS = ("accuracy", "auroc")


def measure(metric: str, logits: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Logits [N], labels [N] of 0 and 1, and for resamples integer weights [R, N] -> values [R] (R = 1 without).

    AUROC counts ties as one half (the Mann-Whitney statistic) and is nan where a resample holds one class only.
    A logit of exactly 0 counts as half right.
    """
    w = np.ones((1, len(y))) if weights is None else weights
    if metric == "accuracy":
        right = np.where(logits == 0, 0.5, (logits > 0) == (y > 0))
        return (w @ right) / w.sum(axis=1)
    if metric == "auroc":
        return _auroc(logits, y, w)
    raise ValueError(f"metric {metric} is unknown; one of {METRICS}")


def _auroc(logits: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Weight of pairs ordered rightly over weight of all pairs; tied logits are summed into one block first."""
    order = np.argsort(logits, kind="stable")
    starts = np.flatnonzero(np.diff(logits[order], prepend=-np.inf))
    positive, negative = (np.add.reduceat(w[:, order] * side[order], starts, axis=1) for side in (y > 0, y <= 0))
    below = np.cumsum(negative, axis=1) - negative
    right = (positive * (below + negative / 2)).sum(axis=1)
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return np.divide(right, pairs, out=np.full(len(w), np.nan), where=pairs > 0)
