"""Labels that change places: what stays and what goes."""

from dataclasses import replace

import numpy as np

from mllm_probe.spatial.exchanges import between_pictures, within_pictures
from tests.support.fields import field, splits


def test_tokens_exchange_labels_within_a_view_of_their_picture() -> None:
    found = field(20)
    found = replace(found, views=found.places[:, 0] % 2)
    order = np.random.default_rng(0).permutation(len(found.pictures))
    found = replace(
        found, **{name: getattr(found, name)[order] for name in ("shares", "pictures", "views", "places", "groups")}
    )
    moved = within_pictures(found, seed=1)
    for picture in range(20):
        for view in (0, 1):
            own = (found.pictures == picture) & (found.views == view)
            assert sorted(map(tuple, moved[own])) == sorted(map(tuple, found.inside[own]))  # whole rows of labels
    assert (moved != found.inside).any(1).mean() > 0.1
    assert np.array_equal(moved, within_pictures(found, seed=1))


def test_pictures_exchange_whole_grids_with_another_group_of_their_split() -> None:
    found = field(30)
    found = replace(found, groups=found.pictures // 2)
    split = splits(found)[0]
    moved, counted = between_pictures(found, split, seed=0)
    assert counted.all()
    grids = found.inside.reshape(30, -1)
    for picture, grid in enumerate(moved.reshape(30, -1)):
        sources = {p for p in range(30) if np.array_equal(grids[p], grid) and split[64 * p] == split[64 * picture]}
        assert any(p // 2 != picture // 2 for p in sources), picture
    assert sorted(map(tuple, moved.reshape(30, -1))) == sorted(map(tuple, grids))  # each serves once


def test_a_picture_of_other_tokens_takes_no_part() -> None:
    found = field(9)
    short = np.flatnonzero(found.pictures != 4)
    kept = np.sort(np.append(short, np.flatnonzero(found.pictures == 4)[:10]))
    names = ("shares", "present", "away", "objects", "groups", "pictures", "views", "places", "colours", "whole")
    found = replace(found, **{name: getattr(found, name)[kept] for name in names})
    _, counted = between_pictures(found, np.full(len(kept), "train"), seed=0)
    assert np.array_equal(counted, found.pictures != 4)


def test_chosen_tokens_are_matched_in_the_order_of_their_places() -> None:
    found = field(2, side=4)
    shuffled = np.random.default_rng(1).permutation(32)
    names = ("shares", "groups", "pictures", "views", "places")
    mixed = replace(found, **{name: getattr(found, name)[shuffled] for name in names})
    moved, _ = between_pictures(mixed, np.full(32, "test"), seed=0)
    other = {
        (p, *place): row for p, place, row in zip(found.pictures, map(tuple, found.places), found.inside, strict=True)
    }
    for picture, place, row in zip(mixed.pictures, map(tuple, mixed.places), moved, strict=True):
        assert np.array_equal(row, other[(1 - picture, *place)])
