"""The set of layers that may be the best, and equivalence, with few pictures and few disagreements."""

import numpy as np
import pytest
from scipy.stats import binom
from simulate_layers import alarms, held

from mllm_probe.scoring.alarms import rare_label
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.measures import linearised, measure
from mllm_probe.stats.paired import row_scores
from mllm_probe.stats.peak import behind, contenders, equivalence
from mllm_probe.stats.permutation import max_t_flips


@pytest.mark.parametrize("pictures", [10, 20, 60])
def test_the_set_holds_the_best_layer(pictures: int) -> None:
    """33 layers, 20 samples; where all are equal each layer counts, so that 660 answers are averaged."""
    assert held("all at 0.8", pictures, 4, 0.9, 20)[0] >= 0.9
    assert held("from 0.65 to 0.85 and back to 0.8", pictures, 4, 0.9, 20)[0] >= 0.9


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("pictures", [10, 20, 60])
def test_the_set_holds_the_best_layer_in_93_percent(pictures: int) -> None:
    """400 samples a curve, less two Monte Carlo errors; two minutes each."""
    for curve in ("all at 0.8", "from 0.65 to 0.85 and back to 0.8"):
        for passed_on in (0.9, 0.0):
            assert held(curve, pictures, 4, passed_on, 400)[0] >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 400)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_noise_is_above_chance_in_5_percent_of_1000_sweeps() -> None:
    """At most the 99th percentile of 1,000 tries at 0.05."""
    assert 20 <= alarms(20, 1000) <= binom.ppf(0.99, 1000, 0.05)


def test_three_of_ten_pictures_exclude_no_layer() -> None:
    """All three that disagree favour the other layer: t is 1.96, but a coin does as much once in 8 times."""
    scores = np.stack([np.ones(10), (np.arange(10) >= 3).astype(float)])
    found = contenders(scores, Resamples(np.arange(10)))
    assert found.layers == (0, 1) and found.p == pytest.approx((1.0, 1 / 8))


@pytest.mark.parametrize(
    ("pictures", "wrong", "holds"), [(298, 0, False), (299, 0, True), (600, 1, True), (400, 1, False)]
)
def test_equal_layers_are_within_a_point_from_299_pictures_on(pictures: int, wrong: int, holds: bool) -> None:
    scores = np.ones((2, pictures))
    scores[0, :wrong] = 0
    found = equivalence(scores, Resamples(np.arange(pictures), 1))
    assert found.holds == holds and found.p >= binom.cdf(wrong, pictures, 0.01) * (1 - 1e-12)


def test_the_largest_picture_weighs_most() -> None:
    """One of 300 pictures has half of the decisions: a disagreement there is a difference of one half."""
    groups = np.append(np.arange(299), np.full(299, 299))
    assert not equivalence(np.ones((2, 598)), Resamples(groups, 1)).holds


def test_scores_without_bounds_that_are_equal_say_nothing() -> None:
    """nll of two layers, the same in every picture: what another picture would do is not known."""
    scores = -2 * np.ones((2, 400))
    assert equivalence(scores, Resamples(np.arange(400), 1)).p == 1
    assert not np.diag(behind(scores, Resamples(np.arange(400), 1), 0.01)).any()


def equal_layers_told_apart(metric: str, positives: int, negatives: int, unlike: float, linear: bool = False) -> int:
    """In how many of 200 samples some of 7 layers differs from the first; all 8 say noise, one row a picture.

    unlike: how far apart the layers are in saying yes. linear: by linearised scores instead of `row_scores`.
    """
    y, told = np.repeat([1, 0], [positives, negatives]), 0
    for seed in range(200):
        logits = np.random.default_rng(seed).normal(size=(8, len(y))) + unlike * np.linspace(-1, 1, 8)[:, None]
        scores = np.stack(
            [linearised(metric, z, y) if linear else row_scores(z[None], y, "binary", metric) for z in logits]
        )
        told += int(max_t_flips(scores[1:] - scores[0], 499).p_adjusted.min() <= 0.05)
    return told


@pytest.mark.parametrize("metric", ["balanced_accuracy", "auroc", "average_precision"])
def test_equal_layers_are_compared_only_where_they_are_told_apart_in_5_percent(metric: str) -> None:
    """18 of 200 is the 99th percentile at 0.05."""
    for negatives, unlike in ((30, 0), (50, 1.5), (120, 0), (120, 1.5)):
        y = np.repeat([1, 0], [30, negatives])
        assert rare_label(metric, y, np.arange(len(y))) is None
        assert equal_layers_told_apart(metric, 30, negatives, unlike) <= 18
    y = np.repeat([1, 0], [10, 50])
    assert "label 1 is in 10 test pictures, and 30 are needed" in str(rare_label(metric, y, np.arange(60)))


def test_signs_of_a_rare_label_cannot_be_flipped() -> None:
    """Why: where 3 of 78 pictures have the label and layers say yes unlike often, most samples tell them apart."""
    assert equal_layers_told_apart("balanced_accuracy", 3, 75, 1.5) >= 80


def test_linearised_recalls_tell_equal_layers_apart() -> None:
    """They add up to 0 within a label, so a layer that is always right about it seems to know no error."""
    assert equal_layers_told_apart("balanced_accuracy", 30, 120, 1.5, linear=True) > 18


@pytest.mark.parametrize("metric", ["balanced_accuracy", "auroc", "average_precision", "f1"])
def test_row_scores_have_the_measure_as_their_mean_whoever_weighs_labels(metric: str) -> None:
    rng = np.random.default_rng(0)
    y, z = (rng.random(90) < 0.2).astype(int), rng.normal(size=90)
    expected = measure(metric, z, y)[0]
    assert row_scores(z[None], y, "binary", metric, np.repeat(np.arange(30), 3)).mean() == pytest.approx(expected)


def test_a_label_is_counted_by_pictures_and_only_where_labels_are_weighed() -> None:
    y = np.tile([1, 0], 40)
    assert "label 0 is in 20 test pictures" in str(rare_label("auroc", y, np.repeat(np.arange(20), 4)))
    assert rare_label("auroc", y, np.repeat(np.arange(40), 2)) is None
    assert all(rare_label(metric, y, np.zeros(80)) is None for metric in ("accuracy", "nll", "r2"))
