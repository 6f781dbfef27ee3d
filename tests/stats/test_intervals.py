"""Intervals over pictures: what they cover and how long they are in simulations, and what must not be claimed."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import beta, binomtest, norm
from scipy.stats import t as student
from simulate_intervals import Found, differences, loss_coverage, percentiles, right_over_seeds, shares
from sklearn.metrics import log_loss, mean_absolute_error, r2_score

from mllm_probe.errors import ProbeError
from mllm_probe.scoring import alarms as guards
from mllm_probe.stats.bootstrap import Resamples, interval
from mllm_probe.stats.intervals import LEAST, Interval, gap_limits, of, of_difference, of_rows, p_above, share_limits
from mllm_probe.stats.measures import METRICS, linearised, measure
from mllm_probe.stats.paired import difference, sign_flip

DRAWS = 200


def holds(found: Sequence[Found]) -> bool:
    """At 200 draws: 93.5 % on average, in at most 2 of 100 cells less than asked by two Monte Carlo errors, and lengths
    up to accuracy 0.8 at most 1.3 x those of the exact intervals."""
    short, longest = sum(one.short(DRAWS) for one in found), max(f.length for f in found if f.cell.accuracy <= 0.8)
    return np.mean([one.coverage for one in found]) >= 0.935 and short <= 0.05 * len(found) and longest <= 1.3


# ---- shares and their differences ----


def test_shares_are_covered_and_the_percentile_bootstrap_does_not() -> None:
    """112 cells of the table in docs/probing.md, 200 draws each; below 10 pictures nothing is promised."""
    assert holds(shares(DRAWS)) and holds(shares(DRAWS, sample=right_over_seeds))
    assert sum(one.short(DRAWS) for one in shares(50, percentiles)) > 20


@pytest.mark.parametrize("how", ["own", "rate"])
def test_differences_are_covered(how: str) -> None:
    assert holds(differences(DRAWS, how))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_table_is_covered() -> None:
    """4,000 draws a cell; two minutes on one thread."""
    for found in (shares(4000), shares(4000, sample=right_over_seeds), differences(4000, "own")):
        assert not [one for one in found if one.short(4000)]
        assert max(one.length for one in found if one.cell.accuracy <= 0.8) <= 1.3


@pytest.mark.parametrize(("right", "pictures"), [(0, 12), (3, 12), (40, 80), (12, 12)])
def test_one_decision_a_picture_is_scipys_exact_interval(right: int, pictures: int) -> None:
    """But for (z / t)^2, by which the number is less where pictures show a variance."""
    low, high = share_limits(np.repeat([1.0, 0.0], [right, pictures - right]), np.ones(pictures))
    exact = binomtest(right, pictures).proportion_ci()
    if right in (0, pictures):
        assert (low, high) == pytest.approx((exact.low, exact.high))
    else:
        n = (pictures - 1) * (norm.ppf(0.975) / student.ppf(0.975, pictures - 1)) ** 2
        k = n * right / pictures
        assert (low, high) == pytest.approx((beta.ppf(0.025, k, n - k + 1), beta.ppf(0.975, k + 1, n - k)))
        assert low < exact.low < exact.high < high


def test_all_right_is_not_100_to_100() -> None:
    """40 decisions on 10 pictures count as 10, since no error shows how errors cluster: 0.025^(1/10)."""
    draws, logits, y = Resamples(np.repeat(np.arange(10), 4)), np.ones((3, 40)), np.ones(40, int)
    found = of("accuracy", logits, y, draws)
    assert (found.low, found.high, found.reason) == (pytest.approx(0.025**0.1), 1.0, "")
    assert interval(draws.means("accuracy", logits[None], y), 10).tolist() == [[1.0, 1.0]], "as draws would have it"


def test_rows_of_a_picture_that_agree_are_one_decision() -> None:
    rng = np.random.default_rng(0)
    one = (rng.random(80) < 0.7).astype(float)
    alike = of_rows(np.repeat(one, 4), Resamples(np.repeat(np.arange(80), 4)), share=True)
    alone = of_rows(one, Resamples(np.arange(80)), share=True)
    assert (alike.low, alike.high) == pytest.approx((alone.low, alone.high))


def test_many_samples_at_once_are_each_by_itself() -> None:
    rng = np.random.default_rng(0)
    sizes, sums = np.arange(1.0, 13), rng.integers(0, np.arange(2, 14), (5, 12)).astype(float)
    plus = rng.integers(0, np.arange(1, 13) // 2 + 1, (5, 12)).astype(float)
    together, apart = share_limits(sums, sizes), [share_limits(one, sizes) for one in sums]
    assert np.stack(together, axis=1) == pytest.approx(np.array(apart))
    together, apart = (
        gap_limits(plus, sums / 2, sizes),
        [gap_limits(p, s / 2, sizes) for p, s in zip(plus, sums, strict=True)],
    )
    assert np.stack(together, axis=1) == pytest.approx(np.array(apart))


def test_equal_layers_have_no_interval_of_zero_length() -> None:
    """20 pictures without a disagreement: either layer may be ahead in up to 0.17 of others; detectable is no 0."""
    draws = Resamples(np.repeat(np.arange(20), 4))
    found, most = difference(np.ones(80), np.ones(80), draws), 1 - 0.025 ** (1 / 20)
    assert (found.low, found.high, found.p) == (pytest.approx(-most), pytest.approx(most), 1.0)
    assert found.detectable > most


def test_many_disagreements_give_students_interval() -> None:
    """Of which both kinds exclude each other: without their correlation the interval is shorter by a third."""
    rng = np.random.default_rng(0)
    a, b = (rng.random((2, 3000)) < 0.5).astype(float)
    found, gap = of_difference(a, b, Resamples(np.arange(3000))), a - b
    assert found.high - found.low == pytest.approx(2 * 1.961 * gap.std() / np.sqrt(3000), rel=0.02)


def test_the_difference_turns_with_its_sides() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random((2, 60)) < [[0.9], [0.6]]).astype(float)
    draws = Resamples(np.repeat(np.arange(20), 3))
    found, turned = of_difference(a, b, draws), of_difference(b, a, draws)
    assert (found.low, found.high) == pytest.approx((-turned.high, -turned.low))
    assert found.low < a.mean() - b.mean() < found.high


def test_scores_without_bounds_have_students_interval_and_none_without_variance() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 400))
    draws = Resamples(np.arange(400))
    found = of_difference(a, b, draws)
    arm = student.ppf(0.975, 399) * np.std(a - b, ddof=1) / 20
    assert (found.low, found.high) == pytest.approx(((a - b).mean() - arm, (a - b).mean() + arm), abs=1e-3)
    alike = difference(a + 1, a, draws)
    assert (
        np.isnan([alike.low, alike.high, alike.detectable]).all()
        and "all test pictures" in of_rows(0 * a, draws).reason
    )


# ---- losses and r2 ----


@pytest.mark.parametrize("metric", ["r2", "mae", "nll"])
def test_a_loss_is_students_t_on_its_logarithm_by_leaving_out_each_picture(metric: str) -> None:
    """By scikit-learn on the rows that are left, two seeds; the degrees are 2 / (kurtosis - 1) x G, at most G - 1."""
    rng, groups = np.random.default_rng(3), np.repeat(np.arange(12), [1, 2, 3, 4] * 3)
    z = rng.normal(size=(2, len(groups)))
    y = z[0] + z[1] + rng.normal(size=len(groups))
    y = (y > 0).astype(int) if metric == "nll" else y

    def loss(rows: np.ndarray) -> float:
        if metric == "nll":
            return float(np.mean([log_loss(y[rows], 1 / (1 + np.exp(-one[rows]))) for one in z]))
        score = r2_score if metric == "r2" else mean_absolute_error
        value = float(np.mean([score(y[rows], one[rows]) for one in z]))
        return 1 - value if metric == "r2" else value

    without = np.log([loss(groups != one) for one in range(12)])
    apart = without - without.mean()
    df = min(2 * 12 / (12 * (apart**4).sum() / (apart**2).sum() ** 2 - 1), 11)
    arm = student.ppf(0.975, df) * np.sqrt(11 / 12 * (apart**2).sum())
    ends = loss(groups >= 0) * np.exp([-arm, arm])
    found = of(metric, z, y, Resamples(groups, 1), "binary" if metric == "nll" else "number")
    assert (found.low, found.high) == pytest.approx(tuple(1 - ends[::-1]) if metric == "r2" else tuple(ends))


@pytest.mark.parametrize("r2", [0.5, 0.9])
def test_r2_is_covered_with_ten_pictures(r2: float) -> None:
    """1,000 draws of one row a picture: 93 % less two Monte Carlo errors."""
    assert loss_coverage("r2", r2, 10, 1, 1000)[0] >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 1000)


def test_a_loss_that_one_picture_makes_has_no_interval() -> None:
    y, groups = np.array([0.0] * 8 + [1.0]), np.arange(9)
    for metric in ("r2", "mae"):
        found = of(metric, np.zeros((1, 9)), y, Resamples(groups, 1), "number")
        assert np.isnan([found.low, found.high]).all() and "one test picture" in found.reason


# ---- other measures ----


def drawn(rng: np.random.Generator, pictures: int, positive: float, distance: float) -> tuple[np.ndarray, ...]:
    """Four rows a picture about one label, scores with an effect of the picture: logits [1, N], y, groups."""
    own = np.zeros(pictures, int)
    own[: max(LEAST, round(positive * pictures))] = 1
    y, groups = np.repeat(own, 4), np.repeat(np.arange(pictures), 4)
    noise = np.sqrt(0.3) * np.repeat(rng.normal(size=pictures), 4) + np.sqrt(0.7) * rng.normal(size=4 * pictures)
    return (noise + distance * (y - 0.5))[None], y, groups


def covered(metric: str, distance: float, truth: float, samples: int, pictures: int, positive: float) -> float:
    rng, hits = np.random.default_rng(pictures), 0
    for _ in range(samples):
        logits, y, groups = drawn(rng, pictures, positive, distance)
        found = of(metric, logits, y, Resamples(groups, 1))
        hits += found.low <= truth <= found.high
    return hits / samples


def true_value(metric: str, distance: float, positive: float) -> float:
    """By normal theory, but average precision in a large sample."""
    if metric == "auroc":
        return float(norm.cdf(distance / np.sqrt(2)))
    if metric == "balanced_accuracy":
        return float(norm.cdf(distance / 2))
    y = np.arange(200_000) < positive * 200_000
    z = norm.ppf((np.random.default_rng(0).permutation(200_000) + 0.5) / 200_000) + distance * y
    return float(measure(metric, z, y.astype(int))[0])


MANY = [pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(900)]), 100]


@pytest.mark.parametrize("samples", MANY)
@pytest.mark.parametrize("metric", ["auroc", "balanced_accuracy", "average_precision"])
def test_measures_that_weigh_labels_are_covered_from_8_pictures_of_each(metric: str, samples: int) -> None:
    """16, 40 and 80 pictures, 8 of the rarer label, at chance, at 0.92 and 0.99 AUROC: 93 % less two errors."""
    least = 0.93 - 2 * np.sqrt(0.93 * 0.07 / samples)
    for pictures, positive in ((16, 0.5), (40, 0.2), (80, 0.1)):
        for distance in (0.0, 2.0, 3.3):
            truth = true_value(metric, distance, positive)
            assert covered(metric, distance, truth, samples, pictures, positive) >= least, (pictures, distance)


@pytest.mark.parametrize("metric", ["auroc", "balanced_accuracy", "average_precision", "f1"])
def test_a_rare_label_has_no_interval_and_the_reason_is_said(metric: str) -> None:
    logits, y, groups = drawn(np.random.default_rng(0), 40, 0.2, 1.0)
    draws = Resamples(groups, 10)
    assert of(metric, logits, y, draws).low < measure(metric, logits[0], y)[0] < of(metric, logits, y, draws).high
    y[:4] = 0
    found = of(metric, logits, y, draws)
    assert np.isnan([found.low, found.high]).all()
    assert found.reason.startswith("a label is in 7 test pictures; ") and "needs 8 for" in found.reason
    assert "in 0 test pictures" in of(metric, logits, 0 * y, draws).reason


@pytest.mark.parametrize("kind", ["binary", "classes", "number", "labels"])
def test_every_measure_lies_within_its_interval(kind: str) -> None:
    rng = np.random.default_rng(0)
    n, mask = 240, None
    shape = {"classes": (3, n, 3), "labels": (3, n, 2)}.get(kind, (3, n))
    y = rng.normal(size=n) if kind == "number" else rng.integers(0, 3 if kind == "classes" else 2, shape[1:2])
    z = rng.normal(size=shape)
    if kind == "labels":
        y, mask = rng.integers(0, 2, shape[1:]), rng.random(shape[1:]) < 0.9
    z += np.eye(3)[y] if kind == "classes" else y
    draws = Resamples(np.repeat(np.arange(60), 4), 500)
    for metric in METRICS[kind]:
        found = of(metric, z, y, draws, kind, mask=mask)
        value = np.mean([measure(metric, one, y, kind=kind, mask=mask) for one in z])
        assert found.low < value < found.high and not found.reason, metric
        wider = of(metric, z, y, draws, kind, 0.99, mask)
        assert wider.low < found.low < found.high < wider.high


def test_draws_of_few_pictures_are_expanded() -> None:
    """Percentiles of draws of normal means are then Student's interval; Hesterberg 2015, section 3.1."""
    rng = np.random.default_rng(0)
    for pictures in (5, 20):
        spread = np.sqrt((pictures - 1) / pictures)  # of draws, in standard errors
        low, high = interval(spread * rng.normal(size=400_000), pictures)
        assert (low, high) == pytest.approx(np.array([-1, 1]) * student.ppf(0.975, pictures - 1), rel=0.03)


