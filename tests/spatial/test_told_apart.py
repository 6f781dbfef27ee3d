"""Tokens that are told apart differ in the category alone, not in whether there is an object."""

import numpy as np

from mllm_probe.spatial.told_apart import DISTANCES, FAR, RATIO, ToldApart
from tests.support.fields import field, splits

FIELD = field(60)
TEST = splits(FIELD)[0] == "test"
APART = ToldApart(FIELD, TEST)


def share(cells: np.ndarray) -> float:
    return float(FIELD.objects[cells].mean())


def test_tokens_inside_are_told_from_tokens_inside_others() -> None:
    found = APART.inside()
    assert np.array_equal(found & FIELD.present, FIELD.inside)
    for c, cells in enumerate(found.T):
        negative = cells & ~FIELD.present[:, c]
        assert negative.any() and FIELD.objects[negative].all()
        assert np.array_equal(negative & TEST, TEST & FIELD.objects & ~FIELD.present[:, c])  # all there are


def test_tokens_away_are_told_from_as_many_inside_objects() -> None:
    found = APART.away()
    for c, cells in enumerate(found.T):
        positive, negative = cells & FIELD.present[:, c], cells & ~FIELD.present[:, c]
        assert np.array_equal(positive, (FIELD.away[:, c] >= FAR) & FIELD.present[:, c])
        for part in (TEST, ~TEST):
            assert abs(share(positive & part) - share(negative & part)) < 0.01
        assert (negative & ~TEST).sum() <= RATIO * (positive & ~TEST).sum() + 1


def test_every_distance_is_told_apart_and_trained_alike() -> None:
    found = APART.everywhere()
    for c, cells in enumerate(found.T):
        positive = cells & FIELD.present[:, c] & ~TEST
        most = (FIELD.inside[:, c] & ~TEST).sum()
        for low, high in DISTANCES.values():
            own = (FIELD.away[:, c] >= low) & (FIELD.away[:, c] < high) & ~TEST & FIELD.present[:, c]
            assert (positive & own).sum() == min(most, own.sum())
    cells = APART.tested_at("4-5")
    assert not cells[~TEST].any()
    assert set(FIELD.away[cells & FIELD.present]) == {4, 5}
    assert np.array_equal(cells, ToldApart(FIELD, TEST).tested_at("4-5"))
