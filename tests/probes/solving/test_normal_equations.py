"""Ridge of many labels at once against scikit-learn and against the solver of single problems."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge as Oracle

from mllm_probe.probes.ridge import Ridge
from mllm_probe.probes.solving import normal_equations
from mllm_probe.probes.solving.linear import LinearFit, fit_linear
from mllm_probe.probes.solving.objectives import Squared
from mllm_probe.records.problems import Compute, LayerData, Problem
from tests.support.planted import layer, planted

LAMBDAS = (1e-3, 1e-2, 0.1, 1.0)


def problems(masked: bool = True) -> tuple[LayerData, list[Problem]]:
    """Two seeds that test the same rows, so that they share the others, and one that trains on few."""
    x, _ = planted(240)
    x[:, 3] = 7  # says nothing
    rng = np.random.default_rng(1)
    y = ((x - x.mean(0)) / (x.std(0) + 1e-9) @ rng.normal(size=(12, 3)) + rng.normal(size=(240, 3)) > 0.5).astype(int)
    mask = rng.random(y.shape) < 0.7 if masked else None
    found = []
    for seed, few in ((0, False), (1, False), (1, True)):
        part = np.append(np.random.default_rng(seed).permutation(180) % 3, np.full(60, 3))
        train = part == 0 if few else part < 2
        found.append(Problem(y, train, part == 2, "labels", mask))
    return layer(x), found


@pytest.mark.parametrize("masked", [True, False])
def test_weights_are_those_of_scikit_learn(masked: bool) -> None:
    data, asked = problems(masked=masked)
    x = np.asarray(data.rows)
    for problem, fit in zip(asked, Ridge(LAMBDAS).fit(data, asked), strict=True):
        mean, scale = x[problem.train].mean(0), x[problem.train].std(0)
        z = np.divide(x - mean, scale, out=np.zeros_like(x), where=scale > 1e-9)
        losses = {}
        for strength in LAMBDAS:
            said = []
            for c in range(3):
                counted = np.ones(240, bool) if problem.mask is None else problem.mask[:, c]
                rows, signs = counted & problem.train, 2 * problem.y[:, c] - 1
                said.append(Oracle(alpha=strength * rows.sum()).fit(z[rows], signs[rows]).predict(z))
            errors = [
                (said[c] - 2 * problem.y[:, c] + 1)[
                    problem.val & (True if problem.mask is None else problem.mask[:, c])
                ]
                for c in range(3)
            ]
            losses[strength] = np.mean([(error**2).mean() / 2 for error in errors]), np.stack(said, axis=1)
        best = min(losses, key=lambda strength: losses[strength][0])
        assert fit.facts["lambda"] == best and fit.facts["val_loss"] == pytest.approx(losses[best][0])
        assert fit(data) == pytest.approx(losses[best][1], abs=1e-8)
        assert fit.facts["constant_columns"] == 1 and fit.facts["radius"] < 1e-9


def test_the_solver_of_single_problems_finds_the_same() -> None:
    data, asked = problems()
    slow = fit_linear(data, asked, LAMBDAS, {"labels": Squared()})
    for one, other in zip(Ridge(LAMBDAS).fit(data, asked), slow, strict=True):
        assert isinstance(one, LinearFit) and one.decides == other.decides
        assert one(data) == pytest.approx(other(data), abs=1e-6)
        assert one.facts["lambda"] == other.facts["lambda"]


def test_it_is_used_where_it_is_cheap() -> None:
    data, asked = problems()
    assert normal_equations.few_columns(data, asked)
    binary = [Problem(asked[0].y[:, 0], asked[0].train, asked[0].val)]
    assert not normal_equations.few_columns(data, binary)
    small = LayerData(data.rows, compute=Compute(memory=1000))
    assert not normal_equations.few_columns(small, asked)
    assert Ridge(LAMBDAS).fit(small, asked)[0](data) == pytest.approx(
        Ridge(LAMBDAS).fit(data, asked)[0](data), abs=1e-6
    )
