"""Which categories of a picture are kept to be looked at: those that are there, and some that are not."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from mllm_probe.spatial.looked_at import ABSENT, CATEGORIES, LookedAt
from tests.support.fields import field


def test_categories_that_cover_tokens_come_first_and_then_the_commonest_absent_ones() -> None:
    drawn = field(pictures=30, categories=8)
    looked_at = LookedAt(SimpleNamespace(), drawn, 1)
    there = {one: set(np.flatnonzero(drawn.inside[drawn.pictures == one].any(0))) for one in range(30)}
    often = [sum(c in own for own in there.values()) for c in range(8)]
    for one, own in there.items():
        found = looked_at._categories(one)
        kept = min(len(own), CATEGORIES)
        assert set(found[:kept]) <= own and not own & set(found[kept:])
        others = sorted(set(range(8)) - own, key=lambda c: -often[c])
        assert [often[c] for c in found[kept:]] == [often[c] for c in others[:ABSENT]]


def test_a_category_too_small_to_cover_a_token_is_not_called_absent() -> None:
    drawn = field(pictures=20, categories=4)
    present = drawn.present.copy()
    present[drawn.pictures == 3] = True
    looked_at: Any = LookedAt(SimpleNamespace(), replace(drawn, present=present), 1)
    assert set(looked_at._categories(3)) == set(np.flatnonzero(drawn.inside[drawn.pictures == 3].any(0)))
