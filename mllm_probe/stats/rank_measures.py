"""Measures of order, AUROC, average precision and Spearman, each from weights of rows or from counts of pictures.

`auroc`, `average_precision` and `spearman` take weights of rows [R, N] and are vectorised over the sorted rows.
`auroc_of_counts` and `average_precision_of_counts` take counts of pictures [G, R] and walk down the sorted rows,
adding one vector of R counts a step: no [R, N] array is ever built, which is several times faster for R >= 100.
Letters: N rows, R resamples, G pictures, B blocks. Tied scores form one block in all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mllm_probe.stats.sums import ratio


def auroc(scores: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Share of (positive, negative) pairs in the right order, ties half (Mann-Whitney) -> [R]; nan with one class."""
    positive, negative = _blocks(scores, y, w)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return ratio((positive * (below + negative / 2)).sum(axis=1), pairs)


def average_precision(scores: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Sum over thresholds of recall gained x precision there, as in scikit-learn -> [R]; nan with one class."""
    positive, negative = (side[:, ::-1] for side in _blocks(scores, y, w))
    found = np.cumsum(positive, axis=1)
    precision = found / np.maximum(found + np.cumsum(negative, axis=1), 1e-300)
    total = np.where(negative.sum(axis=1) > 0, found[:, -1], 0)
    return ratio((positive * precision).sum(axis=1), total)


@dataclass(frozen=True)
class Blocks:
    """Rows of one measure of order, sorted once: the positives and the negatives in each block of equal scores,
    ascending [B], and each row's block [N]."""

    y: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    block: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, y: np.ndarray) -> "Blocks":
        distinct, block = np.unique(scores, return_inverse=True)
        positive, negative = (np.bincount(block, side, len(distinct)) for side in (y > 0, y <= 0))
        return cls(y, positive, negative, block)

    @property
    def one_class(self) -> bool:
        return not self.positive.any() or not self.negative.any()


def auroc_slopes(rows: Blocks) -> tuple[float, np.ndarray]:
    """AUROC and its slope by the weight of each row [N]: that of a row's placement, its share of won pairs (DeLong et
    al. 1988); nan with one class."""
    positive, negative = rows.positive, rows.negative
    if rows.one_class:
        return np.nan, np.full(len(rows.y), np.nan)
    found, against = positive.sum(), negative.sum()
    beaten = (np.cumsum(negative) - negative / 2) / against
    beats = (found - np.cumsum(positive) + positive / 2) / found
    value = float(positive @ beaten / found)
    return value, np.where(rows.y > 0, ((beaten - value) / found)[rows.block], ((beats - value) / against)[rows.block])


def average_precision_slopes(rows: Blocks) -> tuple[float, np.ndarray]:
    """Average precision and its slope by the weight of each row [N]; nan with one class.

    A row moves the precision at every threshold that it passes, and a positive also the recall at its own.
    """
    if rows.one_class:
        return np.nan, np.full(len(rows.y), np.nan)
    positive = rows.positive[::-1]  # the highest scores are found first
    found, total = np.cumsum(positive), positive.sum()
    seen = found + np.cumsum(rows.negative[::-1])
    value = float(positive @ (found / seen) / total)
    lower = np.cumsum((positive * found / seen**2)[::-1])  # what a row more takes from its thresholds
    higher = np.cumsum((positive / seen)[::-1])
    own = higher - lower + (found / seen)[::-1] - value
    return value, np.where(rows.y > 0, own[rows.block], -lower[rows.block]) / total


def _blocks(scores: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of positives and of negatives in each block of equal scores, ascending: two [R, blocks]."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    positive, negative = (np.add.reduceat(w[:, order] * side[order], starts, axis=1) for side in (y > 0, y <= 0))
    return positive, negative


def spearman(predicted: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Pearson correlation of mean ranks, ranks taken anew in every resample -> [R]; nan where one side is constant."""
    total = w.sum(axis=1, keepdims=True)
    a, b = (_ranks(values, w) - (total + 1) / 2 for values in (predicted, y))
    ab, aa, bb = ((w * left * right).sum(axis=1) for left, right in ((a, b), (a, a), (b, b)))
    return ratio(ab, np.sqrt(aa * bb))


def _ranks(values: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Mean rank of each row in a sample where it stands w times: [R, N], 1 the lowest."""
    distinct, block = np.unique(values, return_inverse=True)
    order, starts = np.argsort(block, kind="stable"), np.arange(len(distinct))
    weight = np.add.reduceat(w[:, order], np.searchsorted(block[order], starts), axis=1)
    return (np.cumsum(weight, axis=1) - weight / 2 + 0.5)[:, block]


def auroc_of_counts(scores: np.ndarray, y: np.ndarray, member: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """As `auroc`; member [N] is each row's picture 0..G-1, counts [G, R] how often each picture was drawn -> [R]."""
    below, right, positives = (np.zeros(counts.shape[1]) for _ in range(3))
    for positive, negative in _steps(scores, y, member):
        if positive:
            weight = _weight(counts, positive)
            positives += weight
            right += weight * below
            if negative:
                right += weight * _weight(counts, negative) / 2
        if negative:
            below += _weight(counts, negative)
    return ratio(right, positives * below)


def average_precision_of_counts(
    scores: np.ndarray, y: np.ndarray, member: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """As `average_precision`, arguments as in `auroc_of_counts` -> [R]."""
    gained, found = np.zeros(counts.shape[1]), np.zeros(counts.shape[1])
    seen = np.full(counts.shape[1], 1e-300)  # before the first row 0 / 0 counts 0, and 1e-300 + 1 is 1
    for positive, negative in _steps(-scores, y, member):
        if negative:
            seen += _weight(counts, negative)
        if positive:
            weight = _weight(counts, positive)
            found += weight
            seen += weight
            gained += weight * (found / seen)
    return ratio(gained, np.where(seen > found, found, 0))


def _weight(counts: np.ndarray, pictures: list[int]) -> np.ndarray:
    return counts[pictures[0]] if len(pictures) == 1 else counts[pictures].sum(axis=0)


def _steps(scores: np.ndarray, y: np.ndarray, member: np.ndarray) -> Iterator[tuple[list[int], list[int]]]:
    """Pictures of the positive and of the negative rows of each block of equal scores, in ascending order."""
    order = np.argsort(scores, kind="stable")
    pictures, positive = member[order].tolist(), (y[order] > 0).tolist()
    last = np.diff(scores[order], append=np.inf) > 0
    sides: tuple[list[int], list[int]] = ([], [])
    for picture, is_positive, ends in zip(pictures, positive, last.tolist(), strict=True):
        sides[not is_positive].append(picture)
        if ends:
            yield sides
            sides = ([], [])
