"""The formulas behind `vision score` against values worked out by hand, naive loops, scipy and planted features."""

from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import minimize
from scipy.stats import norm

from mllm_probe.data.spair import Pair, View, read_pairs
from mllm_probe.errors import ConfigError, DataError, ProbeError
from mllm_probe.vision.a_score import a_cos, a_loglik
from mllm_probe.vision.c_score import (
    CANVAS,
    OVER,
    Matched,
    find_keypoints,
    hard_argmax,
    matcher,
    pck,
    pck_draws,
    pck_interval,
    pixel_of,
    soft_argmax,
)
from mllm_probe.vision.frames import Frame, letterbox, squash
from mllm_probe.vision.representation import Representation, representations
from mllm_probe.vision.transferability import h_score, log_me, log_me_published
from tests.support.runs import REAL


@pytest.mark.parametrize("over", OVER)
def test_keypoints_that_are_all_found_have_an_interval_with_a_length(over: str) -> None:
    """Draws are all 1, or all 0; what pairs and pictures are worth is at most the smaller number of the two."""
    for pairs, worth in ((12, 5), (4, 4)):
        found = [Matched(drawn_pair(n, 4), np.zeros(4), 400.0) for n in range(pairs)]
        assert np.nanmin(pck_draws(found, 0.1, over, 200, 0)) == 1
        between = pck_interval(found, 0.1, over, 200, 0)
        assert (between.low, between.high) == (pytest.approx(0.025 ** (1 / worth)), 1)
        missed = [replace(one, errors=one.errors + 999) for one in found]
        between = pck_interval(missed, 0.1, over, 200, 0)
        assert (between.low, between.high) == (0, pytest.approx(1 - 0.025 ** (1 / worth)))


def ring(pictures: int, truth: float, rng: np.random.Generator) -> list[Matched]:
    """Each picture with the next three, 4 keypoints a pair; the share `truth` is found, less of some pictures."""
    luck, found = rng.normal(size=pictures), []
    for first, step in product(range(pictures), (1, 2, 3)):
        second = (first + step) % pictures
        sides = [View(Path(f"{n}.png"), (9, 9), np.zeros((4, 2))) for n in (first, second)]
        skill = norm.ppf(truth) + (luck[first] + luck[second]) / 2 + np.sqrt(0.5) * rng.normal(size=4)
        found.append(Matched(Pair("", "cat", sides[0], sides[1], 100.0), np.where(skill > 0, 0.0, 99.0), 100.0))
    return found


@pytest.mark.parametrize(("pictures", "truth"), [(8, 0.9), (8, 0.98), (20, 0.5)])
def test_intervals_of_pck_cover(pictures: int, truth: float) -> None:
    """200 samples; 181 is the 0.5th percentile of 95 %."""
    samples = [ring(pictures, truth, np.random.default_rng([i, pictures])) for i in range(200)]
    found = [pck_interval(one, 0.1, OVER[i % 2], 200, i) for i, one in enumerate(samples)]
    assert sum(one.low <= truth <= one.high for one in found) >= 181


SPAIR = REAL / "spair_subset"
RNG = np.random.default_rng(0)
released = partial(soft_argmax, keeps_zeros=True)


def drawn_pair(number: int, keypoints: int = 4, category: str = "cat") -> Pair:
    rng = np.random.default_rng(number)
    sides = []
    for side, size in enumerate(((500, 375), (333, 500))):
        sides.append(View(Path(f"{(number + side) % 5}.png"), size, rng.uniform(0, size, (keypoints, 2))))
    return Pair(str(number), category, sides[0], sides[1], float(rng.uniform(200, 400)))


def row(side: int, filled: dict[int, float]) -> np.ndarray:
    values = np.full((1, side * side), 0.5)
    values[0, list(filled)] = list(filled.values())
    return values


