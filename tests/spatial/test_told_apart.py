"""Tokens that are told apart differ in the category alone, not in whether there is an object, nor in where they lie."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mllm_probe.spatial.told_apart import DISTANCES, FAR, RATIO, ToldApart
from tests.support.fields import field, splits

FIELD = field(300)
TEST = splits(FIELD)[0] == "test"
APART = ToldApart(FIELD, TEST)


def shares(cells: np.ndarray) -> np.ndarray:
    """Of cells [T] bool, the share of each place, on objects and beside them: [2 * 36]. The grid's 8 x 8 tokens are
    told as 6 x 6."""
    bins = FIELD.places[cells] * 6 // 8
    return np.bincount(FIELD.objects[cells] * 36 + bins[:, 0] * 6 + bins[:, 1], minlength=72) / cells.sum()


@pytest.mark.parametrize("cells", [ToldApart.inside, ToldApart.away, ToldApart.everywhere])
def test_both_sides_lie_on_objects_and_at_each_place_alike(cells: Callable[[ToldApart], np.ndarray]) -> None:
    for c, found in enumerate(cells(APART).T):
        positive, negative = found & FIELD.present[:, c], found & ~FIELD.present[:, c]
        for part in (TEST, ~TEST):
            own, other = positive & part, negative & part
            assert own.sum() > 20 and abs(shares(own) - shares(other)).max() < 0.01
            assert own.sum() <= other.sum() <= (np.inf if part is TEST else RATIO * own.sum() + 72)


def test_tokens_inside_are_told_from_tokens_inside_others() -> None:
    found = APART.inside()
    assert not (found & FIELD.present & ~FIELD.inside).any()
    for c, cells in enumerate(found.T):
        assert FIELD.objects[cells & ~FIELD.present[:, c]].all()
        # all but those at a place where too few others lie on objects
        assert (cells & FIELD.inside[:, c]).sum() > 0.9 * FIELD.inside[:, c].sum()


def test_tokens_away_are_far() -> None:
    found = APART.away()
    assert not (found & FIELD.present & (FIELD.away < FAR)).any()
    for c, cells in enumerate(found.T):
        far = (FIELD.away[:, c] >= FAR) & FIELD.present[:, c]
        assert (cells & FIELD.present[:, c]).sum() > 0.95 * far.sum()


def test_every_distance_is_told_apart_and_trained_alike() -> None:
    found = APART.everywhere()
    for c, cells in enumerate(found.T):
        positive = cells & FIELD.present[:, c] & ~TEST
        most = (FIELD.inside[:, c] & ~TEST).sum()
        for low, high in DISTANCES.values():
            own = (FIELD.away[:, c] >= low) & (FIELD.away[:, c] < high) & ~TEST & FIELD.present[:, c]
            assert 0.8 * min(most, own.sum()) <= (positive & own).sum() <= min(most, own.sum())
    cells = APART.tested_at("4-5")
    assert not cells[~TEST].any()
    assert set(FIELD.away[cells & FIELD.present]) == {4, 5}
    assert np.array_equal(cells, ToldApart(FIELD, TEST).tested_at("4-5"))


def test_nothing_is_told_where_no_token_can_be_matched() -> None:
    """A category in every picture has no picture without it."""
    present = FIELD.present.copy()
    present[:, 1] = True
    assert not ToldApart(replace(FIELD, present=present), TEST).inside()[:, 1].any()
