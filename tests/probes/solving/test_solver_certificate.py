"""What a linear fit certifies, against optima solved to machine precision by code of its own.

The problems are those where a stop can be wrong unseen: little to learn, strong and weak penalties, rare labels, fewer
rows than columns, columns of large means, several classes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from mllm_probe.probes.logistic import Logistic
from mllm_probe.probes.mean_difference import MeanDifference
from mllm_probe.probes.ridge import Ridge
from mllm_probe.probes.solving.iterates import GAP, Solution
from mllm_probe.probes.solving.linear import LinearFit
from mllm_probe.probes.solving.objectives import Sigmoid, Softmax, Squared, Work
from mllm_probe.probes.solving.solver import solve
from mllm_probe.probes.solving.standardised import Basis, Features
from mllm_probe.records.problems import LayerData, Problem

STRENGTHS = (1e-4, 1e-2, 1.0, 100.0)
LOSSES = {"sigmoid": Sigmoid(), "softmax": Softmax(), "squared": Squared()}


def targets(y: np.ndarray, loss: str) -> np.ndarray:
    """[n, C]: one-hot classes, 0 and 1, or -1 and 1."""
    if loss == "softmax":
        return (y[:, None] == np.arange(y.max() + 1)).astype(float)
    return np.where(y > 0, 1.0, -1.0 if loss == "squared" else 0.0)[:, None]


def objective(z: np.ndarray, t: np.ndarray, weights: np.ndarray, penalty: float, loss: str) -> float:
    if loss == "squared":
        value = ((z - t) ** 2).mean() / 2
    elif loss == "sigmoid":
        value = np.logaddexp(0, np.where(t > 0, -z, z)).mean()
    else:
        value = (np.logaddexp.reduce(z, axis=1) - (z * t).sum(1)).mean()
    return float(value + penalty / 2 * (weights**2).sum())


def optimum(x: np.ndarray, t: np.ndarray, penalty: float, loss: str) -> tuple[np.ndarray, np.ndarray, float]:
    """weights [D, C], intercept [C] and objective on standardised rows x, by Newton's method on the whole matrix."""
    (n, width), outputs = x.shape, t.shape[1]
    rows, ridge = np.c_[x, np.ones(n)], np.diag([penalty] * width + [0.0])
    theta = np.zeros((width + 1, outputs))

    def value(at: np.ndarray) -> float:
        return objective(rows @ at, t, at[:-1], penalty, loss)

    for _ in range(2 if loss == "squared" else 100):
        z = rows @ theta
        p = {"squared": z, "sigmoid": 1 / (1 + np.exp(-z)), "softmax": None}[loss]
        p = np.exp(z - np.logaddexp.reduce(z, axis=1)[:, None]) if p is None else p
        bend = (
            np.ones((n, 1, 1)) if loss == "squared" else p[:, :, None] * (np.eye(outputs) - p[:, None] * (outputs > 1))
        )
        bend = bend * (1 - p[:, :, None]) if loss == "sigmoid" else bend
        slope = rows.T @ (p - t) / n + ridge @ theta
        hessian = np.einsum("ni,nab,nj->aibj", rows, bend, rows, optimize=True) / n
        hessian += np.einsum("ab,ij->aibj", np.eye(outputs), ridge)
        square = hessian.reshape(outputs * (width + 1), -1)
        free = np.tile(np.r_[np.zeros(width), 1.0], outputs)  # all intercepts together change nothing
        square = square + np.outer(free, free) * (outputs > 1)
        step = -np.linalg.solve(square, slope.T.ravel()).reshape(outputs, -1).T
        share = 1.0
        while value(theta + share * step) > value(theta) + 1e-12 and share > 1e-6:
            share /= 2
        theta = theta + share * step
        if np.abs(step).max() < 1e-12 * (1 + np.abs(theta).max()):
            break
    return theta[:-1], theta[-1], value(theta)


