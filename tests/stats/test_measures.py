"""Measures against scikit-learn and scipy, with ties and resamples, and the cluster bootstrap against naive loops."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import spearmanr
from sklearn import metrics as sk

from mllm_probe.errors import ProbeError
from mllm_probe.stats.bootstrap import Resamples, interval
from mllm_probe.stats.measures import HIGHER_IS_BETTER, METRICS, measure
from mllm_probe.stats.sums import terms


def naive_ece(confidence: np.ndarray, right: np.ndarray) -> float:
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def oracle(metric: str, kind: str, z: np.ndarray, y: np.ndarray) -> float:
    if kind == "number":
        return {"r2": sk.r2_score, "mae": sk.mean_absolute_error, "spearman": lambda a, b: spearmanr(a, b)[0]}[metric](
            y, z
        )
    p = np.column_stack([1 - expit(z), expit(z)]) if kind == "binary" else softmax(z, axis=1)
    answer, labels = p.argmax(axis=1), np.arange(p.shape[1])
    scores = z if kind == "binary" else p
    return {
        "accuracy": lambda: sk.accuracy_score(y, answer),
        "balanced_accuracy": lambda: sk.recall_score(y, answer, labels=np.unique(y), average="macro"),
        "auroc": lambda: sk.roc_auc_score(y, scores, multi_class="ovr", labels=labels),
        "average_precision": lambda: sk.average_precision_score(y, z),
        "nll": lambda: sk.log_loss(y, p, labels=labels),
        "ece": lambda: naive_ece(p.max(axis=1), answer == y),
        "f1": lambda: sk.f1_score(y, answer, average="binary" if kind == "binary" else "macro"),
    }[metric]()


def problem(kind: str, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Coarse scores, so that many tie, but never two at the maximum and never a logit of 0."""
    rng = np.random.default_rng(seed)
    if kind == "classes":
        y = rng.integers(0, 3, n)
        return np.round(rng.normal(size=(n, 3)) + (np.arange(3) == y[:, None]), 1) + np.arange(3) / 100, y
    if kind == "number":
        y = np.round(rng.normal(size=n) + 50, 1)
        return np.round(y - 50 + rng.normal(size=n)) + 50, y
    y = rng.integers(0, 2, n)
    return rng.integers(-3, 4, n) + y + 0.25, y


@pytest.mark.parametrize("kind", ["binary", "classes", "number"])
@pytest.mark.parametrize("seed", range(3))
def test_measures_are_those_of_scikit_learn_also_with_ties_and_resamples(kind: str, seed: int) -> None:
    z, y = problem(kind, 60, seed)
    weights = np.random.default_rng(100 + seed).integers(0, 3, (4, 60))
    for metric in METRICS[kind]:
        assert measure(metric, z, y, kind=kind) == pytest.approx([oracle(metric, kind, z, y)], rel=1e-9), metric
        for w, value in zip(weights, measure(metric, z, y, weights, kind), strict=True):
            expected = oracle(metric, kind, np.repeat(z, w, axis=0), np.repeat(y, w))
            assert value == pytest.approx(expected, rel=1e-9), metric


def test_sample_weights_of_scikit_learn_agree() -> None:
    z, y = problem("binary", 80, 9)
    w = np.random.default_rng(109).integers(0, 4, 80)
    for metric, theirs in (("auroc", sk.roc_auc_score), ("average_precision", sk.average_precision_score)):
        assert measure(metric, z, y, w[None]) == pytest.approx(theirs(y, z, sample_weight=w)), metric
    for metric, theirs in (("accuracy", sk.accuracy_score), ("f1", sk.f1_score)):
        assert measure(metric, z, y, w[None]) == pytest.approx(theirs(y, z > 0, sample_weight=w)), metric
    assert measure("nll", z, y, w[None]) == pytest.approx(sk.log_loss(y, expit(z), sample_weight=w))


@pytest.mark.parametrize("metric", METRICS["labels"])
def test_multi_label_is_micro_over_unmasked_cells(metric: str) -> None:
    rng = np.random.default_rng(0)
    z, y, mask = rng.normal(size=(30, 4)), rng.integers(0, 2, (30, 4)), rng.random((30, 4)) < 0.7
    w = rng.integers(0, 3, (3, 30))
    z[~mask] = np.nan  # what is masked is never looked at
    cells = [np.repeat(w[:, [i]], mask[i].sum(), axis=1) for i in range(30)]
    expected = measure(metric, z[mask], y[mask], np.hstack(cells))
    assert np.allclose(measure(metric, z, y, w, "labels", mask), expected, equal_nan=True)


