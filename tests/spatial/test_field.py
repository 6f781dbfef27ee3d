"""What of a field can be learnt, and which splits fit it."""

from dataclasses import replace

import numpy as np
import pytest

from mllm_probe.errors import ProbeError
from mllm_probe.spatial.field import LEAST, check_splits, held, left_out_said
from tests.support.fields import field, splits


def test_a_category_is_learnable_where_enough_pictures_of_every_split_show_it() -> None:
    found = field(60)
    places = splits(found)
    rare = found.shares.copy()
    validating = np.unique(found.pictures[places[1] == "val"])
    shown = [p for p in validating if found.inside[found.pictures == p, 1].any()][: LEAST["val"] - 1]
    rare[(places[1] == "val") & ~np.isin(found.pictures, shown), 1] = 0  # of one seed's validation alone
    everywhere = found.shares.copy()
    everywhere[:, 2] = 1
    assert found.learnable(places).all()
    assert replace(found, shares=rare).learnable(places).tolist() == [True, False, True, True]
    assert replace(found, shares=everywhere).learnable(places).tolist() == [True, True, False, True]


def test_groups_are_counted_once_and_not_their_pictures() -> None:
    cells = np.asarray([[1, 0], [1, 0], [0, 0], [1, 1]], bool)
    assert held(cells, np.asarray([7, 7, 3, 5])).tolist() == [2, 1]
    assert held(cells[:0], np.asarray([])).tolist() == [0, 0]


def test_what_is_left_out_is_said_in_one_sentence() -> None:
    said = left_out_said(("cat", "dog", "cow"), np.asarray([True, False, False]))
    assert said and said.startswith("2 of 3 categories are left out (dog, cow)") and "data.n" in said
    assert left_out_said(("cat",), np.asarray([True])) is None


def test_a_field_is_cut_to_some_categories() -> None:
    whole = field(6)
    cut = whole.of(np.asarray([False, True, False, True]))
    assert cut.categories == ("thing1", "thing3")
    assert np.array_equal(cut.inside, whole.inside[:, [1, 3]]) and np.array_equal(cut.away, whole.away[:, [1, 3]])
    assert np.array_equal(cut.objects, whole.objects)  # of whatever category


def test_splits_that_do_not_fit_are_refused() -> None:
    found = field(12)
    places = splits(found)
    other = places[1].copy()
    other[other == "test"] = "val"
    with pytest.raises(ProbeError, match="seed 1 tests other tokens"):
        check_splits(found, {0: places[0], 1: other})
    torn = places[0].copy()
    torn[np.flatnonzero(torn == "train")[0]] = "val"
    with pytest.raises(ProbeError, match="two splits"):
        check_splits(found, {0: torn})
    with pytest.raises(ProbeError, match="no seed"):
        check_splits(found, {})
    check_splits(found, places)
