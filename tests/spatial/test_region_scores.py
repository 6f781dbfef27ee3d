"""Planted states of tokens: what they know is scored as known, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, jaccard_score, roc_auc_score

from mllm_probe.errors import ProbeError
from mllm_probe.probes.logistic import Logistic
from mllm_probe.probes.ridge import Ridge
from mllm_probe.records.problems import LayerData, Problem
from mllm_probe.results.regions import Region
from mllm_probe.spatial.field import Field
from mllm_probe.spatial.region_scores import RegionScoring, baselines, few_pictures, thresholds
from tests.support.fields import field, layer, scores, splits, value

FIELD = field(90)
SPLITS = splits(FIELD)


def scored(states: np.ndarray, own: Field = FIELD, noise: float = 0.05) -> list[Region]:
    return scores(RegionScoring(own, SPLITS), layer(states, noise))


@pytest.mark.parametrize("probe", [Ridge(), Logistic()], ids=lambda probe: probe.name)
def test_states_that_know_the_masks_have_all(probe: Ridge | Logistic) -> None:
    rows = scores(RegionScoring(FIELD, SPLITS), layer(1.0 * FIELD.inside), probe)
    for metric in ("average_precision", "auroc", "miou"):
        for training in ("all", "few"):
            row = value(rows, metric, training=training)
            assert row.value == pytest.approx(1, abs=1e-9) and row.n_categories == 4 and row.n_groups == 30
            assert row.high == 1 and row.low is not None and row.low > 0.85
    for control in ("within_picture", "between_pictures"):
        assert value(rows, "auroc", control=control, seed="0").value < 0.75
        assert value(rows, "miou", control=control).value < 0.3


def test_states_that_know_the_picture_alone_score_what_exchanged_labels_do() -> None:
    states = np.repeat(1.0 * FIELD.present[::64], 64, axis=0)
    noise = np.repeat(np.random.default_rng(0).normal(size=(90, 4)), 64, axis=0)
    rows = scored(np.hstack([states, noise]), noise=0)
    for metric in ("average_precision", "auroc", "miou"):
        real, exchanged = value(rows, metric, seed="0").value, value(rows, metric, control="within_picture").value
        assert real == pytest.approx(exchanged, abs=1e-9)
    assert value(rows, "auroc").value > 0.75 > value(rows, "miou").value
    assert value(rows, "auroc", control="between_pictures", seed="0").value < 0.62


def test_noise_is_at_chance() -> None:
    rows = scored(np.random.default_rng(3).normal(size=(len(FIELD.pictures), 6)))
    row = value(rows, "auroc")
    assert abs(row.value - 0.5) < 0.05 and row.low < 0.5 < row.high


def test_a_grid_that_lies_a_token_off_lowers_the_overlap() -> None:
    shares = FIELD.shares.reshape(90, 8, 8, 4)
    moved = np.roll(shares, 1, axis=2).reshape(-1, 4)
    right, wrong = (scored(1.0 * states) for states in (FIELD.inside, moved >= 0.5))
    assert value(wrong, "miou").value < 0.6 < value(right, "miou").value


def test_scores_are_those_of_a_loop_over_seeds_and_categories() -> None:
    data = layer(1.0 * FIELD.inside, noise=1.5)
    rows = scores(RegionScoring(FIELD, SPLITS), data)
    y = FIELD.inside
    for seed, split in SPLITS.items():
        train, val, test = (split == name for name in ("train", "val", "test"))
        (fit,) = Ridge().fit(data, [Problem(y.astype(int), train, val, "labels", seed=seed)])
        z, each = fit(data), []
        for c in range(4):
            cuts, own = np.unique(z[val, c]), y[val, c]
            overlaps = [(own & (z[val, c] >= cut)).sum() / (own | (z[val, c] >= cut)).sum() for cut in cuts]
            best = len(cuts) - 1 - int(np.argmax(overlaps[::-1]))
            between = (cuts[best] + cuts[best - 1]) / 2
            each.append(
                (
                    average_precision_score(y[test, c], z[test, c]),
                    roc_auc_score(y[test, c], z[test, c]),
                    jaccard_score(y[test, c], z[test, c] > between),
                )
            )
        names = ("average_precision", "auroc", "miou")
        found = [value(rows, name, seed=str(seed)).value for name in names]
        assert found == pytest.approx(np.mean(each, axis=0).tolist())


def test_thresholds_weigh_tokens_and_lie_between_two_logits() -> None:
    logits = np.asarray([[3.0, 1.0], [2.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    y = np.asarray([[1, 1], [0, 0], [1, 1], [0, 1]], bool)
    assert thresholds(logits, y).tolist() == [0.5, 0.5]  # 2 of 3 against 1 of 2; all or none of equals
    weights = np.asarray([1.0, 9.0, 1.0, 9.0])
    assert thresholds(logits, y, weights)[0] == 2.5  # 1 of 2 against 2 of 11


def test_overlap_is_of_whole_pictures_alone() -> None:
    part = replace(FIELD, whole=FIELD.pictures % 2 == 0)
    rows = scored(1.0 * FIELD.inside, part)
    assert value(rows, "miou").n == 15 * 64 and value(rows, "auroc").n == 30 * 64
    none = scored(1.0 * FIELD.inside, replace(FIELD, whole=FIELD.whole & False))
    assert not [row for row in none if row.metric == "miou"]


def test_views_are_scored_on_their_own_too() -> None:
    views = np.where(FIELD.places[:, 1] < 4, 0, 5)
    known = FIELD.inside * (views == 0)[:, None]
    rows = scores(RegionScoring(replace(FIELD, views=views), SPLITS), layer(1.0 * known))
    assert {row.view for row in rows} == {"", "0", "5"}
    assert value(rows, "miou", view="0").value == pytest.approx(1)
    assert value(rows, "auroc", view="5").value < 0.65
    assert value(rows, "auroc", view="0").n + value(rows, "auroc", view="5").n == value(rows, "auroc").n


def test_few_pictures_show_each_category_in_five_of_the_training_pictures() -> None:
    train = SPLITS[0] == "train"
    taken = few_pictures(FIELD, train, seed=0)
    assert not taken[~train].any()
    pictures = np.unique(FIELD.pictures[taken])
    assert np.isin(FIELD.pictures, pictures).tolist() == taken.tolist()  # whole pictures
    shown = [len(np.unique(FIELD.pictures[taken & cells])) for cells in FIELD.inside.T]
    assert min(shown) == 5 and len(pictures) <= 20
    assert set(pictures) != set(np.unique(FIELD.pictures[few_pictures(FIELD, train, seed=1)]))


def test_baselines_know_the_place_or_the_colour() -> None:
    left = np.asarray([[1.0, 0, 0, 0]]) * (FIELD.places[:, 1:] == 2)
    coloured = replace(FIELD, shares=left.astype(np.float32)).of(np.asarray([True, False, False, False]))
    coloured = replace(coloured, colours=np.hstack([coloured.inside, coloured.inside, coloured.inside]) * 0.5)
    plain = RegionScoring(coloured, SPLITS, plain=True)
    for control, x in baselines(coloured).items():
        rows = scores(plain, LayerData(torch.from_numpy(x), name=control))
        assert {(row.control, row.training) for row in rows} == {("", "all")}
        assert value(rows, "miou").value == pytest.approx(1)
    two = baselines(replace(FIELD, views=FIELD.pictures % 2))["position"]
    assert two.shape == (len(FIELD.views), 2 * 16) and (two.sum(1) == 2).all()


def test_a_control_that_cannot_be_is_named_and_a_field_without_categories_refused() -> None:
    scoring = RegionScoring(FIELD, SPLITS)
    assert scoring.remark is None
    short = np.ones(len(FIELD.pictures), bool)
    for picture in range(90):
        short[64 * picture : 64 * picture + picture % 60] = False  # hardly two have as many tokens
    names = ("shares", "present", "away", "objects", "groups", "pictures", "views", "places", "colours", "whole")
    uneven = replace(FIELD, **{name: getattr(FIELD, name)[short] for name in names})
    lonely = RegionScoring(uneven, {seed: split[short] for seed, split in SPLITS.items()})
    rows = scores(lonely, layer(1.0 * uneven.inside))
    assert lonely.remark and "between_pictures" in lonely.remark
    assert {row.control for row in rows} == {"", "within_picture"}
    with pytest.raises(ProbeError, match="no category"):
        RegionScoring(FIELD.of(np.zeros(4, bool)), SPLITS)
