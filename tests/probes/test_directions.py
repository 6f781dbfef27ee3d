"""Directions against numpy, scikit-learn, LEACE's authors and planted signals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from mllm_probe.errors import ProbeError
from mllm_probe.probes.directions import directions_of, erasers_of, random_directions
from mllm_probe.probes.logistic import Logistic
from mllm_probe.records.problems import Compute, Problem
from tests.support.planted import layer, planted, problem, split


def along(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine of two vectors, with its sign."""
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def gaussians(n: int = 4000, width: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two normal classes with one covariance, far from round, whose means differ along a known direction [D]."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, width)) @ (
        np.diag(np.geomspace(4, 0.3, width)) @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    )
    between, y = rng.normal(size=width), np.arange(n) % 2
    return noise + np.outer(y - 0.5, between) + 20, y, between / np.linalg.norm(between)


@pytest.mark.parametrize("memory", [4 << 30, 1])
def test_directions_are_those_of_naive_formulas_kept_or_read_in_chunks(memory: int) -> None:
    x, y = planted()
    one, compute = problem(y), Compute(memory=memory)
    found = directions_of(layer(x, compute=compute), one, random_draws=3)
    rows, labels = x[one.train], y[one.train]
    between = rows[labels == 1].mean(0) - rows[labels == 0].mean(0)
    fit = Logistic().fit(layer(x), [one])[0]
    reads = fit.weights / fit.scale
    pattern = np.cov(rows.T, bias=True) @ reads / (reads @ np.cov(rows.T, bias=True) @ reads)
    for name, expected in {"class_mean": between, "weights": reads, "pattern": pattern}.items():
        np.testing.assert_allclose(found.units[name], expected / np.linalg.norm(expected), atol=1e-6)
    assert reads @ pattern == pytest.approx(1)  # a step along the pattern raises the logit by one
    assert found.scale == pytest.approx(np.sqrt((rows**2).sum(1).mean()))
    for unit in (*found.units.values(), *found.random):
        assert np.linalg.norm(unit) == pytest.approx(1) and unit.dtype == np.float64


def test_weights_and_leace_are_those_of_scikit_learn() -> None:
    x, y, _ = gaussians()
    one = problem(y)
    found = directions_of(layer(x), one, random_draws=1, probe=Logistic(lambdas=(1e-2,)))
    rows, labels = x[one.train], y[one.train]
    mean, scale = rows.mean(0), rows.std(0)
    theirs = LogisticRegression(C=1 / (1e-2 * len(rows)), tol=1e-10, max_iter=10_000).fit((rows - mean) / scale, labels)
    assert along(found.units["weights"], theirs.coef_[0] / scale) > 1 - 1e-9
    discriminant = LinearDiscriminantAnalysis(solver="eigen").fit(rows, labels)  # least squares of two classes
    assert along(found.units["leace"], discriminant.coef_[0]) > 1 - 1e-9


def test_the_pattern_is_the_planted_difference_and_the_weights_are_not() -> None:
    x, y, between = gaussians()
    units = directions_of(layer(x), problem(y), random_draws=1).units
    assert along(units["pattern"], between) > 0.98 and along(units["class_mean"], between) > 0.98
    assert along(units["weights"], between) < 0.7 and along(units["leace"], between) < 0.7


def test_every_direction_points_to_label_one_and_turns_with_the_labels() -> None:
    x, y, _ = gaussians()
    one = problem(y)
    same = directions_of(layer(x), one, random_draws=4)
    turned = directions_of(layer(x), replace(one, y=1 - y), random_draws=4)
    for name, unit in same.units.items():
        assert (x[y == 1] @ unit).mean() > (x[y == 0] @ unit).mean(), name
        assert along(unit, turned.units[name]) < -0.999, name
    np.testing.assert_allclose(same.random, turned.random)  # these point to no label


def test_only_training_rows_and_labels_decide() -> None:
    x, y, _ = gaussians(400)
    one, test = problem(y), split(400)[2]
    other = np.where(test[:, None], 1e3, x)
    first = directions_of(layer(x), one, random_draws=2)
    second = directions_of(layer(other), replace(one, y=np.where(test, 1 - y, y)), random_draws=2)
    for name in first.units:
        np.testing.assert_allclose(first.units[name], second.units[name], atol=1e-9)
    np.testing.assert_allclose(first.random, second.random, atol=1e-12)


def test_random_directions_have_the_covariance_within_the_classes_and_are_the_same_at_every_site() -> None:
    x, y, _ = gaussians(600)
    x[y == 1] += 50  # what the label does is most of the covariance of all rows, and none of theirs
    one = problem(y)
    drawn = random_directions(layer(x), one, 20_000, 3)
    rows, labels = x[one.train], y[one.train]
    inside = rows - np.stack([rows[labels == label].mean(0) for label in (0, 1)])[labels]
    sums = np.random.default_rng(3).normal(size=(20_000, len(rows))) @ inside
    np.testing.assert_allclose(drawn, sums / np.linalg.norm(sums, axis=1, keepdims=True), atol=1e-9)
    axes = np.linalg.eigh(np.cov(inside.T))[1]
    seen = np.cov((drawn @ axes).T)  # on the principal axes within the classes, from the least to the largest
    assert np.all(np.diff(np.diag(seen)) > 0) and seen[-1, -1] > 10 * seen[0, 0]
    assert np.abs(seen - np.diag(np.diag(seen))).max() < 0.01
    assert not np.allclose(drawn[0], random_directions(layer(x), one, 1, 4)[0])
    moved = random_directions(layer(2 * x + 5), one, 2, 3)  # another site, in which the rows lie alike
    np.testing.assert_allclose(moved, drawn[:2], atol=1e-9)


