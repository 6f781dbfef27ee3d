"""Similarity of two layers: CKA, SVCCA, RSA and mutual nearest neighbours, of two arrays or of all layers at once.

A measure turns the rows [N, D] of a layer into a piece once, and compares pieces: widths may differ, rows may not.
Four of the five measures are one thing, the inner product of two unit matrices [N, N] that describe how the rows of a
layer lie to each other; shuffling the rows of a layer shuffles rows and columns of its matrix, so a permutation null
needs no second look at the layers. Cost for L layers: 4 N^2 bytes a layer (16 MB at N = 2000), 2 L^2 N^2 operations a
comparison; SVCCA: 8 N r bytes a layer and L^2 singular value problems of size r, its number of components.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Protocol

import numpy as np
from scipy.linalg import eigh
from scipy.spatial.distance import squareform
from scipy.stats import rankdata

from mllm_probe.errors import ConfigError, ProbeError, choices
from mllm_probe.geometry.row_checks import FEWEST, is_constant

SIMILARITIES = ("cka", "cka_biased", "svcca", "rsa", "mutual_knn")
KEPT = 0.99  # the share of variance that SVCCA keeps of each side
NULL_LEVEL = 0.95  # the quantile of the permutation null that is reported
BLOCK = 100  # rows of the matrices that are compared at a time, to bound what a shuffle copies


class Measure(Protocol):
    """What the layers of one comparison have in common."""

    def piece(self, values: np.ndarray) -> np.ndarray:
        """Rows [N, D] of a layer -> what is kept of it. Raises ProbeError."""

    def compare(self, a: Sequence[np.ndarray], b: Sequence[np.ndarray], order: np.ndarray | None = None) -> np.ndarray:
        """Pieces of A and of B layers -> similarities [A, B]; `order` [N] puts the rows of the first side so first."""


@dataclass(frozen=True)
class Comparison:
    """Similarities [A, B], and mean and upper quantile (NULL_LEVEL) of the same with shuffled rows [A, B], or nan."""

    value: np.ndarray
    null_mean: np.ndarray
    null_high: np.ndarray

    @classmethod
    def of(cls, value: np.ndarray, null: Sequence[np.ndarray]) -> "Comparison":
        """Values [A, B] and draws of the same; nan where there is no draw.

        With the value itself one of all, it exceeds `null_high` in at most 1 - NULL_LEVEL of them where nothing is to
        be seen; fewer than 19 draws cannot promise that, and their largest is taken.
        """
        if not len(null):
            return cls(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
        place = min(len(null), ceil(NULL_LEVEL * (len(null) + 1))) - 1
        return cls(value, np.mean(null, axis=0), np.sort(null, axis=0)[place])


def similarity(name: str, k: int = 10, components: int | None = None) -> Measure:
    """The measure of this name. `k` neighbours for mutual_knn; svcca keeps at most `components`. Raises ConfigError.

    cka: linear CKA with the unbiased HSIC estimator of Song et al. 2012, as an inner product of U-centred Gram
        matrices (Szekely and Rizzo 2014); near 0 for independent layers, and may be below.
    cka_biased: linear CKA as Kornblith et al. 2019 (arXiv 1905.00414) write it; goes to 1 where D is far above N.
    svcca: mean canonical correlation of the components that hold 99 % of each side's variance (Raghu et al. 2017,
        arXiv 1706.05806); high for any two layers once their components together approach N.
    rsa: Spearman correlation of the two upper triangles of 1 - Pearson between rows (Kriegeskorte et al. 2008).
    mutual_knn: mean share of common rows among the k nearest by cosine (Huh et al. 2024, arXiv 2405.07987).
    """
    matrices: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "cka": _u_centred_gram,
        "cka_biased": _centred_gram,
        "rsa": _centred_ranks,
        "mutual_knn": partial(_neighbours, k=k),
    }
    if name == "svcca":
        return Subspaces(components)
    if name not in matrices:
        raise ConfigError(f"similarity '{name}' is unknown; {choices(name, SIMILARITIES)}")
    return Relations(matrices[name])


def between(measure: Measure, x: np.ndarray, y: np.ndarray) -> float:
    """The similarity of two layers with the same rows, [N, D1] and [N, D2]. Raises ProbeError."""
    if len(x) != len(y):
        raise ProbeError(f"the two layers have {len(x)} and {len(y)} rows; only layers with the same rows compare")
    return float(measure.compare([measure.piece(x)], [measure.piece(y)])[0, 0])


def compare_layers(
    measure: Measure,
    a: Sequence[np.ndarray],
    b: Sequence[np.ndarray],
    permutations: int,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> Comparison:
    """Pieces of A and B layers -> all similarities and their permutation null; `tick` is called after each shuffle.

    Every pair sees the same shuffles. Where `a` is `b`, a pair and its mirror image share their draws, so that all
    three tables are symmetric. Without permutations the null is nan.
    """
    value = measure.compare(a, b)
    rng, draws = np.random.default_rng(seed), []
    for _ in range(permutations):
        draws.append(measure.compare(a, b, rng.permutation(len(a[0]))))
        tick()
    return Comparison.of(value, [*draws, *(draw.T for draw in draws)] if a is b else draws)


@dataclass(frozen=True)
class Relations:
    """Similarity as the inner product of unit matrices [N, N]; `matrix` makes one, of any length, of the rows."""

    matrix: Callable[[np.ndarray], np.ndarray]

    def piece(self, values: np.ndarray) -> np.ndarray:
        """[N, D] -> [N, N] float32 of length 1. Raises ProbeError."""
        _check(values)
        matrix = self.matrix(values)
        length = np.linalg.norm(matrix)
        if length == 0:
            raise ProbeError(f"all {len(values)} rows are equally far from each other, so there is nothing to compare")
        return (matrix / length).astype(np.float32)

    def compare(self, a: Sequence[np.ndarray], b: Sequence[np.ndarray], order: np.ndarray | None = None) -> np.ndarray:
        total = np.zeros((len(a), len(b)))
        for start in range(0, len(a[0]), BLOCK):
            rows = slice(start, start + BLOCK)
            left = [piece[rows] if order is None else piece[order[rows]].take(order, axis=1) for piece in a]
            total += np.stack(left).reshape(len(a), -1) @ np.stack([piece[rows] for piece in b]).reshape(len(b), -1).T
        return total


@dataclass(frozen=True)
class Subspaces:
    """SVCCA: the singular values of A'B for orthonormal bases A and B are the canonical correlations."""

    components: int | None = None

    def piece(self, values: np.ndarray) -> np.ndarray:
        """[N, D] -> the left singular vectors [N, r] of the centred rows that hold KEPT of their variance.

        They are found as eigenvectors of the Gram matrix, which is four times as fast as the SVD at D = 2 N; what is
        kept lies far above the rounding that squaring costs. Raises ProbeError.
        """
        _check(values)
        gram = _centred_gram(values)
        wanted = len(values) if self.components is None else min(self.components, len(values))
        variances, vectors = eigh(gram, subset_by_index=(len(values) - wanted, len(values) - 1))
        held = np.cumsum(variances[::-1]) / np.trace(gram)
        return vectors[:, ::-1][:, : int(np.searchsorted(held, KEPT)) + 1]

    def compare(self, a: Sequence[np.ndarray], b: Sequence[np.ndarray], order: np.ndarray | None = None) -> np.ndarray:
        left = a if order is None else [piece[order] for piece in a]
        return np.asarray([[np.linalg.svd(p.T @ q, compute_uv=False).mean() for q in b] for p in left])


