"""Linearised row scores against numeric derivatives of the measures under weights, and against what theory says."""

import numpy as np
import pytest

from mllm_probe.errors import ProbeError
from mllm_probe.stats.measures import METRICS, linearised, measure
from mllm_probe.stats.paired import row_scores

ROWS = 60
PAIRS = [(kind, metric) for kind, names in METRICS.items() for metric in names if metric != "spearman"]


def problem(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Logits with ties, labels, and a mask for several labels a row."""
    rng = np.random.default_rng(seed)
    if kind == "number":
        y = rng.normal(5, 2, ROWS)
        return y + rng.normal(size=ROWS), y, None
    if kind == "classes":
        return rng.integers(-3, 4, (ROWS, 4)) / 2, np.append([0, 1, 2], rng.integers(0, 3, ROWS - 3)), None
    shape = (ROWS, 3) if kind == "labels" else (ROWS,)
    y = (rng.random(shape) < 0.3).astype(int)
    mask = rng.random(shape) < 0.8 if kind == "labels" else None
    return np.round(y + rng.normal(size=shape), 1), y, mask


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("kind", "metric"), PAIRS)
def test_scores_are_value_and_derivative_by_weight(kind: str, metric: str, seed: int) -> None:
    """Central differences of `measure`, one row's weight at a time; ties, an absent class and masks included."""
    z, y, mask = problem(kind, seed)
    step = 1e-5
    moved = np.concatenate([1 + step * np.eye(ROWS), 1 - step * np.eye(ROWS)])
    up, down = np.split(measure(metric, z, y, moved, kind, mask), 2)
    value = measure(metric, z, y, None, kind, mask)[0]
    found = linearised(metric, z, y, kind, mask)
    assert found.mean() == pytest.approx(value, abs=1e-12)
    assert found == pytest.approx(value + ROWS * (up - down) / (2 * step), abs=1e-4 if metric == "ece" else 1e-6)


@pytest.mark.parametrize(("kind", "metric"), [pair for pair in PAIRS if pair[0] != "labels"])
def test_row_scores_are_the_mean_over_seeds_and_larger_is_better(kind: str, metric: str) -> None:
    z, y = zip(*(problem(kind, seed)[:2] for seed in range(3)), strict=True)
    expected = np.mean([measure(metric, one, y[0], kind=kind)[0] for one in z])
    sign = -1 if metric in ("nll", "ece", "mae") else 1
    assert row_scores(np.stack(z), y[0], kind, metric).mean() == pytest.approx(sign * expected, abs=1e-12)


def test_accuracy_scores_are_shares_of_seeds_without_rounding() -> None:
    z, y = np.array([[1.0, -1, 0], [1, 1, -2], [2, 1, -1]]), np.array([1, 1, 0])
    assert row_scores(z, y).tolist() == [1, 2 / 3, (0.5 + 1 + 1) / 3]
    assert (row_scores(np.repeat(z, 2, axis=0), y) == row_scores(z, y)).all()


def test_scores_of_auroc_are_placements() -> None:
    """By hand: positives 3 and 1 against negatives 2 and 0; placements 1 and 1/2, and as negatives 1/2 and 1."""
    z, y = np.array([3.0, 1, 2, 0]), np.array([1, 1, 0, 0])
    assert linearised("auroc", z, y).tolist() == [0.75 + 2 * 0.25, 0.75 - 2 * 0.25, 0.75 - 2 * 0.25, 0.75 + 2 * 0.25]


def test_what_is_undefined_has_no_scores() -> None:
    z, one = np.arange(4.0), np.ones(4, int)
    for metric in ("balanced_accuracy", "auroc", "average_precision"):
        assert np.isnan(linearised(metric, z, one)).all()
    assert np.isnan(linearised("f1", -1 - z, 0 * one)).all() and np.isnan(linearised("r2", z, one, "number")).all()
    assert np.isnan(linearised("auroc", np.eye(4)[:, :3], one, "classes")).all()
    with pytest.raises(ProbeError, match="spearman has no scores by row"):
        linearised("spearman", z, z, "number")
    with pytest.raises(ProbeError, match="did you mean 'accuracy'"):
        row_scores(z[None], one, metric="acuracy")
