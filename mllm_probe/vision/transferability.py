"""How much of some labels lies in features, by formula: nothing is trained. Letters: n pictures, d width, C labels."""

from dataclasses import dataclass

import numpy as np

from mllm_probe.errors import ProbeError

ROUNDS = 11  # of the fixed point, as in the authors' code
TOLERANCE = 1e-3
TINY = 1e-5


@dataclass(frozen=True)
class Evidence:
    """Log evidence of a Bayesian linear model for one label, a picture, at prior precision `alpha` and noise precision
    `beta`."""

    value: float
    alpha: float
    beta: float


def log_me(features: np.ndarray, labels: np.ndarray) -> list[Evidence]:
    """LogME (You et al. 2021, arXiv 2102.11005): features [n, d], labels [n, C] of 0 and 1 or numbers -> the greatest
    evidence for each label; the score is their mean.

    y ~ N(Fw, 1/beta), w ~ N(0, 1/alpha), both precisions by the authors' fixed point from 1 and 1. Where d > n the
    d - n directions that no picture has change nothing here; the authors' code counts their prior alone, which raises
    its value. Raises ProbeError where shapes differ.
    """
    if features.ndim != 2 or labels.ndim != 2 or len(features) != len(labels):
        raise ProbeError(f"LogME needs features [n, d] and labels [n, C], not {features.shape} and {labels.shape}")
    left, values, _ = np.linalg.svd(features.astype(np.float64), full_matrices=False)
    return [_evidence(label, left, values**2) for label in labels.T.astype(np.float64)]


def _evidence(y: np.ndarray, left: np.ndarray, sigma: np.ndarray) -> Evidence:
    n, x2 = len(y), (left.T @ y) ** 2
    outside = max(float(y @ y - x2.sum()), 0.0)
    alpha = beta = 1.0
    for _ in range(ROUNDS):
        ratio = alpha / beta
        gamma = (sigma / (sigma + ratio)).sum()
        weight2, residual2 = _sizes(sigma, x2, outside, ratio)
        alpha, beta = gamma / (weight2 + TINY), (n - gamma) / (residual2 + TINY)
        if abs(alpha / beta - ratio) <= TOLERANCE * ratio:
            break
    weight2, residual2 = _sizes(sigma, x2, outside, alpha / beta)
    log = len(sigma) * np.log(alpha) + n * np.log(beta) - np.log(alpha + beta * sigma).sum()
    log -= beta * residual2 + alpha * weight2 + n * np.log(2 * np.pi)
    return Evidence(float(log / (2 * n)), float(alpha), float(beta))


def _sizes(sigma: np.ndarray, x2: np.ndarray, outside: float, ratio: float) -> tuple[float, float]:
    """|w|^2 of the posterior mean and |y - Fw|^2."""
    return float((sigma * x2 / (ratio + sigma) ** 2).sum()), float((x2 / (1 + sigma / ratio) ** 2).sum()) + outside


def h_score(features: np.ndarray, classes: np.ndarray) -> float:
    """H-score (Bao et al. 2019): tr(cov(f)^-1 cov(E[f | y])) of features [n, d] and classes [n], 0 where the class
    means are equal, at most C - 1.

    Raises ProbeError where n <= d: then every feature set reaches C - 1, for the class means are a linear function of
    any n rows.
    """
    n, d = features.shape
    if n <= d:
        raise ProbeError(f"{n} pictures with {d} features separate any classes; h_score needs more than {d} pictures")
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, which = np.unique(classes, return_inverse=True)
    sums = np.zeros((which.max() + 1, d))
    np.add.at(sums, which, centred)
    means = sums / np.bincount(which)[:, None]
    between = (means.T * np.bincount(which)) @ means
    return float(np.trace(np.linalg.pinv(centred.T @ centred, hermitian=True) @ between))
