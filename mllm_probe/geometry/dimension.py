"""The shape of one layer: how many dimensions its rows fill, and how evenly."""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import svdvals
from scipy.stats import entropy
from sklearn.metrics.pairwise import euclidean_distances

from mllm_probe.errors import ProbeError
from mllm_probe.geometry.row_checks import FEWEST, ROUNDING

SHAPES = ("intrinsic_dimension", "entropy")


@dataclass(frozen=True)
class Dimension:
    """An intrinsic dimension, the `rows` it was measured on, and the `repeats` of such rows that were left out."""

    value: float
    rows: int
    repeats: int


def two_nn(values: np.ndarray) -> Dimension:
    """Intrinsic dimension of the rows [N, D] from the distances r1, r2 of each to its two nearest (Facco et al. 2017,
    Sci. Rep. 7:12140): mu = r2 / r1 has the law F(mu) = 1 - mu^-d, whose unbiased maximum likelihood estimate is
    d = (n - 1) / sum of log mu.

    A row that repeats an earlier one, exactly or but for rounding, would make mu infinite; it is left out and counted.
    Raises ProbeError where too few different rows are left. Takes 8 N^2 bytes.
    """
    centred = values - values.mean(axis=0)
    distances = euclidean_distances(centred)
    size = np.sqrt((centred**2).sum(axis=1).mean())
    repeated = np.tril(distances <= ROUNDING * size, -1).any(axis=1)
    n = int((~repeated).sum())
    if n < FEWEST:
        raise ProbeError(f"only {n} of {len(values)} rows differ; an intrinsic dimension needs at least {FEWEST}")
    distances = distances[np.ix_(~repeated, ~repeated)]
    np.fill_diagonal(distances, np.inf)
    first, second = np.partition(distances, 1, axis=1)[:, :2].T
    total = float(np.log(second / first).sum())
    if total <= 0:
        raise ProbeError("for every row the first and second neighbour are equally far; no dimension fits that")
    return Dimension((n - 1) / total, n, len(values) - n)


def matrix_entropy(values: np.ndarray) -> float:
    """Entropy in nats of the eigenvalues of the Gram matrix of the rows [N, D], scaled to sum to 1 (Skean et al. 2025,
    arXiv 2502.02013, alpha = 1): 0 where all rows lie on one line, at most log min(N, D). Rows are not centred there,
    nor here. Raises ProbeError where all values are zero.
    """
    spectrum = svdvals(values) ** 2
    if not spectrum.any():
        raise ProbeError("all values are zero, so their spectrum has no entropy")
    return float(entropy(spectrum))