def _check(values: np.ndarray) -> None:
    if len(values) < FEWEST:
        raise ProbeError(f"{len(values)} rows are too few to compare layers; at least {FEWEST} are needed")
    if is_constant(values):
        raise ProbeError(f"all {len(values)} rows are equal, so there is nothing to compare")


def _centred_gram(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean(axis=0)
    return centred @ centred.T


def _u_centred_gram(values: np.ndarray) -> np.ndarray:
    """The Gram matrix, its diagonal zero and its row sums zero: the inner product of two of them over n (n - 3) is
    [tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2 1'KL1 / (n-2)] / (n (n-3)) with zero-diagonal K and L, the unbiased HSIC."""
    gram, n = _centred_gram(values), len(values)
    np.fill_diagonal(gram, 0)
    sums = gram.sum(axis=0) / (n - 2)
    gram += sums.sum() / (n - 1) - sums - sums[:, None]
    np.fill_diagonal(gram, 0)
    return gram


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of the dissimilarities of all pairs of rows, less their mean, in both triangles."""
    similarities = _unit_rows(values - values.mean(axis=1, keepdims=True))
    similarities = similarities @ similarities.T
    ranks = rankdata(-similarities[np.triu_indices(len(values), 1)])
    return squareform(ranks - ranks.mean())


def _neighbours(values: np.ndarray, k: int) -> np.ndarray:
    """1 in row i where column j is one of the k rows nearest to i, itself left out."""
    if not 1 <= k < len(values):
        raise ProbeError(f"{len(values)} rows have 1 to {len(values) - 1} neighbours each, not {k}; set geometry.k so")
    similarities = _unit_rows(values)
    similarities = similarities @ similarities.T
    np.fill_diagonal(similarities, -np.inf)
    nearest = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
    found = np.zeros_like(similarities)
    np.put_along_axis(found, nearest, 1, axis=1)
    return found


def _unit_rows(values: np.ndarray) -> np.ndarray:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, 1)