def test_undefined_is_nan_and_a_zero_logit_half_right() -> None:
    z, ones = np.arange(3.0) + 1, np.ones(3, int)
    for metric in ("auroc", "average_precision", "balanced_accuracy"):
        assert np.isnan(measure(metric, z, ones)[0]) and np.isnan(measure(metric, -z, 1 - ones)[0]), metric
    assert np.isnan(measure("f1", -z, 1 - ones)[0]) and measure("f1", z, 1 - ones)[0] == 0
    assert np.isnan(measure("r2", z, np.full(3, 0.1), kind="number")[0])
    assert np.isnan(measure("spearman", np.ones(3), z, kind="number")[0])
    assert all(np.isnan(measure(m, z, np.array([0, 1, 1]), np.zeros((1, 3)))[0]) for m in METRICS["binary"])
    assert measure("accuracy", np.zeros(4), np.array([1, 0, 1, 1]))[0] == 0.5
    assert measure("balanced_accuracy", np.zeros(4), np.array([1, 0, 1, 1]))[0] == 0.5


def test_a_class_that_a_resample_lost_is_left_out_of_the_mean() -> None:
    z, y = problem("classes", 60, 1)
    w = (y != 2).astype(int)[None]
    kept = y != 2
    recalls = [np.mean(z[kept & (y == k)].argmax(axis=1) == k) for k in (0, 1)]
    assert measure("balanced_accuracy", z, y, w, "classes")[0] == pytest.approx(np.mean(recalls))
    assert np.isfinite(measure("auroc", z, y, w, "classes")[0])
    assert np.isnan(measure("auroc", z, y, (y == 1).astype(int)[None], "classes")[0])


def test_confident_logits_stay_finite() -> None:
    z, y = np.array([900.0, -900.0]), np.array([0, 0])
    assert measure("nll", z, y)[0] == 450 and measure("ece", z, y)[0] == pytest.approx(0.5)


def test_which_metrics_are_better_high() -> None:
    every = {metric for names in METRICS.values() for metric in names}
    assert every - HIGHER_IS_BETTER == {"nll", "ece", "mae"} and every >= HIGHER_IS_BETTER


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "acuracy"}, "did you mean 'accuracy'"),
        ({"kind": "binry"}, "did you mean 'binary'"),
        ({"logits": np.array([1, np.nan, np.inf])}, "2 of 3 logits are not finite"),
        ({"y": np.array([0, 1])}, "do not fit labels"),
        ({"logits": np.zeros(0), "y": np.zeros(0)}, "no rows"),
        ({"y": np.array([0, 1, 2])}, "1 labels such as 2 are no label of a binary target; allowed are 0 to 1"),
        ({"weights": np.ones((1, 2))}, r"weights of shape \(1, 2\) must be \[R, 3\]"),
        ({"logits": np.zeros((3, 1)), "kind": "classes"}, "at least 2 columns"),
        ({"logits": np.zeros((3, 2)), "y": np.zeros((3, 2)), "kind": "labels"}, "need a bool mask"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], message: str) -> None:
    sound = {"metric": "accuracy", "logits": np.arange(3.0), "y": np.array([0, 1, 1])}
    with pytest.raises(ProbeError, match=message):
        measure(**(sound | change))  # type: ignore[arg-type]


def test_the_bootstrap_draws_pictures_not_rows() -> None:
    groups = np.repeat([f"p{i}" for i in range(10)], 5)
    weights = Resamples(groups, draws=50).weights()
    assert weights.shape == (50, 50) and (weights.sum(axis=1) == 50).all()
    assert all(len(set(row[groups == g])) == 1 for row in weights for g in groups)
    assert (Resamples(groups, 50).weights() == weights).all() and (Resamples(groups, 50, 1).weights() != weights).any()