@pytest.mark.parametrize(
    ("side", "values", "window", "patch", "pixel"),
    [
        (3, {1: 0.51, 3: 0.51, 4: 0.55, 5: 0.54, 7: 0.52}, 5, (1.1940136, 1.0361493), (474.3238, 430.1218)),
        (5, {6: 0.56, 7: 0.55, 11: 0.53, 24: 0.55}, 1, (1.2615805, 1.0814436), (295.9455, 265.6825)),
        (5, {6: 0.56, 7: 0.55, 11: 0.53, 24: 0.55}, 5, (1.9971081, 1.8869900), (419.5142, 401.0143)),
    ],
)
def test_the_soft_argmax_of_the_released_code_worked_out_by_hand(
    side: int, values: dict[int, float], window: int, patch: tuple[float, float], pixel: tuple[float, float]
) -> None:
    found = soft_argmax(row(side, values), window, keeps_zeros=True)
    np.testing.assert_allclose(found[0], patch, atol=1e-6)
    np.testing.assert_allclose(pixel_of(found, side)[0], pixel, atol=1e-4)


def test_patches_outside_the_window_have_no_weight_unless_zeros_are_kept() -> None:
    """A far match of 0.0 and one of 0.9 weigh nothing; kept as zeros, both draw alike to the middle of the grid."""
    for far in (0.0, 0.9):
        values = row(9, {0: 1.0, 80: far})
        values[0, 1:] -= 0.5 * (values[0, 1:] == 0.5)
        assert soft_argmax(values, 1)[0] == pytest.approx([0, 0], abs=1e-9)
    low = np.full((1, 81), -0.2)
    low[0, 0] = -0.1
    assert released(low, 1)[0].min() > 3.9 and soft_argmax(low, 1)[0].max() < 0.1


