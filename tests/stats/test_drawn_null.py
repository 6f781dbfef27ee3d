"""Values against drawn ones: by plain loops, and how often noise is called something."""

import numpy as np
import pytest

from mllm_probe.errors import ProbeError
from mllm_probe.stats.drawn_null import max_t_draws


def by_hand(values: np.ndarray, null: np.ndarray) -> tuple[list[float], list[float]]:
    """p and step-down p by plain loops."""
    rows = [list(map(abs, values)), *([abs(x) for x in line] for line in null)]
    scale = [(sum(row[k] ** 2 for row in rows) / len(rows)) ** 0.5 for k in range(len(values))]
    rows = [[x / s for x, s in zip(row, scale, strict=True)] for row in rows]
    seen, least, adjusted = rows[0], 0.0, [0.0] * len(values)
    left = sorted(range(len(values)), key=lambda k: -seen[k])
    for place, k in enumerate(left):
        least = max(least, sum(max(row[j] for j in left[place:]) >= seen[k] - 1e-9 for row in rows) / len(rows))
        adjusted[k] = least
    return [sum(row[k] >= seen[k] - 1e-9 for row in rows) / len(rows) for k in range(len(values))], adjusted


@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_loops_find(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, null = rng.normal(size=5) * [1, 2, 3, 1, 9], rng.normal(size=(100, 5)) * [1, 1, 2, 5, 1]
    found = max_t_draws(values, null)
    assert np.allclose(found.p, by_hand(values, null)[0]) and np.allclose(found.p_adjusted, by_hand(values, null)[1])
    assert found.p[4] == pytest.approx(1 / 101)


def test_scales_do_not_matter_and_nothing_is_no_alarm() -> None:
    rng = np.random.default_rng(0)
    values, null, scale = rng.normal(size=4), rng.normal(size=(100, 4)), np.array([1, 10, 1e4, 1e-3])
    assert np.allclose(max_t_draws(values, null).p_adjusted, max_t_draws(values * scale, null * scale).p_adjusted)
    assert (max_t_draws(np.zeros(2), np.zeros((10, 2))).p == 1).all()


def test_draws_that_are_alike_in_all_columns_call_noise_something_in_5_percent() -> None:
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(400):
        drawn = 0.9 * rng.normal(size=(101, 1)) + 0.4 * rng.normal(size=(101, 12))
        called += max_t_draws(drawn[0], drawn[1:]).p_adjusted.min() <= 0.05
    assert 8 <= called <= 33  # 20 expected


@pytest.mark.parametrize(
    ("values", "null", "said"),
    [
        (np.zeros(3), np.zeros((5, 2)), "must be"),
        (np.zeros(3), np.zeros((0, 3)), "at least 1"),
        (np.array([np.nan]), np.zeros((5, 1)), "not finite"),
    ],
)
def test_what_is_no_null_is_refused(values: np.ndarray, null: np.ndarray, said: str) -> None:
    with pytest.raises(ProbeError, match=said):
        max_t_draws(values, null)