@pytest.mark.parametrize("kind", ["binary", "classes", "number", "labels"])
@pytest.mark.parametrize("chunk", [1, 1 << 26])
def test_resampled_means_are_the_measure_of_every_draw(kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast way over pictures against `measure` on row weights; pictures are unequal, unsorted, and scores tie."""
    monkeypatch.setattr("mllm_probe.stats.bootstrap.CHUNK_BYTES", chunk)
    rng = np.random.default_rng(3)
    groups, mask = rng.integers(0, 12, 60), None
    if kind == "labels":
        z, y, mask = rng.integers(-2, 3, (4, 60, 3)), rng.integers(0, 2, (60, 3)), rng.random((60, 3)) < 0.8
    else:
        y = problem(kind, 60, 0)[1]
        z = np.stack([np.random.default_rng(i).permutation(problem(kind, 60, 0)[0]) for i in range(4)])
    z = z.reshape(2, 2, *z.shape[1:])
    draws = Resamples(groups, 40)
    for metric in METRICS[kind]:
        expected = [[measure(metric, one, y, draws.weights(), kind, mask) for one in layer] for layer in z]
        found = draws.means(metric, z, y, kind, mask)
        assert found.shape == (2, 40)
        assert np.allclose(found, np.mean(expected, axis=1), rtol=1e-10, atol=1e-12, equal_nan=True), metric


def test_ratios_are_weighted_means_of_rows() -> None:
    rng = np.random.default_rng(0)
    scores, draws = rng.normal(size=(30, 2)), Resamples(rng.integers(0, 7, 30), 20)
    w = draws.weights()
    assert np.allclose(draws.ratios(scores), w @ scores / w.sum(axis=1, keepdims=True))


def test_intervals_leave_undefined_draws_out() -> None:
    values = np.array([[1.0, 2.0, 3.0, np.nan], [np.nan] * 4])
    found = interval(values, 10**6, 0.5)
    assert found[0] == pytest.approx([1.5, 2.5], abs=1e-5) and np.isnan(found[1]).all()


def test_bad_resamples_are_named() -> None:
    with pytest.raises(ProbeError, match="1 picture"):
        Resamples(np.zeros(4))
    with pytest.raises(ProbeError, match="draws=0"):
        Resamples(np.arange(4), draws=0)
    with pytest.raises(ProbeError, match=r"must be \[layers, seeds, 4 rows"):
        Resamples(np.arange(4)).means("accuracy", np.zeros((2, 4)), np.zeros(4))
    with pytest.raises(ProbeError, match="0 layers of 2 seeds"):
        Resamples(np.arange(4)).means("auroc", np.zeros((0, 2, 4)), np.zeros(4))
    with pytest.raises(ProbeError, match="level=95"):
        interval(np.zeros((1, 3)), 10, level=95)
    with pytest.raises(ProbeError, match=r"draws of 1 picture\(s\) are too few"):
        interval(np.zeros((1, 3)), 1)


def test_the_interval_covers_at_its_level_when_rows_of_a_picture_agree() -> None:
    """200 data sets of 80 pictures, 4 equal rows each; a row bootstrap would cover far less than 95 %."""
    rng, covered, by_row = np.random.default_rng(0), 0, 0
    for seed in range(200):
        logits, y = np.repeat(rng.random(80) < 0.7, 4) - 0.5, np.ones(320, int)
        for pictures in (np.arange(320) // 4, np.arange(320)):
            draws = Resamples(pictures, 400, seed)
            low, high = interval(draws.means("accuracy", logits[None, None], y), draws.size)[0]
            covered += (low <= 0.7 <= high) * (pictures[-1] == 79)
            by_row += (low <= 0.7 <= high) * (pictures[-1] == 319)
    assert 0.90 <= covered / 200 <= 0.98 and by_row / 200 < 0.8


def test_what_is_undefined_in_every_draw_has_no_interval() -> None:
    assert np.isnan(interval(np.full(10, np.nan), 10)).all()


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "nll", "ece", "f1"])
def test_two_labels_are_two_classes_with_logits_0_and_z(metric: str) -> None:
    """Bit for bit; F1 of two labels is that of label 1."""
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=500) * 10.0 ** rng.uniform(-3, 3, 500), rng.integers(0, 2, 500)
    z[:50] = 0
    both = terms(metric, "classes", np.column_stack([np.zeros(500), z]), y)
    assert np.array_equal(terms(metric, "binary", z, y), both[:, [1, 3]] if metric == "f1" else both)
