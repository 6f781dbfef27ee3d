"""What a measure would be if the test labels were others: the statistic of the test against chance.

Accuracy, balanced accuracy, AUROC and log loss are means over rows of something that depends on the row's own label
alone, so a table of it serves every permutation of the labels. Average precision is not, and is counted anew. Knows
neither layers nor pictures. Letters: K curves, S seeds, N rows, C classes, b permutations.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from mllm_probe.stats.permutation import votes


@dataclass(frozen=True)
class Precision:
    """Average precision of logits [K, S, N] under other labels; the mean over seeds."""

    logits: np.ndarray

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Labels [b, N] of 0 and 1 -> [b, K]."""
        found = [np.mean([_precision(z, labels) for z in seeds], axis=0) for seeds in self.logits]
        return np.stack(found, axis=1)


def _precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Recall gained x precision over the blocks of equal scores, from the highest down (as in scikit-learn): [b]."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(-scores[order], prepend=-np.inf))
    positive = np.add.reduceat(labels[:, order].astype(np.float64), starts, axis=1)
    seen = np.append(starts[1:], len(scores))
    found = np.cumsum(positive, axis=1)
    return (positive * found / seen).sum(axis=1) / found[:, -1]


def statistic(metric: str, logits: np.ndarray, y: np.ndarray, kind: str) -> np.ndarray | Precision:
    """Logits [K, S, N] or [K, S, N, C] and labels [N] -> the first argument of `max_t` for that measure.

    A table [K, N, C]: what a row adds to the mean if its label is c (nll with a minus sign: more is better); for
    numbers the mean prediction [K, N], since R squared and the correlation order permutations alike. Permutations keep
    the number of rows of each class, which the tables of balanced accuracy and AUROC rest on.
    """
    logits = logits.astype(np.float64)
    if kind == "number" or metric == "accuracy":
        return votes(logits, kind)
    if metric == "average_precision":
        return Precision(logits)
    if metric == "nll":
        return log_softmax(_columns(logits, kind), axis=-1).mean(axis=1)
    found = votes(logits, kind) if metric == "balanced_accuracy" else _ranks(logits, kind)
    sizes = np.bincount(y, minlength=found.shape[2])
    present = sizes > 0
    others = 1 if metric == "balanced_accuracy" else np.maximum(len(y) - sizes, 1)
    if metric == "auroc":
        found = found - (sizes + 1) / 2
    return found * np.where(present, len(y) / np.maximum(sizes * others * present.sum(), 1), 0)


def _columns(logits: np.ndarray, kind: str) -> np.ndarray:
    """One logit a class [K, S, N, C]."""
    return np.stack([np.zeros_like(logits), logits], axis=-1) if kind == "binary" else logits


def _ranks(logits: np.ndarray, kind: str) -> np.ndarray:
    """Mean rank of each row by each class, the mean over seeds [K, N, C]."""
    from scipy.stats import rankdata  # a second, for runs that compare layers by AUROC

    by = np.stack([-logits, logits], axis=-1) if kind == "binary" else log_softmax(logits, axis=-1)
    return rankdata(by, axis=2).mean(axis=1)