def test_the_control_task_has_its_class_mean() -> None:
    x, y, _ = gaussians(400)
    one, types = problem(y), np.arange(400) // 2 % 2
    found = directions_of(layer(x), one, replace(one, y=types), random_draws=1)
    rows = x[one.train]
    between = rows[types[one.train] == 1].mean(0) - rows[types[one.train] == 0].mean(0)
    assert found.control is not None and along(found.control, between) > 1 - 1e-9
    assert directions_of(layer(x), one, random_draws=1).control is None


def test_equal_rows_have_no_direction_and_constant_columns_no_part_in_one() -> None:
    x, y, _ = gaussians(400)
    found = directions_of(layer(np.full((400, 5), 3.0)), problem(y), problem(1 - y), random_draws=4)
    assert found.units == {} and found.random.shape == (0, 5) and found.control is None
    assert found.scale == pytest.approx(3 * 5**0.5)
    x[:, 2] = 7
    for unit in directions_of(layer(x), problem(y), random_draws=1).units.values():
        assert unit[2] == 0 and np.isfinite(unit).all()


def test_tokens_count_one_by_one_with_the_label_of_their_decision() -> None:
    x = gaussians(400)[0]
    bounds = np.arange(0, 401, 4)
    of = np.repeat(np.random.default_rng(0).integers(0, 2, 100), 4)
    one = problem(of[::4])
    ragged, flat = layer(x, bounds=bounds), Problem(of, np.repeat(one.train, 4), np.repeat(one.val, 4))
    found, expected = directions_of(ragged, one, random_draws=2), directions_of(layer(x), flat, random_draws=2)
    for name, unit in found.units.items():
        np.testing.assert_allclose(unit, expected.units[name], atol=1e-12)
    eraser, other = erasers_of(ragged, one, 1).label, erasers_of(layer(x), flat, 1).label
    assert np.array_equal(eraser.right, other.right)


def test_other_kinds_of_label_are_refused() -> None:
    x, y, _ = gaussians(40)
    with pytest.raises(ProbeError, match="directions fits binary, and the target is of kind classes"):
        directions_of(layer(x), replace(problem(y), kind="classes"))
    with pytest.raises(ProbeError, match="erasure fits binary"):
        erasers_of(layer(x), replace(problem(y), kind="number"))


def test_after_erasure_nothing_is_left_to_read_and_what_goes_is_what_the_library_takes() -> None:
    library = pytest.importorskip("concept_erasure")
    x, y, _ = gaussians(800)
    data, one, test = layer(x), problem(y), split(800)[2]
    eraser = erasers_of(data, one, 1).label
    fitter = library.LeaceFitter(8, 1, dtype=torch.float64, shrinkage=False, constrain_cov_trace=False, svd_tol=1e-9)
    theirs = fitter.update(data.rows[one.train], torch.from_numpy(y[one.train, None] * 1.0)).eraser
    assert torch.allclose(eraser(data.rows), theirs(data.rows), atol=1e-6)
    units = directions_of(data, one, random_draws=1).units
    assert abs(along(units["leace"], theirs.proj_right.numpy()[0])) > 1 - 1e-9
    assert along(eraser.left[0], units["class_mean"]) > 1 - 1e-9  # why `leace` is what is read, not what goes
    rows = eraser(data.rows).numpy()
    left = np.cov(np.column_stack([rows, y])[one.train].T)[-1, :-1]
    assert np.abs(left).max() <= 1e-7 * np.abs(x).max()
    constant = max(y[test].mean(), 1 - y[test].mean())
    before, fresh = (
        LogisticRegression(max_iter=1000).fit(part[one.train], y[one.train]).score(part[test], y[test])
        for part in (x - x.mean(0), rows - rows.mean(0))
    )
    assert before > constant + 0.2 and fresh <= constant + 1e-9


def test_random_erasures_take_one_direction_each_whole_and_leave_the_label() -> None:
    x, y, _ = gaussians(400, 40)
    x[y == 1] += 3
    data, one = layer(x), problem(y)
    found = erasers_of(data, one, 10, seed=2)
    units = random_directions(data, one, 10, 2)
    mean = x[one.train].mean(0)
    for each, unit in zip(found.random, units, strict=True):
        np.testing.assert_allclose(each(data.rows).numpy(), x - (x - mean) @ np.outer(unit, unit), atol=1e-9)
        assert each.left.shape == found.label.left.shape == each.right.shape
    for each in (found.label, *found.random):
        change = each(data.rows).numpy() - x
        assert np.linalg.matrix_rank(change, tol=1e-6) == 1
        assert each.facts["edit"] == pytest.approx((change[one.train] ** 2).sum(1).mean())

    def gap(rows: np.ndarray) -> float:
        return float(np.linalg.norm(rows[one.train & (y == 1)].mean(0) - rows[one.train & (y == 0)].mean(0)))

    assert gap(found.label(data.rows).numpy()) < 1e-6 * gap(x)
    assert min(gap(each(data.rows).numpy()) for each in found.random) > 0.8 * gap(x)
    assert random_directions(layer(np.where(y[:, None], 3.1, 0.7 * np.ones(5))), one, 4, 0).shape == (0, 5)
    equal = erasers_of(layer(np.full((400, 5), 3.0)), one)
    assert equal.random == () and np.array_equal(equal.label(torch.full((2, 5), 4.0)).numpy(), np.full((2, 5), 4.0))
