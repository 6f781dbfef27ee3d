"""Many paired differences at once: two-sided max-T over sign flips of whole pictures."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from mllm_probe.config.sweep import drawn_from, draws_of
from mllm_probe.report.tables.controls import against
from mllm_probe.stats.permutation import max_t_flips


def by_hand(sums: np.ndarray) -> tuple[list[float], list[float]]:
    """Differences [K, G]: all 2^G sign patterns in plain loops; p and step-down p of |sum| over its deviation."""
    scale = [sum(x * x for x in line) ** 0.5 for line in sums]
    null = [
        [abs(sum(s * x for s, x in zip(signs, line, strict=True))) / sd for line, sd in zip(sums, scale, strict=True)]
        for signs in product((1, -1), repeat=sums.shape[1])
    ]
    seen, k = null[0], range(len(sums))
    p = [sum(one[i] >= seen[i] - 1e-9 for one in null) / len(null) for i in k]
    adjusted, least = [0.0] * len(sums), 0.0
    left = sorted(k, key=lambda i: -seen[i])
    for place, i in enumerate(left):
        least = max(least, sum(max(one[j] for j in left[place:]) >= seen[i] - 1e-9 for one in null) / len(null))
        adjusted[i] = least
    return p, adjusted


@pytest.mark.parametrize("seed", range(3))
def test_few_pictures_are_enumerated(seed: int) -> None:
    sums = np.random.default_rng(seed).normal(size=(4, 8)) + np.array([[0], [0.3], [-0.9], [1.5]])
    found = max_t_flips(sums)
    expected = by_hand(sums)
    assert np.allclose(found.p, expected[0]) and np.allclose(found.p_adjusted, expected[1])


def test_many_pictures_agree_with_enumeration() -> None:
    sums = np.random.default_rng(5).normal(size=(3, 14)) + np.array([[0], [0.5], [-0.6]])
    found, expected = max_t_flips(sums, permutations=20_000), by_hand(sums)
    assert np.allclose(found.p, expected[0], atol=0.01) and np.allclose(found.p_adjusted, expected[1], atol=0.01)


def test_no_difference_anywhere_is_no_alarm() -> None:
    found = max_t_flips(np.zeros((3, 20)))
    assert (found.p == 1).all() and (found.p_adjusted == 1).all()


def sweeps(n: int, pictures: int, shift: np.ndarray) -> np.ndarray:
    """Adjusted p [n, 33] of differences that are alike in neighbouring layers (AR 0.9), skewed and unequal in size."""
    found = []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        noise = rng.normal(size=(33, pictures)) * rng.gamma(1.0, size=pictures)
        for layer in range(1, 33):
            noise[layer] = 0.9 * noise[layer - 1] + np.sqrt(1 - 0.81) * noise[layer]
        found.append(max_t_flips(noise + shift[:, None], permutations=499, seed=seed).p_adjusted)
    return np.stack(found)


@pytest.mark.parametrize("pictures", [10, 40])
def test_equal_models_differ_somewhere_in_5_percent_of_sweeps(pictures: int) -> None:
    """300 null sweeps of 33 layers: 25 are the 99.5th percentile of Binomial(300, 0.05); 5 its 0.5th."""
    alarms = (sweeps(300, pictures, np.zeros(33)).min(axis=1) <= 0.05).sum()
    assert 5 <= alarms <= 25


def test_layers_below_are_found_and_the_others_stay_silent() -> None:
    """Layers 0 to 9 lie far below the control: both signs are looked for, and the rest alarm in 5 % at most."""
    p = sweeps(200, 40, np.where(np.arange(33) < 10, -2.5, 0.0))
    assert (p[:, :10] <= 0.05).mean() > 0.99
    assert (p[:, 10:].min(axis=1) <= 0.05).sum() <= 18


def test_of_several_draws_the_worst_speaks() -> None:
    rows = [
        ("random_weights", 0.30, "above"),
        ("random_weights_2", 0.25, ""),  # less is known of this one, although it lies lower than none
        ("random_weights_3", 0.20, "above"),
        ("text_only", -0.5, "below"),
    ]
    table = pd.DataFrame(rows, columns=["other", "value", "verdict"])
    table = table.assign(test="control", site="lm.01", position="last")
    worst = against(table, "random_weights", "lm.01", "last")
    assert (worst.other, worst.verdict) == ("random_weights_2", "")
    lower = table.assign(verdict=["above", "", "below", "below"])
    assert against(lower, "random_weights", "lm.01", "last").other == "random_weights_3"
    assert against(table.assign(verdict="above"), "random_weights", "lm.01", "last").other == "random_weights_3"
    assert against(table, "blank_picture", "lm.01", "last") is None
    assert draws_of("random_weights", 3) == ("random_weights", "random_weights_2", "random_weights_3")
    assert drawn_from("random_layers_2") == "random_layers_2", "a control of its own"