@pytest.mark.parametrize("name", ["soft", "compat", "hard"])
def test_matching_equals_a_loop_over_keypoints(name: str) -> None:
    side, pair = 7, drawn_pair(1)
    source, target = RNG.normal(size=(2, side * side, 6))
    expected = []
    for (x, y), (u, v) in zip(pair.source.points, pair.target.points, strict=True):
        scale, shift = CANVAS / 500, int((CANVAS - round(CANVAS * 375 / 500)) / 2)
        column, line = int(x * scale * side / CANVAS), int((y * scale + shift) * side / CANVAS)
        f = source[side * line + column]
        similar = [f @ g / np.linalg.norm(f) / np.linalg.norm(g) for g in target]
        best = int(np.argmax(similar))
        weights = np.zeros(side * side)
        for k in range(side * side):
            near = abs(k % side - best % side) <= 5 and abs(k // side - best // side) <= 5
            if name == "hard":
                weights[k] = k == best
            elif near or name == "compat":
                weights[k] = np.exp((similar[k] if near else 0) / 0.02)
        weights /= weights.sum()
        place = np.array([sum(w * (k % side) for k, w in enumerate(weights)), weights @ (np.arange(side**2) // side)])
        found = place * CANVAS / side + CANVAS // side // 2
        margin = int((CANVAS - round(CANVAS * 333 / 500)) / 2)
        expected.append(np.linalg.norm(found - [u * scale + margin, v * scale]))
    one = find_keypoints(source, target, pair, matcher(name))
    np.testing.assert_allclose(one.errors, expected)
    assert one.extent == pytest.approx(pair.extent * CANVAS / 500)


def test_a_letterboxed_point_and_picture() -> None:
    frame = Frame((500, 375), CANVAS)
    assert frame.inner == (840, 630) and frame.margin == (0, 105)
    np.testing.assert_allclose(frame.points(np.array([[100, 50]])), [[168, 189]])
    picture = Image.new("RGB", (50, 20), (255, 0, 0))
    wide, filled = np.asarray(letterbox(picture, 40)), np.asarray(squash(picture, 40))
    assert not wide[:12].any() and not wide[28:].any() and (wide[12:28, :, 0] == 255).all()
    assert (filled[..., 0] == 255).all() and filled.shape == (40, 40, 3)
    assert np.asarray(letterbox(picture.transpose(Image.Transpose.ROTATE_90), 40))[0, :, 0].nonzero()[0][0] == 12


def test_an_error_equal_to_the_threshold_is_wrong() -> None:
    one = Matched(drawn_pair(0), np.array([83.99, 84.0, 84.01]), 840.0)
    assert one.correct(0.1).tolist() == [True, False, False]


def ceiling(pairs: list[Pair], side: int, alpha: float) -> float:
    """The share of keypoints whose own patch has its middle near enough, in plain arithmetic."""
    shares = []
    for pair in pairs:
        width, height = pair.target.size
        scale, right = 840 / max(width, height), 0
        left, top = (840 - round(width * scale)) // 2, (840 - round(height * scale)) // 2
        for x, y in pair.target.points:
            column, line = (int((v * scale + margin) // (840 / side)) for v, margin in ((x, left), (y, top)))
            dx, dy = (
                (c * 840 / side + 840 / side // 2 - v) for c, v in ((column, x * scale + left), (line, y * scale + top))
            )
            right += (dx**2 + dy**2) ** 0.5 < alpha * pair.extent * scale
        shares.append(right / len(pair.target.points))
    return sum(shares) / len(shares)


def with_itself(pair: Pair) -> Pair:
    return Pair(pair.name, pair.category, pair.target, pair.target, pair.extent)


def check_the_ceiling(pairs: list[Pair], side: int) -> float:
    """One-hot features of a picture and itself: every keypoint is found in its own patch and nowhere else."""
    features = np.eye(side * side)
    found = [find_keypoints(features, features, with_itself(pair), hard_argmax) for pair in pairs]
    for alpha in (0.1, 0.05, 0.01):
        assert pck(found, alpha) == pytest.approx(ceiling(pairs, side, alpha), abs=1e-12)
    return pck(found, 0.1)


def test_perfect_features_reach_what_the_grid_allows() -> None:
    pairs = [drawn_pair(number) for number in range(20)]
    assert check_the_ceiling(pairs, 5) < check_the_ceiling(pairs, 24)


@pytest.mark.realdata
@pytest.mark.skipif(not SPAIR.is_dir(), reason=f"{SPAIR} is absent; set MLLM_PROBE_REAL_DATA to the folder with it")
@pytest.mark.parametrize(("side", "share"), [(8, 0.678), (14, 0.944), (16, 0.942), (24, 0.972)])
def test_perfect_features_reach_what_the_grid_allows_on_real_pairs(side: int, share: float) -> None:
    pairs, skipped = read_pairs(SPAIR, "spair", "test")
    assert len(pairs) == 24 and sum(len(pair.source.points) for pair in pairs) == 225 and not skipped
    assert check_the_ceiling(pairs, side) == pytest.approx(share, abs=5e-4)


@pytest.mark.parametrize("over", OVER)
def test_pck_and_its_draws_equal_loops(over: str) -> None:
    found = [Matched(drawn_pair(n, 2 + n % 3), RNG.uniform(0, 100, 2 + n % 3), 400.0 + 100 * n) for n in range(9)]
    right = [[bool(e < 0.1 * one.extent) for e in one.errors] for one in found]
    flat = [value for values in right for value in values]
    means = [sum(values) / len(values) for values in right]
    expected = sum(flat) / len(flat) if over == "keypoint" else sum(means) / len(means)
    assert pck(found, 0.1, over) == pytest.approx(expected) and 0.1 < expected < 0.9

    draws = pck_draws(found, 0.1, over, 450, 3)
    names = sorted({str(side.path) for one in found for side in (one.pair.source, one.pair.target)})
    counts = np.random.default_rng(3).multinomial(len(names), np.full(len(names), 1 / len(names)), size=450)
    for draw in (0, 210, 449):
        often = dict(zip(names, counts[draw], strict=True))
        weights = [often[str(one.pair.source.path)] * often[str(one.pair.target.path)] for one in found]
        top = bottom = 0.0
        for values, weight in zip(right, weights, strict=True):
            top += weight * (sum(values) if over == "keypoint" else sum(values) / len(values))
            bottom += weight * (len(values) if over == "keypoint" else 1)
        assert draws[draw] == pytest.approx(top / bottom, nan_ok=True)


def test_features_that_are_no_equal_grids_are_refused() -> None:
    for source, target in ((16, 9), (15, 15)):
        with pytest.raises(DataError, match="pair 1: features .* are not two equal grids of patches"):
            find_keypoints(np.ones((source, 3)), np.ones((target, 3)), drawn_pair(1), hard_argmax)


def test_joined_features_are_normalised_before_and_after() -> None:
    parts = {"a": RNG.normal(size=(4, 3)) * 50, "b": RNG.normal(size=(4, 5))}
    joined = Representation(("a", "b")).features(parts)
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1)
    own = [parts[name] / np.linalg.norm(parts[name], axis=1, keepdims=True) for name in "ab"]
    np.testing.assert_allclose(joined @ joined.T, (own[0] @ own[0].T + own[1] @ own[1].T) / 2)
    assert Representation(("a",)).features(parts) is parts["a"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a+c"], r"representation a\+c joins grids of different sizes \(a 4 x 4, c 6 x 6\); set encoders.NAME.size"),
        (["a+d"], r"representation a\+d: there is no such encoder; choose one of: a, b, c"),
        (["a", "a"], r"representations=\['a', 'a'\] must hold at least one, each once"),
        ([], "must hold at least one"),
    ],
)
def test_representations_that_cannot_be(names: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        representations(names, {"a": 4, "b": 4, "c": 6})


def test_a_cos_equals_loops_and_knows_its_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    target = [RNG.normal(size=(n, 6)) for n in (3, 5)]
    reference = [RNG.normal(size=(n, 6)) for n in (7, 4)]

    def naive(one: np.ndarray, other: np.ndarray) -> float:
        return sum(max(t @ r / np.linalg.norm(t) / np.linalg.norm(r) for r in other) for t in one) / len(one)

    expected = [naive(one, other) for one, other in zip(target, reference, strict=True)]
    monkeypatch.setattr("mllm_probe.vision.a_score.BLOCK", 3)
    np.testing.assert_allclose(a_cos(target, {"r": reference})["r"], expected, atol=1e-6)
    mixed = [RNG.permutation(other) for other in reference]
    np.testing.assert_allclose(a_cos(target, {"r": mixed})["r"], expected, atol=1e-6)
    np.testing.assert_allclose(a_cos(target, {"r": target})["r"], 1, atol=1e-6)
    assert not np.allclose(a_cos(reference, {"t": target})["t"], expected, atol=1e-3)


def test_a_cos_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(ProbeError, match="2 pictures cannot be compared with 1 of r"):
        a_cos([np.ones((2, 3))] * 2, {"r": [np.ones((2, 3))]})
    with pytest.raises(ProbeError, match=r"width 3 and 4 \(r\) have no common space"):
        a_cos([np.ones((2, 3))], {"r": [np.ones((2, 4))]})


def test_a_loglik_counts_captions_alike() -> None:
    assert a_loglik([np.array([-1.0, -3.0]), np.array([-5.0])]).tolist() == [-2, -5]


def evidence(features: np.ndarray, y: np.ndarray, alpha: float, beta: float) -> float:
    """The density of y ~ N(0, F F' / alpha + 1 / beta), a row, by the eigenvalues of that covariance."""
    gram, axes = np.linalg.eigh(features @ features.T)
    variance = gram.clip(0) / alpha + 1 / beta
    return float(-(np.log(2 * np.pi * variance) + (axes.T @ y) ** 2 / variance).mean() / 2)


def greatest(features: np.ndarray, y: np.ndarray) -> float:
    """Over both precisions: the best of many starts, each polished."""
    starts = [(a, b) for a in np.arange(-12, 13, 4) for b in np.arange(-4, 9, 3)]
    best = sorted(starts, key=lambda p: -evidence(features, y, *np.exp(p)))[:4]
    found = [minimize(lambda p: -evidence(features, y, *np.exp(p)), p, method="Nelder-Mead", tol=1e-10) for p in best]
    return max(-one.fun for one in found)


def labelled(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Features whose columns are of very different sizes; a label they tell, and one they do not."""
    features = RNG.normal(size=(n, d)) * np.geomspace(1, 30, d)
    return features, np.stack([features[:, 0] + 0.3 * RNG.normal(size=n) > 0, RNG.random(n) > 0.5], axis=1).astype(
        float
    )


@pytest.mark.parametrize(("n", "d"), [(30, 4), (12, 20)])
def test_log_me_is_the_greatest_evidence_of_a_gaussian(n: int, d: int) -> None:
    """Its density at the precisions found, and over all precisions."""
    features, labels = labelled(n, d)
    for one, y in zip(log_me(features, labels), labels.T, strict=True):
        assert one.value == pytest.approx(evidence(features, y, one.alpha, one.beta), rel=1e-6)
        assert one.value == pytest.approx(greatest(features, y), abs=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 0.1, 100, 1000])
def test_log_me_does_not_depend_on_the_scale_of_the_features(scale: float) -> None:
    features, labels = labelled(40, 8)
    plain, scaled = log_me(features, labels), log_me(scale * features, labels)
    np.testing.assert_allclose([one.value for one in scaled], [one.value for one in plain], rtol=1e-9)
    assert scaled[0].alpha == pytest.approx(scale**2 * plain[0].alpha, rel=1e-4)


def test_log_me_finds_the_greater_of_two_maxima() -> None:
    """A label that lies along loud and along faint directions may be told by the loud alone or by all."""
    two = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        features = rng.normal(size=(24, 12)) * np.repeat([1, 1e-4], 6)
        y = 0.3 * rng.normal() * features[:, 0] + 1e4 * features[:, 6:] @ rng.normal(size=6) + 0.5 * rng.normal(size=24)
        along = [
            evidence(features, y, ratio * beta, beta) for ratio in 10.0 ** np.arange(-14, 6) for beta in (0.3, 3.0)
        ]
        (one,) = log_me(features, y[:, None])
        assert one.value >= max(along) - 1e-9
        line = [max(along[i : i + 2]) for i in range(0, len(along), 2)]
        two += sum(b > a and b > c for a, b, c in zip(line, line[1:], line[2:], strict=False)) > 1
    assert two, "some have two maxima"


def test_a_label_that_features_give_exactly_has_no_greatest_evidence() -> None:
    features = RNG.normal(size=(20, 3))
    with pytest.raises(ProbeError, match="label 1 is a linear function of the 3 features"):
        log_me(features, np.stack([RNG.normal(size=20), features @ [1.0, 2, 3]], axis=1))
    assert np.isfinite(log_me(np.zeros((6, 2)), np.arange(6.0)[:, None])[0].value)


def test_the_published_rounds_end_below_the_greatest_evidence() -> None:
    features, labels = labelled(30, 4)
    for scale, short in ((1, 0), (1000, 0.1)):
        found = log_me_published(scale * features, labels), log_me(scale * features, labels)
        for one, best, y in zip(*found, labels.T, strict=True):
            assert one.value == pytest.approx(evidence(scale * features, y, one.alpha, one.beta), rel=1e-9)
            assert one.value < best.value - short


def test_the_h_score_equals_its_formula_and_its_bounds() -> None:
    classes = np.repeat([0, 1, 2], [10, 15, 12])
    features = RNG.normal(size=(37, 5)) + np.eye(5)[classes] * 2
    means = np.stack([features[classes == c].mean(axis=0) for c in classes])
    covariances = [np.cov(values.T, bias=True) for values in (features, means)]
    expected = np.trace(np.linalg.inv(covariances[0]) @ covariances[1])
    assert h_score(features, classes) == pytest.approx(expected) and 0.5 < expected < 2
    assert h_score(features @ RNG.normal(size=(5, 5)), classes + 7) == pytest.approx(expected)
    assert h_score(np.eye(3)[classes] + 1e-6 * RNG.normal(size=(37, 3)), classes) == pytest.approx(2, abs=1e-3)
    with pytest.raises(ProbeError, match="5 pictures with 5 features separate any classes; h_score needs more than 5"):
        h_score(features[:5], classes[:5])
    with pytest.raises(ProbeError, match=r"LogME needs features \[n, d\] and labels \[n, C\], not"):
        log_me(features, classes)
