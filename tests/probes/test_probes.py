"""What every probe promises: bad input is named, constant columns say nothing, scale and shift change nothing."""

import numpy as np
import pytest
import torch

from mllm_probe.errors import ConfigError, ProbeError
from mllm_probe.probes.logistic import Logistic
from mllm_probe.probes.majority import Majority
from mllm_probe.probes.ridge import Ridge
from mllm_probe.records.problems import LayerData, Problem


def rows(x: np.ndarray) -> LayerData:
    return LayerData(torch.from_numpy(np.asarray(x, float)), name="lm.07@last")


def halves(y: np.ndarray, kind: str = "binary", mask: np.ndarray | None = None) -> Problem:
    """The first half trains, the second validates."""
    train = np.arange(len(y)) < len(y) // 2
    return Problem(y, train, ~train, kind, mask)


def linear(n: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width))
    return x, (x @ rng.normal(size=width) + rng.normal(size=n) > 0).astype(int)


def test_scale_and_shift_of_the_features_change_nothing() -> None:
    x, y = linear(300, 10)
    moved = x * np.exp(np.arange(10) - 5.0) + 100
    a, b = (Logistic().fit(rows(z), [halves(y)])[0](rows(z)) for z in (x, moved))
    assert np.allclose(a, b, atol=1e-3)


def test_constant_columns_are_ignored_and_counted() -> None:
    x, y = linear(200, 5)
    x[:, 2] = 7.0
    x[:100, 3] = -3.0  # constant in training alone
    (fit,) = Logistic().fit(rows(x), [halves(y)])
    assert fit.facts["constant_columns"] == 2
    assert abs(fit.weights[2]) < 1e-10 and abs(fit.weights[3]) < 1e-10 and np.isfinite(fit(rows(x))).all()
    (nothing,) = Logistic().fit(rows(np.ones((200, 3))), [halves(y)])
    assert nothing.facts["converged"] and np.ptp(nothing(rows(np.ones((5, 3))))) == 0


def test_a_huge_mean_costs_no_digits() -> None:
    """Massive activations: a column of size 1e6 that varies by 1."""
    x, y = linear(300, 4)
    (plain,), (massive,) = (Logistic().fit(rows(x + shift), [halves(y)]) for shift in (0.0, 1e6))
    assert np.allclose(plain(rows(x)), massive(rows(x + 1e6)), atol=1e-3)


BAD = [
    ({"y": np.ones(8, int)}, "all 4 training rows have the label 1; two are needed"),
    ({"y": np.array([0, 1, 0, 1, 2, 2, 1, 0]), "kind": "classes"}, r"no example of 1 of 3 classes \(class 2 first\)"),
    ({"y": np.arange(8.0), "kind": "number"}, "probe logistic fits binary, classes, labels, and the target is of kind"),
    ({"y": np.zeros(6, int)}, "lm.07@last has 8 rows and the target 6"),
    ({"y": np.tile([[0, 1], [1, 1]], (4, 1)), "kind": "labels"}, "label 1 is the same in all training rows"),
]


@pytest.mark.parametrize(("target", "message"), BAD)
def test_targets_that_cannot_be_learnt_are_named(target: dict, message: str) -> None:
    with pytest.raises(ProbeError, match=message):
        Logistic().fit(rows(np.eye(8)), [halves(**target)])


def test_masked_labels_without_rows_are_named() -> None:
    mask = np.ones((8, 2), dtype=bool)
    mask[4:, 1] = False
    with pytest.raises(ProbeError, match="label 1 has no validation rows"):
        Logistic().fit(rows(np.eye(8)), [halves(np.tile([[0, 1], [1, 0]], (4, 1)), "labels", mask)])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(bad: float) -> None:
    x, y = linear(40, 3)
    x[[3, 9], 1] = bad
    with pytest.raises(ProbeError, match="lm.07@last has 2 of 40 rows with values that are not finite"):
        Logistic().fit(rows(x), [halves(y)])


def test_numbers_that_cannot_be_learnt_are_named() -> None:
    for y, message in ((np.full(8, 2.0), "the same number"), (np.array([np.nan, *range(7)]), "1 of 8 target numbers")):
        with pytest.raises(ProbeError, match=message):
            Ridge().fit(rows(np.eye(8)), [halves(y, "number")])


def test_a_split_without_rows_is_named() -> None:
    x, y = linear(20, 3)
    with pytest.raises(ProbeError, match="no validation rows"):
        Logistic().fit(rows(x), [Problem(y, np.ones(20, bool), np.zeros(20, bool))])
    with pytest.raises(ConfigError, match="must hold numbers above 0"):
        Logistic(lambdas=(0.0,))


def test_majority_says_what_is_frequent() -> None:
    data = rows(np.zeros((8, 0)))
    for label in (0, 1):
        y = np.array([label, label, label, 1 - label] * 2)
        (fit,) = Majority().fit(data, [halves(y)])
        assert ((fit(data) > 0) == label).all()
    (fit,) = Majority().fit(data, [halves(np.array([2, 2, 1, 0] * 2), "classes")])
    assert fit(data).shape == (8, 3) and (fit(data).argmax(axis=1) == 2).all()
    (fit,) = Majority().fit(data, [halves(np.arange(8.0), "number")])
    assert fit(data).tolist() == [1.5] * 8
    (fit,) = Majority().fit(data, [halves(np.tile([[1, 0]], (8, 1)), "labels")])
    assert fit(data).shape == (8, 2) and (fit(data)[:, 0] > 0).all() and (fit(data)[:, 1] < 0).all()
