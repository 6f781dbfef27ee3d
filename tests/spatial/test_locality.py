"""Planted states: known at the object alone, everywhere, nowhere, or only that there is some object."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mllm_probe.probes.ridge import Ridge
from mllm_probe.records.problems import Problem
from mllm_probe.results.regions import Region
from mllm_probe.spatial.locality import Locality, corrected, first_global
from mllm_probe.spatial.region_scores import baselines
from mllm_probe.spatial.told_apart import ToldApart
from mllm_probe.stats.ratios import below_bound, fieller
from tests.support.fields import BLANK, field, layer, scores, splits, value

FIELD = field(120)
SPLITS = splits(FIELD)
LOCALITY = Locality(FIELD, SPLITS)
GLOBAL = np.repeat(1.0 * FIELD.present[::64], 64, axis=0)


def scored(states: np.ndarray, noise: float = 0.05) -> list[Region]:
    return scores(LOCALITY, layer(states, noise))


def test_what_only_the_object_knows_is_local() -> None:
    rows = scored(1.0 * FIELD.inside)
    assert value(rows, "a_in").value == pytest.approx(1)
    row = value(rows, "locality")
    assert abs(row.value - 1) < 0.1 and row.low < 1 < row.high and row.low > 0.8
    assert row.n_categories == 4 and row.n_groups <= 40
    curve = [value(rows, "a_distance", distance=name).value for name in ("0", "1", "2", "3", "4-5", "6+")]
    assert curve[0] > 0.95 and max(curve[1:]) < 0.65


def test_what_every_token_knows_is_global() -> None:
    rows = scored(GLOBAL, noise=0.7)
    assert 0.8 < value(rows, "a_in").value < 0.999
    row = value(rows, "locality")
    assert abs(row.value) < 0.1 and row.low < 0 < row.high < 0.5
    curve = [value(rows, "a_distance", distance=name).value for name in ("0", "1", "2", "3", "4-5", "6+")]
    assert min(curve) > 0.8


def test_half_of_it_lies_between() -> None:
    rows = scored(GLOBAL + 3 * FIELD.inside, noise=1.5)
    row = value(rows, "locality")
    assert 0.1 < row.low < row.value < row.high < 0.9
    a_in, a_out = value(rows, "a_in").value, value(rows, "a_out").value
    assert row.value == pytest.approx((a_in - a_out) / (a_in - 0.5))


KNOWN = {
    "noise": np.random.default_rng(5).normal(size=(len(FIELD.objects), 3)),
    "an object": 1.0 * FIELD.objects[:, None],
    "the place": 1.0 * baselines(FIELD)["position"],
}


@pytest.mark.parametrize("known", KNOWN)
def test_nothing_is_said_where_the_category_is_not_known(known: str) -> None:
    """Tokens far from an object are at the edges more often than others, and yet the place tells nothing."""
    rows = scores(LOCALITY, layer(KNOWN[known], 0.05, seed=2))
    row = value(rows, "a_in")
    assert abs(row.value - 0.5) < 0.06 and row.low < 0.5 < row.high
    assert not [row for row in rows if row.metric == "locality"]
    row = value(rows, "a_out")
    assert abs(row.value - 0.5) < 0.02 and row.low < 0.5 < row.high


def test_scores_are_those_of_a_loop_over_seeds_and_categories() -> None:
    data = layer(GLOBAL + 3 * FIELD.inside, noise=1.5)
    rows = scores(LOCALITY, data)
    test = SPLITS[0] == "test"
    apart = ToldApart(FIELD, test)
    for name, cells in (("a_in", apart.inside()), ("a_out", apart.away())):
        for seed, split in SPLITS.items():
            each = []
            for c in range(4):
                y, own = FIELD.present[:, c], cells[:, c]
                train, val = (own & (split == name) for name in ("train", "val"))
                (fit,) = Ridge([0.01]).fit(data, [Problem(y.astype(int), train, val)])
                each.append(roc_auc_score(y[own & test], fit(data)[own & test]))
            assert value(rows, name, seed=str(seed)).value == pytest.approx(np.mean(each), abs=0.02)


def test_categories_without_distant_tokens_are_left_out_of_both_measures() -> None:
    near = FIELD.away.copy()
    near[:, 2] = np.minimum(near[:, 2], 1)
    small = Locality(replace(FIELD, away=near), SPLITS)
    assert small.kept.tolist() == [True, True, False, True]
    assert small.remark and "1 of 4 categories are left out of the locality index (thing2)" in small.remark
    assert LOCALITY.remark is None
    rows = scores(small, layer(1.0 * FIELD.inside))
    assert value(rows, "a_in").n_categories == value(rows, "a_out").n_categories == 3
    assert not Locality(replace(FIELD, away=np.minimum(near, 1)), SPLITS).problems


def test_a_distance_that_few_pictures_have_is_left_out() -> None:
    away = np.where((FIELD.away == 3) & (FIELD.pictures > 10)[:, None], 4, FIELD.away)
    rows = scores(Locality(replace(FIELD, away=away), SPLITS), layer(GLOBAL))
    assert [row.distance for row in rows if row.metric == "a_distance" and row.seed == "all"] == [
        "0",
        "1",
        "2",
        "4-5",
        "6+",
    ]


def test_intervals_of_the_index_cover() -> None:
    """Pictures and states are drawn anew each time; the truth is the mean over all draws."""
    found = []
    for seed in range(50):
        own = field(84, side=7, seed=100 + seed)
        states = layer(1.0 * own.present + 2 * own.inside, 1.2, seed)
        rows = scores(Locality(own, splits(own, 1)), states, Ridge([0.1]))
        found += [(row.value, row.low, row.high) for row in rows if (row.metric, row.seed) == ("locality", "all")]
    middle, low, high = np.asarray(found).T
    assert len(found) == 50
    assert 0.88 <= np.mean((low <= middle.mean()) & (middle.mean() <= high)) <= 1
    assert np.mean(high - low) < 5 * middle.std()


def index(tower: str, layer: int, p: float | None, **more: str) -> Region:
    return replace(
        BLANK, **({"tower": tower, "layer": layer, "metric": "locality", "seed": "all", "p_value": p} | more)
    )


def test_local_turns_global_at_the_first_site_that_is_surely_below_half() -> None:
    rows = [
        index("lm", 4, 0.01),
        index("lm", 2, 0.015),
        index("vision", 9, 0.03),
        index("lm", 0, None),
        index("lm", 1, 0.001, control="colour"),
    ]
    found = corrected(rows)
    assert [row.p_holm for row in found] == [pytest.approx(0.03), pytest.approx(0.03), 0.03, None, 0.001]
    assert first_global(found) == found[2], "each of the three passes"
    found = corrected([*rows[:2], *(index("vision", layer, 0.03) for layer in range(9))])
    assert first_global(found) is None, "with nine more layers none does"
    assert first_global(corrected([index("lm", 4, 0.051), index("lm", 5, 0.001)])).layer == 5  # type: ignore[union-attr]


def test_local_is_said_to_turn_global_where_it_does_not_in_few_runs() -> None:
    """Twelve layers whose index is 0.5, with errors that agree as those of neighbours do."""
    rng, said = np.random.default_rng(4), 0
    for _ in range(1000):
        shared, below = rng.normal(size=(1, 60)), 0.4 + 0.2 * rng.normal(size=(12, 60))
        above = 0.5 * below + 0.3 * (0.7 * shared + 0.7 * rng.normal(size=(12, 60)))
        p = below_bound(above, below, 0.5)
        said += first_global(corrected([index("lm", i, float(one)) for i, one in enumerate(p)])) is not None
    assert 10 < said < 65


def test_p_of_a_bound_is_half_of_that_of_the_interval_that_ends_there() -> None:
    rng = np.random.default_rng(6)
    below = 0.4 + 0.1 * rng.normal(size=40)
    above = 0.3 * below + 0.05 * rng.normal(size=40)
    for level in (0.8, 0.95, 0.99):
        _, high = fieller(above, below, level)
        assert below_bound(above, below, float(high)) == pytest.approx((1 - level) / 2)
