"""The interval of a ratio of means: against the quadratic solved by hand, and by simulated coverage."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import t as student

from mllm_probe.errors import ProbeError
from mllm_probe.stats.intervals import degrees
from mllm_probe.stats.ratios import fieller


def pairs(seed: int, pictures: int = 25, ratio: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    below = rng.normal(2.0, 1.5, pictures)
    return ratio * below + rng.normal(0, 0.8, pictures), below


def test_both_ends_are_where_the_difference_is_just_told_apart() -> None:
    """Looked for by bisection, with a t-test of above - rho below at each rho."""
    above, below = pairs(0)
    ratio = above.sum() / below.sum()
    e = (above - above.mean()) - ratio * (below - below.mean())
    beyond = student.ppf(0.975, float(degrees(np.asarray((e**2).sum() ** 2 / (e**4).sum()), len(above))))

    def gap(rho: float) -> float:
        left = above - rho * below
        return abs(left.mean()) / (left.std(ddof=1) / np.sqrt(len(left))) - beyond

    found = fieller(above, below)
    assert found[0] == pytest.approx(brentq(gap, ratio - 3, ratio), abs=1e-8)
    assert found[1] == pytest.approx(brentq(gap, ratio, ratio + 3), abs=1e-8)


def test_of_equal_denominators_it_is_that_of_a_mean() -> None:
    above = np.random.default_rng(1).normal(1.0, 1.0, 40)
    low, high = fieller(above, np.full(40, 2.0))
    assert (low + high) / 2 == pytest.approx(above.mean() / 2) and low < above.mean() / 2 < high


def test_many_at_once_are_each_by_itself() -> None:
    above, below = (np.stack(side) for side in zip(*(pairs(seed) for seed in range(4)), strict=True))
    low, high = fieller(above, below)
    for i in range(4):
        assert (low[i], high[i]) == pytest.approx(fieller(above[i], below[i]))


def test_a_denominator_that_may_be_nothing_has_no_interval() -> None:
    rng = np.random.default_rng(2)
    low, high = fieller(rng.normal(1, 1, 30), rng.normal(0, 1, 30))
    assert np.isnan(low) and np.isnan(high)


def test_one_ratio_in_all_pictures_tells_nothing_of_others() -> None:
    below = np.arange(1.0, 9.0)
    low, high = fieller(0 * below, below)
    assert np.isnan(low) and np.isnan(high)


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(ProbeError, match="level=2"):
        fieller(np.ones(3), np.ones(3), 2)


@pytest.mark.parametrize(("pictures", "ratio", "skewed"), [(12, 0.6, 0), (30, 0.0, 0), (30, 1.0, 1), (80, 0.6, 1)])
def test_it_covers(pictures: int, ratio: float, skewed: bool) -> None:
    """Of 4,000 samples; the denominators have mean 2 and deviation 1.5. With 12 pictures and skewed residuals it covers
    91 %, as Student's t of a mean does there."""
    rng = np.random.default_rng(3)
    below = rng.normal(2.0, 1.5, (4000, pictures))
    noise = rng.exponential(1.0, below.shape) - 1 if skewed else rng.normal(size=below.shape)
    low, high = fieller(ratio * below + noise, below)
    covered = np.isnan(low) | ((low <= ratio) & (ratio <= high))
    assert 0.925 <= covered.mean() <= 0.98
