"""The statistic of the test against chance: each measure under permuted labels, against the measure itself."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, log_loss, roc_auc_score

from mllm_probe.stats.chance import statistic
from mllm_probe.stats.measures import measure, weighed_alike
from mllm_probe.stats.permutation import max_t

N = 60


def _value(metric: str, z: np.ndarray, y: np.ndarray) -> float:
    """scikit-learn's own, of one seed; z [N] or [N, C]."""
    several = z.ndim == 2
    e = np.exp(z - z.max(axis=-1, keepdims=True)) if several else 1 / (1 + np.exp(-z))
    p = e / e.sum(axis=1, keepdims=True) if several else e
    if metric == "balanced_accuracy":
        return float(balanced_accuracy_score(y, z.argmax(axis=1) if several else z > 0))
    if metric == "accuracy":
        return float(np.mean(y == (z.argmax(axis=1) if several else z > 0)))
    if metric == "nll":
        return -float(log_loss(y, p))
    if metric == "average_precision":
        return float(average_precision_score(y, z))
    return float(np.mean([roc_auc_score(y == k, p[:, k]) for k in range(3)]) if several else roc_auc_score(y, z))


@pytest.mark.parametrize("kind", ("binary", "classes"))
@pytest.mark.parametrize("metric", ("accuracy", "balanced_accuracy", "auroc", "average_precision", "nll"))
def test_the_statistic_is_the_measure_under_any_labels_of_the_same_counts(metric: str, kind: str) -> None:
    if (metric, kind) == ("average_precision", "classes"):
        return
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1, 2], (40, 14, 6)) if kind == "classes" else np.repeat([0, 1], (51, 9))
    z = rng.normal(size=(2, 3, N, 3)) if kind == "classes" else rng.normal(size=(2, 3, N)).round(1) + 1e-9  # with ties
    found = statistic(metric, z, y, kind)
    labels = np.stack([rng.permutation(y) for _ in range(7)])
    rows = np.arange(N)
    value = found(labels) if callable(found) else np.stack([found[:, rows, one].mean(axis=1) for one in labels])
    expected = [[np.mean([_value(metric, seed, one) for seed in curve]) for curve in z] for one in labels]
    np.testing.assert_allclose(value, expected, atol=1e-9)


@pytest.mark.parametrize("metric", ("balanced_accuracy", "auroc", "average_precision", "nll"))
def test_rare_positives_are_found_where_accuracy_sees_nothing(metric: str) -> None:
    """One in ten is positive and ranked well, and every answer is no: accuracy tells no layer from a constant."""
    rng = np.random.default_rng(2)
    y = (rng.random(200) < 0.1).astype(int)
    z = np.stack([rng.normal(size=200) - 4, rng.normal(size=200) + 2 * y - 4])[:, None]
    shift = 4.0 if metric == "balanced_accuracy" else 0.0  # as the training share's log-odds are taken off
    order, groups = rng.permutation(200), np.arange(200)
    plain = max_t(statistic("accuracy", z, y, "binary"), y, groups, order, permutations=499)
    found = max_t(statistic(metric, z + shift, y, "binary"), y, groups, order, permutations=499)
    assert plain.p_adjusted[1] > 0.05 and found.p_adjusted[1] <= 0.01 < found.p_adjusted[0]


def test_a_rare_label_is_never_answered_unless_labels_are_weighed_alike() -> None:
    """The figures of docs/probing.md: 9.6 % positives that a probe ranks well and to which it says no."""
    rng, found = np.random.default_rng(0), []
    for _ in range(20):
        y = (rng.random(700) < 0.096).astype(int)
        x = rng.normal(size=(700, 32)) + 2.1 * y[:, None] * (np.arange(32) == 0)
        train, truth = slice(500), y[500:]
        z = LogisticRegression(C=0.02).fit(x[train], y[train]).decision_function(x[500:])
        alike = weighed_alike(z, np.log([1 - y[train].mean(), y[train].mean()]), "binary")
        share = y[train].mean()
        assert measure("balanced_accuracy", alike, truth)[0] == pytest.approx(
            balanced_accuracy_score(truth, 1 / (1 + np.exp(-z)) > share)
        )
        found.append(
            [measure("auroc", z, truth)[0], *(measure("balanced_accuracy", one, truth)[0] for one in (z, alike))]
        )
    assert np.mean(found, axis=0).round(2).tolist() == [0.9, 0.53, 0.82]
