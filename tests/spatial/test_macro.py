"""Means over categories against scikit-learn, their slopes against finite differences, and their intervals."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, jaccard_score, roc_auc_score

from mllm_probe.spatial.macro import Counted, Macro, of_order, of_overlap, over_seeds, told
from tests.support.fields import BLANK

ORACLES = {"auroc": roc_auc_score, "average_precision": average_precision_score}


def drawn(n: int = 90, categories: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.random((n, categories)) < 0.3
    return np.round(rng.normal(size=y.shape) + y, 1), y, rng.random(y.shape) < 0.7  # with ties


@pytest.mark.parametrize("metric", ORACLES)
def test_the_mean_over_categories_is_that_of_scikit_learn(metric: str) -> None:
    z, y, counted = drawn()
    y[:, 2] = False  # no positive: left out
    found = of_order([metric], z, y, counted)[metric]
    each = [ORACLES[metric](y[counted[:, c], c], z[counted[:, c], c]) for c in range(2)]
    assert found.categories == 2
    assert found.value == pytest.approx(np.mean(each))
    assert found.rows.mean() == pytest.approx(found.value)
    groups = np.arange(len(y)) % 7
    assert found.by_group(groups, 7).mean() == pytest.approx(found.value)


@pytest.mark.parametrize("metric", ORACLES)
def test_slopes_are_those_of_weights(metric: str) -> None:
    """A cell that counts a little more changes the mean by its slope: the category's tokens alone are weighed."""
    z, y, counted = drawn(40, 2)
    found, step = of_order([metric], z, y, counted)[metric], 1e-5

    def value(heavy: int) -> float:
        each = []
        for c in range(2):
            rows = counted[:, c]
            weight = np.where(np.arange(len(y)) == heavy, 1 + step, 1.0)[rows]
            each.append(ORACLES[metric](y[rows, c], z[rows, c], sample_weight=weight))
        return float(np.mean(each))

    slopes = [(value(i) - value(-1)) / step for i in range(len(y))]
    assert found.slopes == pytest.approx(np.asarray(slopes), abs=1e-5)


def test_overlap_is_that_of_scikit_learn_and_its_slopes_are_those_of_weights() -> None:
    z, y, _ = drawn()
    y[:, 1] = False
    said, step = z > 0.4, 1e-5
    found = of_overlap(said, y)

    def value(heavy: int) -> float:
        weight = np.where(np.arange(len(y)) == heavy, 1 + step, 1.0)
        return float(np.mean([jaccard_score(y[:, c], said[:, c], sample_weight=weight) for c in (0, 2)]))

    assert found.value == pytest.approx(value(-1)) and found.categories == 2
    assert found.rows.mean() == pytest.approx(found.value)
    assert found.slopes == pytest.approx([(value(i) - value(-1)) / step for i in range(len(y))], abs=1e-5)


def test_a_mean_over_seeds_and_its_rows() -> None:
    z, y, counted = drawn()
    found = {seed: of_order(["auroc"], z * sign, y)["auroc"] for seed, sign in ((3, 1), (5, -1))}
    tested = Counted(np.arange(len(y)) % 30, y, counted)
    rows = list(told(BLANK, found, tested, 0.9))
    assert [row.seed for row in rows] == ["3", "5", "all"]
    assert rows[2].value == pytest.approx(0.5) and rows[2].low < 0.5 < rows[2].high and rows[2].ci_level == 0.9
    assert rows[0].low is None and rows[0].n == counted.any(1).sum() and rows[0].n_groups == 30
    assert over_seeds(list(found.values())).rows.mean() == pytest.approx(0.5)


def test_nothing_is_told_without_a_category_and_no_interval_of_few_pictures() -> None:
    z, y, counted = drawn()
    groups = np.arange(len(y)) % 7
    assert not list(told(BLANK, {0: of_order(["auroc"], z, y & False)["auroc"]}, Counted(groups, y, counted), 0.95))
    assert np.isnan(of_order(["auroc"], z, y & False)["auroc"].value)
    *_, row = told(BLANK, {0: of_order(["auroc"], z, y)["auroc"]}, Counted(groups, y, counted), 0.95)
    assert row.value is not None and row.low is None and row.ci_level is None


@pytest.mark.parametrize(("metric", "categories"), [("auroc", 4), ("average_precision", 4), ("auroc", 1)])
def test_intervals_of_noise_cover_what_noise_has(metric: str, categories: int) -> None:
    """Labels and logits both have something in common within a picture and nothing with each other."""
    pictures, tokens, draws = 24, 9, 200
    groups = np.repeat(np.arange(pictures), tokens)
    rng, truth, hit = np.random.default_rng(0), [], []
    for _ in range(draws):
        common = rng.normal(size=(2, pictures, categories))[:, groups]
        z, score = rng.normal(size=(2, len(groups), categories)) + common
        y = score > 1.3
        found = of_order([metric], z, y)[metric]
        limits = Counted(groups, y, np.ones_like(y)).interval(found, 0.95)
        truth.append(found.value)
        hit.append((limits.low, limits.high))
    low, high = np.asarray(hit).T
    middle = 0.5 if metric == "auroc" else np.mean(truth)
    covered = np.mean((low <= middle) & (middle <= high))
    assert 0.9 <= covered <= 1, covered
    assert isinstance(found, Macro)
