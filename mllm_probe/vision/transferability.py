"""How much of some labels is in features, by formula: nothing is trained. Letters: n pictures, d width, C labels."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from mllm_probe.errors import ProbeError

ROUNDS = 11  # of the authors' fixed point
TOLERANCE = 1e-3
TINY = 1e-5
STEP, BEYOND = 0.2, 20.0  # of the search: logarithms of alpha / beta, as far past the spectrum as anything changes
EXACT = 1e-12  # a share of a label's length below which nothing of it is left


@dataclass(frozen=True)
class Evidence:
    """Log evidence of a Bayesian linear model for one label, a picture, at prior precision `alpha` and noise precision
    `beta`."""

    value: float
    alpha: float
    beta: float


@dataclass(frozen=True)
class _Seen:
    """A label y [n] as features see it: squares of their singular values, falling, and of y along each direction [r];
    `outside` is what of |y|^2 lies along none."""

    n: int
    sigma: np.ndarray
    x2: np.ndarray
    outside: float

    def at(self, log_ratio: np.ndarray | float) -> np.ndarray:
        """The evidence a picture at alpha / beta, with the beta that suits it best [...]."""
        ratio = np.exp(log_ratio)[..., None]
        spread = np.log1p(self.sigma / ratio).sum(axis=-1)
        return -(np.log(2 * np.pi) + 1 + np.log(self._left(ratio) / self.n) + spread / self.n) / 2

    def evidence(self, log_ratio: float) -> Evidence:
        beta = self.n / float(self._left(np.exp([log_ratio])))
        return Evidence(float(self.at(log_ratio)), float(np.exp(log_ratio)) * beta, beta)

    def _left(self, ratio: np.ndarray) -> np.ndarray:
        """|y - Fw|^2 + alpha / beta |w|^2, w the posterior mean."""
        return self.outside + (self.x2 * ratio / (ratio + self.sigma)).sum(axis=-1)


def log_me(features: np.ndarray, labels: np.ndarray) -> list[Evidence]:
    """LogME (You et al. 2021, arXiv 2102.11005): features [n, d], labels [n, C] of 0 and 1 or numbers -> the greatest
    evidence for each label; the score is their mean.

    y ~ N(Fw, 1/beta), w ~ N(0, 1/alpha), over all alpha and beta. The best beta of each alpha / beta has a closed form;
    that ratio is searched over the whole spectrum of the features, so neither their scale nor a local maximum matters.
    Raises ProbeError where shapes differ, and where features give a label exactly, for then there is no greatest.
    """
    found = []
    for number, seen in enumerate(_seen(features, labels)):
        if seen.outside == 0 and len(seen.sigma) < seen.n:
            raise ProbeError(
                f"label {number} is a linear function of the {features.shape[1]} features, so its evidence has no "
                "bound; leave it out, or take more pictures"
            )
        found.append(_greatest(seen))
    return found


def _greatest(seen: _Seen) -> Evidence:
    lowest, highest = np.log(seen.sigma[[-1, 0]]) if len(seen.sigma) else (0.0, 0.0)
    grid = np.arange(lowest - BEYOND, highest + BEYOND, STEP)
    values = seen.at(grid)
    inner = 1 + np.flatnonzero((values[1:-1] >= values[:-2]) & (values[1:-1] >= values[2:]))
    tops = [
        minimize_scalar(lambda x: -seen.at(x), bounds=(grid[i - 1], grid[i + 1]), options={"xatol": 1e-9}).x
        for i in inner
    ]
    return max((seen.evidence(float(x)) for x in (grid[0], grid[-1], *tops)), key=lambda one: one.value)


def log_me_published(features: np.ndarray, labels: np.ndarray) -> list[Evidence]:
    """The same by the authors' code: at most eleven rounds of a fixed point from alpha = beta = 1.

    They need not end at the greatest evidence, and where they end depends on the scale of the features. Where d > n the
    d - n directions that no picture has change nothing here; the authors' code counts their prior alone, which raises
    its value. Raises ProbeError where shapes differ.
    """
    return [_iterated(seen) for seen in _seen(features, labels)]


def _seen(features: np.ndarray, labels: np.ndarray) -> list[_Seen]:
    if features.ndim != 2 or labels.ndim != 2 or len(features) != len(labels):
        raise ProbeError(f"LogME needs features [n, d] and labels [n, C], not {features.shape} and {labels.shape}")
    left, values, _ = np.linalg.svd(features.astype(np.float64), full_matrices=False)
    kept = values > np.finfo(float).eps * max(features.shape) * values.max(initial=0)
    found = []
    for y in labels.T.astype(np.float64):
        x2 = (left[:, kept].T @ y) ** 2
        outside = float(y @ y - x2.sum())
        found.append(_Seen(len(y), values[kept] ** 2, x2, outside if outside > EXACT * (y @ y) else 0.0))
    return found


def _iterated(seen: _Seen) -> Evidence:
    n, sigma = seen.n, seen.sigma
    alpha = beta = 1.0
    for _ in range(ROUNDS):
        ratio = alpha / beta
        gamma = (sigma / (sigma + ratio)).sum()
        weight2, residual2 = _sizes(seen, ratio)
        alpha, beta = gamma / (weight2 + TINY), (n - gamma) / (residual2 + TINY)
        if abs(alpha / beta - ratio) <= TOLERANCE * ratio:
            break
    weight2, residual2 = _sizes(seen, alpha / beta)
    log = len(sigma) * np.log(alpha) + n * np.log(beta) - np.log(alpha + beta * sigma).sum()
    log -= beta * residual2 + alpha * weight2 + n * np.log(2 * np.pi)
    return Evidence(float(log / (2 * n)), float(alpha), float(beta))


def _sizes(seen: _Seen, ratio: float) -> tuple[float, float]:
    """|w|^2 of the posterior mean and |y - Fw|^2."""
    shrunk = seen.x2 / (ratio + seen.sigma) ** 2
    return float((seen.sigma * shrunk).sum()), float((ratio**2 * shrunk).sum()) + seen.outside


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
