"""The solver against scikit-learn, and the probe's choices."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mllm_probe.errors import ConfigError, ProbeError
from mllm_probe.probes.logistic import Logistic
from mllm_probe.probes.majority import Majority
from mllm_probe.probes.solver import TOLERANCE, Basis, solve
from mllm_probe.probes.words import bag_of_words


def problem(n: int, width: int, seed: int = 0, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of very unequal scales, labels from a noisy direction."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) * np.exp(rng.normal(size=width) * spread)
    y = (x @ (rng.normal(size=width) / x.std(axis=0)) + rng.normal(size=n) * np.sqrt(width) > 0).astype(int)
    return x, y


def objective(x: np.ndarray, y: np.ndarray, w: np.ndarray, b: float, penalty: float) -> float:
    margin = np.where(y > 0, 1, -1) * (x @ w + b)
    return float(np.logaddexp(0, -margin).mean() + penalty / 2 * w @ w)


@pytest.mark.parametrize(("n", "width"), [(300, 20), (80, 200), (400, 64)])
@pytest.mark.parametrize("penalty", [1e-4, 1e-2, 1.0])
def test_the_optimum_is_scikit_learns(n: int, width: int, penalty: float) -> None:
    x, y = problem(n, width)
    x = StandardScaler().fit_transform(x)
    ours = solve(Basis.of(x), y, penalty)
    theirs = LogisticRegression(C=1 / (penalty * n), tol=1e-10, max_iter=20_000).fit(x, y)
    w, b = theirs.coef_[0], float(theirs.intercept_[0])
    assert ours.converged and ours.gradient <= TOLERANCE
    assert ours.objective <= objective(x, y, w, b, penalty) * (1 + 1e-6)
    assert ours.objective == pytest.approx(objective(x, y, ours.weights, ours.intercept, penalty), rel=1e-9)
    assert np.mean((x @ w + b > 0) == (x @ ours.weights + ours.intercept > 0)) >= 0.999


def test_a_warm_start_changes_nothing_but_the_way() -> None:
    x, y = problem(300, 40)
    basis = Basis.of(StandardScaler().fit_transform(x))
    cold, warm = solve(basis, y, 1e-3), solve(basis, y, 1e-3, solve(basis, y, 1e-1))
    assert np.allclose(cold.weights, warm.weights, atol=1e-4)


def test_the_probe_standardises_on_train_and_chooses_on_validation() -> None:
    x, y = problem(400, 30)
    fit = Logistic().fit(x[:250], y[:250], x[250:], y[250:], seed=0)
    scaler = StandardScaler().fit(x[:250])
    losses = {}
    for penalty in Logistic().lambdas:
        model = LogisticRegression(C=1 / (penalty * 250), tol=1e-10, max_iter=20_000).fit(
            scaler.transform(x[:250]), y[:250]
        )
        margin = np.where(y[250:] > 0, 1, -1) * model.decision_function(scaler.transform(x[250:]))
        losses[penalty] = np.logaddexp(0, -margin).mean()
    assert fit.facts["lambda"] == min(losses, key=losses.__getitem__)
    assert fit.facts["val_loss"] == pytest.approx(min(losses.values()), rel=1e-4)
    assert np.allclose(fit.mean, scaler.mean_) and np.allclose(fit.scale, scaler.scale_)


def test_scale_and_shift_of_the_features_change_nothing() -> None:
    x, y = problem(300, 10, spread=0)
    moved = x * np.exp(np.arange(10) - 5.0) + 100
    a, b = (Logistic().fit(z[:200], y[:200], z[200:], y[200:], seed=0) for z in (x, moved))
    assert np.allclose(a(x), b(moved), atol=1e-3)


def test_constant_features_are_ignored() -> None:
    x, y = problem(200, 5)
    x[:, 2] = 7.0
    fit = Logistic().fit(x[:100], y[:100], x[100:], y[100:], seed=0)
    assert abs(fit.weights[2]) < 1e-10 and np.isfinite(fit(x)).all()
    nothing = Logistic().fit(np.ones((100, 3)), y[:100], np.ones((100, 3)), y[100:], seed=0)
    assert np.ptp(nothing(np.ones((5, 3)))) == 0


def test_one_class_and_bad_lambdas_are_named() -> None:
    with pytest.raises(ProbeError, match="all 4 training rows have the label 1"):
        Logistic().fit(np.eye(4), np.ones(4, int), np.eye(4), np.ones(4, int), seed=0)
    with pytest.raises(ConfigError, match="must hold numbers above 0"):
        Logistic(lambdas=(0.0,))


def test_majority_says_the_frequent_label() -> None:
    y = np.array([1, 1, 1, 0])
    assert (Majority().fit(np.zeros((4, 0)), y, np.zeros((0, 0)), y[:0], 0)(np.zeros((3, 0))) > 0).all()
    assert (Majority().fit(np.zeros((4, 0)), 1 - y, np.zeros((0, 0)), y[:0], 0)(np.zeros((3, 0))) < 0).all()


def test_bag_of_words_marks_presence() -> None:
    x = bag_of_words(["a red ring", "a ring, a ring"])
    assert x.tolist() == [[1, 1, 1], [1, 0, 1]]
