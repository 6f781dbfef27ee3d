"""Each kind of probe against its oracle, a planted signal, and the input it must refuse."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mllm_probe.errors import ConfigError, ProbeError
from mllm_probe.probes.k_sparse import KSparse
from mllm_probe.probes.mean_difference import MeanDifference
from mllm_probe.types import Compute, LayerData, Problem

SMALL = Compute(memory=1)  # nothing is kept: every product reads the rows again


def split(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training, validation and test rows [n] bool: a half, a quarter, a quarter."""
    part = np.random.default_rng(seed).permutation(n) % 4
    return part < 2, part == 2, part == 3


def problem(y: np.ndarray, seed: int = 0, **more: Any) -> Problem:
    train, val, _ = split(len(y), seed)
    return Problem(y, train, val, seed=seed, **more)


def layer(x: np.ndarray, **more: Any) -> LayerData:
    return LayerData(torch.from_numpy(x), name="lm.03@last", **more)


def planted(n: int = 300, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Correlated columns of unequal scales around large means, and labels from a noisy direction."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) * np.exp(rng.normal(size=width)) + 30
    y = (x - x.mean(0)) / x.std(0) @ rng.normal(size=width) + rng.normal(size=n) * 2 > 0.7
    return x, y.astype(int)


VECTOR = [MeanDifference(), MeanDifference(covariance=True), KSparse(k=2)]


# What every probe of vectors must do.


@pytest.mark.parametrize("probe", VECTOR, ids=repr)
def test_problems_fitted_together_are_fitted_as_alone_and_from_the_store_as_in_memory(probe: Any) -> None:
    x, y = planted(120, 6)
    problems = [problem(y, 0), problem(1 - y, 1), problem((x[:, 0] > x[:, 0].mean()).astype(int), 2)]
    together = probe.fit(layer(x), problems)
    streamed = probe.fit(layer(x, compute=SMALL), problems)
    for fit, other, one in zip(together, streamed, problems, strict=True):
        alone = probe.fit(layer(x), [one])[0]
        assert fit.facts["converged"] == 1 and fit(layer(x)).shape == (120,)
        assert np.allclose(fit(layer(x)), alone(layer(x)), rtol=1e-2, atol=1e-2)
        assert np.allclose(fit(layer(x)), other(layer(x)), rtol=1e-2, atol=1e-2)
        assert all(np.isfinite(part).all() or name == "scale" for name, part in fit.arrays().items())


@pytest.mark.parametrize("probe", VECTOR, ids=repr)
def test_test_rows_have_no_say(probe: Any) -> None:
    x, y = planted(120, 6)
    _, _, test = split(120)
    changed, relabelled = x.copy(), y.copy()
    changed[test], relabelled[test] = np.nan, 1 - y[test]
    a, b = probe.fit(layer(x), [problem(y)])[0], probe.fit(layer(changed), [problem(relabelled)])[0]
    assert np.array_equal(a(layer(x)), b(layer(x)))


@pytest.mark.parametrize("probe", VECTOR, ids=repr)
def test_constant_columns_say_nothing(probe: Any) -> None:
    x, y = planted(120, 5)
    padded = np.insert(x, 2, 7.0, axis=1)
    a, b = probe.fit(layer(x), [problem(y)])[0], probe.fit(layer(padded), [problem(y)])[0]
    assert np.allclose(a(layer(x)), b(layer(padded)), atol=1e-2)
    blind = probe.fit(layer(np.full((120, 4), 3.0)), [problem(y)])[0]
    assert np.ptp(blind(layer(np.full((9, 4), 3.0)))) == 0


@pytest.mark.parametrize("probe", VECTOR, ids=repr)
def test_what_cannot_be_fitted_is_named(probe: Any) -> None:
    x, y = planted(40, 3)
    with pytest.raises(ProbeError, match="training rows have the label 1"):
        probe.fit(layer(x), [problem(np.ones(40, int))])
    with pytest.raises(ProbeError, match="the target is of kind nonsense"):
        probe.fit(layer(x), [problem(y, kind="nonsense")])
    x[np.flatnonzero(split(40)[0])[0], 1] = np.nan
    with pytest.raises(ProbeError, match="lm.03@last has 1 of"):
        probe.fit(layer(x), [problem(y)])


# Means of classes.


def test_the_mean_difference_is_that_of_the_means() -> None:
    x, y = planted()
    train, _, _ = split(len(y))
    fit = MeanDifference(standardise=False).fit(layer(x), [problem(y)])[0]
    one, zero = x[train & (y == 1)].mean(0), x[train & (y == 0)].mean(0)
    assert np.allclose(fit(layer(x)), (x - (one + zero) / 2) @ (one - zero), rtol=1e-9)
    z = StandardScaler().fit(x[train]).transform(x)
    one, zero = z[train & (y == 1)].mean(0), z[train & (y == 0)].mean(0)
    fit = MeanDifference().fit(layer(x), [problem(y)])[0]
    assert np.allclose(fit(layer(x)), (z - (one + zero) / 2) @ (one - zero))


@pytest.mark.parametrize("shrinkage", [0.02, 0.5, 0.95])
@pytest.mark.parametrize(("n", "width"), [(300, 12), (60, 90)])
def test_whitened_it_is_scikit_learns_discriminant(n: int, width: int, shrinkage: float) -> None:
    x, y = planted(n, width)
    train, _, _ = split(n)
    z = StandardScaler().fit(x[train]).transform(x)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(z[train], y[train])
    fit = MeanDifference(covariance=True, shrinkage=shrinkage).fit(layer(x), [problem(y)])[0]
    assert fit.facts["converged"] == 1
    expected = theirs.decision_function(z)
    assert np.allclose(fit(layer(x)), expected, atol=2e-3 * np.abs(expected).max())


def test_whitening_needs_spread_within_a_class() -> None:
    y = np.arange(40) % 2
    with pytest.raises(ProbeError, match="all training rows of a class are equal"):
        MeanDifference(covariance=True).fit(layer(y[:, None] * np.ones((1, 3))), [problem(y)])
    with pytest.raises(ConfigError, match="probe.shrinkage=1.0 must lie between 0 and 1"):
        MeanDifference(shrinkage=1.0)


# A few columns.


@pytest.mark.parametrize("k", [1, 4])
def test_k_columns_are_scikit_learns_choice_and_its_fit(k: int) -> None:
    x, y = planted()
    train, _, _ = split(len(y))
    fit = KSparse(k=k, selection="f_statistic", lambdas=(0.01,)).fit(layer(x), [problem(y)])[0]
    chosen = SelectKBest(f_classif, k=k).fit(x[train], y[train]).get_support(indices=True)
    assert fit.arrays()["columns"].tolist() == chosen.tolist() and fit.facts["k"] == k
    z = StandardScaler().fit(x[train][:, chosen]).transform(x[:, chosen])
    theirs = LogisticRegression(C=1 / (0.01 * train.sum()), tol=1e-10, max_iter=10_000).fit(z[train], y[train])
    assert np.allclose(fit(layer(x)), theirs.decision_function(z), atol=1e-2)


def test_mean_differences_choose_in_the_models_own_units() -> None:
    x, y = planted()
    x[:, 5] *= 1e4
    train, _, _ = split(len(y))
    fit = KSparse(k=3).fit(layer(x), [problem(y)])[0]
    gap = np.abs(x[train & (y == 1)].mean(0) - x[train & (y == 0)].mean(0))
    assert fit.arrays()["columns"].tolist() == sorted(np.argsort(-gap)[:3]) and 5 in fit.arrays()["columns"]


def test_more_columns_than_there_are_is_named() -> None:
    x, y = planted(40, 3)
    with pytest.raises(ProbeError, match="probe.k=4 columns of lm.03@last are wanted, and it has 3"):
        KSparse(k=4).fit(layer(x), [problem(y)])
    with pytest.raises(ConfigError, match="did you mean 'f_statistic'"):
        KSparse(selection="f_statistics")
    with pytest.raises(ConfigError, match="probe.k=0 must be 1 or more"):
        KSparse(k=0)