def test_bad_rows_are_named() -> None:
    draws = Resamples(np.arange(20))
    with pytest.raises(ProbeError, match=r"scores of shape \(3,\) must be \[20\]"):
        of_rows(np.ones(3), draws)
    with pytest.raises(ProbeError, match="level=95"):
        of_rows(np.ones(20), draws, level=95, share=True)
    assert "undefined" in of_rows(np.full(20, np.nan), draws).reason


def test_few_test_pictures_are_spoken_of() -> None:
    assert guards.few_groups(30, "pictures") is None
    said = guards.few_groups(29, "pictures")
    assert said and said.startswith("29 test pictures")


def test_p_is_the_tail_whose_interval_touches_the_floor() -> None:
    """A layer against a constant answer: no signs are flipped where one label in ten weighs nine times as much."""
    rng, found = np.random.default_rng(0), []
    pictures = Resamples(np.arange(150), 1)
    for _ in range(60):
        y = np.where(np.arange(150) < 15, 1, 0)
        z = rng.normal(size=(1, 150)) + 0.6

        def over(level: float, z: np.ndarray = z, y: np.ndarray = y) -> Interval:
            one = of("balanced_accuracy", z, y, pictures, "binary", level)
            return Interval(one.low - 0.5, one.high - 0.5)

        rows = linearised("balanced_accuracy", z[0], y)
        p, flipped = p_above(over, rows.mean() - 0.5), sign_flip(rows - 0.5)[1]
        assert (p == 1) == (rows.mean() <= 0.5)
        if p < 0.4:
            assert over(1 - 2 * p * 1.03).low > 0 > over(1 - 2 * p * 0.97).low
        found.append((p, flipped))
    p, flipped = np.asarray(found).T
    assert (p <= 0.05).sum() <= 2 < (flipped <= 0.05).sum(), "of 60 layers of noise"
    assert p_above(lambda level: Interval(np.nan, np.nan, "none"), 0.1) is None