def drawn(seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(rows [N, D], classes [N], training rows [N]) with much, little and nothing to learn, even and rare classes."""
    rng = np.random.default_rng(seed)
    for n, width in ((160, 8), (60, 70)):
        x = rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) * np.exp(rng.normal(size=width)) + 300
        train = rng.permutation(n) < n * 3 // 4
        for signal, rare in ((0.0, 0.0), (0.0, 1.5), (0.3, 0.0), (5.0, 1.0)):
            score = signal * StandardScaler().fit_transform(x) @ rng.normal(size=(width, 3)) / np.sqrt(width)
            y = (score + rng.gumbel(size=(n, 3)) + rare * np.eye(3)[0]).argmax(1)
            if len(np.unique(y[train])) == 3:
                yield x, y, train


def cases(loss: str, seeds: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, float]]:
    """(rows, labels, training rows, penalty)."""
    for x, y, train in (case for seed in range(seeds) for case in drawn(seed)):
        for penalty in STRENGTHS:
            yield x, y if loss == "softmax" else (y > 0).astype(int), train, penalty


def doubt(fit: LinearFit, x: np.ndarray) -> np.ndarray:
    """How far a logit of each row may be from the optimum's [N], from what the fit says of itself."""
    length = np.linalg.norm((x - fit.mean) / fit.scale, axis=1)
    return fit.facts["radius"] * (length + fit.facts["reach"]) + fit.facts["drift"]


def settled(ours: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Whether each decision [N] is that of the exact logits, or counts as a tie."""
    if ours.ndim == 1:
        return (ours == 0) | ((ours > 0) == (exact > 0))
    return ((ours == ours.max(1, keepdims=True)).sum(1) > 1) | (ours.argmax(1) == exact.argmax(1))


@pytest.mark.parametrize("way", ["newton", "shared steps"])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_decision_differs_from_that_of_the_exact_optimum(loss: str, way: str, monkeypatch: Any) -> None:
    """On every row, trained on or not: a logit is off by no more than certified, and the certificate is tight."""
    if way == "shared steps":
        monkeypatch.setattr("mllm_probe.probes.solving.objectives.AFFORDABLE", 0)
    probe, kind = Ridge if loss == "squared" else Logistic, "classes" if loss == "softmax" else "binary"
    for x, y, train, penalty in cases(loss, 1):
        data, scaled = LayerData(torch.from_numpy(x)), StandardScaler().fit(x[train]).transform(x)
        (fit,) = probe(lambdas=(penalty,)).fit(data, [Problem(y, train, ~train, kind)])
        weights, intercept, best = optimum(scaled[train], targets(y, loss)[train], penalty, loss)
        exact, ours = (scaled @ weights + intercept), fit(data)
        exact = exact if loss == "softmax" else exact[:, 0]
        assert settled(ours, exact).all()
        off = np.abs(ours - exact) if ours.ndim == 1 else np.ptp(ours - exact, axis=1)  # margins decide
        allowed = doubt(fit, x)
        assert (off <= allowed * 1.001 + 1e-11 * (1 + np.abs(exact).max())).all()
        assert fit.facts["objective"] == pytest.approx(best, rel=1e-9)
        assert allowed.max() <= 1e-6 * (1 + np.abs(exact).max())


def stopped(loss: str, x: np.ndarray, t: np.ndarray, penalty: float, steps: int) -> tuple[Solution, float]:
    """The solver's state after so many steps, and the objective of the best constant."""
    features = Features(LayerData(torch.from_numpy(x)), np.ones(len(x), dtype=bool))
    one, row = torch.ones(1, dtype=torch.float64), torch.full((1, len(x)), 1 / len(x), dtype=torch.float64)
    work = Work(LOSSES[loss], torch.from_numpy(t.T[None]), row, penalty * one, one.expand(1, x.shape[1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mllm_probe.probes.solving.solver.EXACT", 0)
        patch.setattr("mllm_probe.probes.solving.solver.ROUGH", steps)
        patch.setattr("mllm_probe.probes.solving.solver.ROUGH_BEFORE_NEWTON", steps)
        found = solve(features, Basis.of(features), work)
    share = np.c_[t, 1 - t].mean(0) if loss == "sigmoid" else t.mean(0)
    return found, float(t.var() / 2 if loss == "squared" else -(share * np.log(share)).sum())


@pytest.mark.parametrize("loss", LOSSES)
def test_the_certificate_bounds_the_truth_wherever_the_solver_stops(loss: str) -> None:
    """Gap as a share of the fall from the best constant, distance of the weights; the intercept is not penalised."""
    tightest = 0.0
    for x, y, train, penalty in cases(loss, 1):
        scaled, t = StandardScaler().fit_transform(x[train]), targets(y[train], loss)
        weights, _, best = optimum(scaled, t, penalty, loss)
        for steps in (0, 1, 3, 6):
            found, constant = stopped(loss, x[train], t, penalty, steps)
            above, way = float(found.objective) - best, float((found.weights[0].T - torch.from_numpy(weights)).norm())
            certified = float(found.gap) * max(constant - float(found.objective), 1e-9 * constant)
            assert -1e-12 <= above <= certified * 1.001 + 1e-13
            assert way <= float(found.radius) * 1.001 + 1e-11
            assert bool(found.converged) == (float(found.gap) <= GAP)
            if found.converged:
                assert above <= 1.1e-6 * (constant - best) + 1e-14
            tightest = max(tightest, above / certified, way / float(found.radius))
    assert tightest > 0.5


def test_lda_decides_as_the_exact_solution() -> None:
    for x, y, train, _ in cases("sigmoid", 2):
        data, labels = LayerData(torch.from_numpy(x)), y > 0
        (fit,) = MeanDifference(covariance=True, shrinkage=1e-3).fit(data, [Problem(y, train, ~train)])
        scaled = StandardScaler().fit(x[train]).transform(x)
        one, two = (scaled[train & side] for side in (labels, ~labels))
        inside = np.r_[one - one.mean(0), two - two.mean(0)]
        sigma = inside.T @ inside / len(inside)
        shrunk = 0.999 * sigma + 1e-3 * np.trace(sigma) / len(sigma) * np.eye(len(sigma))
        weights = np.linalg.solve(shrunk, one.mean(0) - two.mean(0))
        exact = (scaled - (one.mean(0) + two.mean(0)) / 2) @ weights + np.log(len(one) / len(two))
        assert settled(fit(data), exact).all()
        assert (np.abs(fit(data) - exact) <= doubt(fit, x) * 1.001 + 1e-9 * np.abs(exact).max()).all()
        assert doubt(fit, x).max() < 1e-6 * np.abs(exact).max()


def mirrored() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and their mirror images with opposite labels, and one row in the middle that no fit can decide."""
    rng = np.random.default_rng(0)
    half = rng.normal(size=(30, 4)) + 1.0
    x = np.concatenate([half, -half, np.zeros((1, 4)), half[:2]]) * [1, 3, 9, 27] + 5
    y = np.repeat([1, 0, 1], [30, 30, 3])
    return x, y, np.arange(63) < 60


@pytest.mark.parametrize("probe", [Logistic(lambdas=(0.1,)), Ridge(lambdas=(0.1,)), MeanDifference(covariance=True)])
def test_a_decision_that_nothing_settles_counts_half(probe: Any) -> None:
    x, y, train = mirrored()
    (fit,) = probe.fit(LayerData(torch.from_numpy(x)), [Problem(y, train, ~train)])
    assert np.flatnonzero(fit(LayerData(torch.from_numpy(x))) == 0).tolist() == [60]


def test_classes_that_nothing_tells_apart_are_tied() -> None:
    """Classes 0 and 1 mirror each other in one column, class 2 lies far along another."""
    half, far = (np.random.default_rng(i).normal(size=(n, 3)) for i, n in enumerate((30, 10)))
    half[:, 0], far[:, 1] = half[:, 0] + 1, far[:, 1] + 6
    mirror = [-1, 1, 1]
    x = np.concatenate([half, half * mirror, far, far * mirror, [[0, -1, 0.5]], half[:2], far[:1]]) * [1, 5, 25] + 9
    y = np.repeat([0, 1, 2, 0, 2], [30, 30, 20, 3, 1])
    train = np.arange(len(y)) < 80
    (fit,) = Logistic(lambdas=(0.1,)).fit(LayerData(torch.from_numpy(x)), [Problem(y, train, ~train, "classes")])
    logits = fit(LayerData(torch.from_numpy(x)))
    assert np.flatnonzero((logits == logits.max(1, keepdims=True)).sum(1) > 1).tolist() == [80]
    assert logits[80, 0] == logits[80, 1] > logits[80, 2]
