"""Which words name what, and what they say of a place, against a loop."""

import numpy as np
import pytest

from mllm_probe.errors import ProbeError
from mllm_probe.spatial.lenses.names import ELSEWHERE, LOCAL, UNRELATED, Names, forms

SPELLED = ("<s>", " red", "Circles", " square", "blue", " crosses", " bus", " bu", " of", "glass", " ski")
CATEGORIES = ("red circle", "red square", "blue cross", "bus", "wine glass", "skis")


def naive(token: int, row: int, inside: np.ndarray, present: np.ndarray) -> int:
    words = {
        "red circle": {1, 2},
        "red square": {1, 3},
        "blue cross": {4, 5},
        "bus": {6},
        "wine glass": {9},
        "skis": {10},
    }
    for kind, cells in ((LOCAL, inside), (ELSEWHERE, present)):
        for c, name in enumerate(CATEGORIES):
            if cells[row, c] and token in words[name]:
                return kind
    return UNRELATED


def test_words_are_judged_as_by_a_loop() -> None:
    rng = np.random.default_rng(0)
    present = rng.random((200, 6)) < 0.4
    inside = present & (rng.random((200, 6)) < 0.3)
    ids = rng.integers(0, 13, (200, 5))  # some beyond the vocabulary
    found = Names.of(CATEGORIES, SPELLED).judged(ids, inside, present)
    assert {LOCAL, ELSEWHERE, UNRELATED} == set(found.ravel().tolist())
    for row, own in enumerate(ids):
        for rank, token in enumerate(own):
            assert found[row, rank] == naive(token, row, inside, present), (row, rank, token)


def test_case_blank_and_plural_do_not_matter_and_more_does() -> None:
    assert {"bus", "buses"} <= forms("bus") and "bu" not in forms("bus")
    assert {"cross", "crosses", "blue"} <= forms("Blue cross") and "cros" not in forms("blue cross")
    assert {"ski", "skis"} <= forms("skis") and "category" not in forms("cat")


def test_categories_without_a_word_are_told_and_refused_where_none_is_left() -> None:
    every = Names.of((*CATEGORIES, "toothbrush"), SPELLED)
    assert every.known.tolist() == [True] * 6 + [False]
    assert "1 of 7 categories (toothbrush) are unknown to the lens vocabulary" in str(every.check())
    assert Names.of(CATEGORIES, SPELLED).check() is None
    with pytest.raises(ProbeError, match="2 of 2 categories .* unknown to the lens vocabulary"):
        Names.of(("toothbrush", "zebra"), SPELLED).check()
