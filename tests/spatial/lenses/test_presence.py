"""Confidence in what is in a picture, against loops and scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from mllm_probe.models.loading.checkpoint import BUNDLED
from mllm_probe.spatial.lenses.presence import Presence, tokenised
from tests.spatial.lenses.test_judged import BLANK
from tests.support.checkpoints import blueprint_of
from tests.support.fields import field

WAYS = [((3,),), ((1, 4), (2,)), (), ((0, 0, 5),)]


def test_the_probability_of_a_name_is_the_mean_of_its_tokens_as_it_is_written_best() -> None:
    words = torch.rand(7, 6)
    found, w = Presence(field(4), WAYS).probabilities(words), words.numpy()
    expected = np.stack(
        [w[:, 3], np.maximum((w[:, 1] + w[:, 4]) / 2, w[:, 2]), 0 * w[:, 0], (2 * w[:, 0] + w[:, 5]) / 3]
    )
    assert np.allclose(found, expected.T, atol=1e-6)


def test_auroc_is_scikit_learns_of_each_pictures_largest() -> None:
    found, rng = field(40), np.random.default_rng(0)
    named = rng.random(found.present.shape).astype(np.float32) + np.float32(0.3) * found.inside
    presence = Presence(found, WAYS)
    largest = np.stack([named[found.pictures == picture].max(0) for picture in range(40)])
    assert np.array_equal(presence.largest(named), largest)
    y = np.stack([found.present[found.pictures == picture][0] for picture in range(40)])
    row = presence.row(largest, BLANK)
    assert row is not None and row.n == row.n_groups == 40 and row.n_categories == 4
    assert row.value == pytest.approx(np.mean([roc_auc_score(y[:, c], largest[:, c]) for c in range(4)]))
    assert row.low < row.value < row.high


def test_whole_pictures_alone_count_where_there_are_enough() -> None:
    found = field(40)
    some = replace(found, whole=found.pictures >= 20)
    named = np.random.default_rng(0).random((40, 4)).astype(np.float32)
    row, few = Presence(some, WAYS).row(named, BLANK), replace(found, whole=found.pictures >= 38)
    assert row is not None and row.n == 20
    y = np.stack([found.present[found.pictures == picture][0] for picture in range(20, 40)])
    assert row.value == pytest.approx(np.mean([roc_auc_score(y[:, c], named[20:, c]) for c in range(4)]))
    every = Presence(few, WAYS).row(named, BLANK)
    assert every is not None and every.n == 40


def test_names_are_written_alone_and_behind_a_blank() -> None:
    tokenizer = blueprint_of(BUNDLED / "mini").processor.tokenizer
    (ways,) = tokenised(["red circle"], tokenizer)
    assert [tokenizer.decode(ids) for ids in ways] == ["red circle", " red circle"] and len(ways[1]) == 2
