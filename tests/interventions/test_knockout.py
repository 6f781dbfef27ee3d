"""Knockouts: windows by the published formula written out, conditions counted by hand."""

import math
from typing import Any

import pytest

from mllm_probe.errors import ConfigError
from mllm_probe.interventions.knockout import Knockout
from mllm_probe.records.interventions import CUT
from mllm_probe.records.sites import Anatomy
from mllm_probe.results.effects import ABOVE


def model(blocks: int) -> Anatomy:
    return Anatomy({"vision": 3, "lm": blocks}, {"vision": 4, "connector": 8, "lm": 8}, True, 99)


@pytest.mark.parametrize("blocks", [1, 2, 8, 16, 32, 40])
@pytest.mark.parametrize("width", [None, 1, 2, 5, 8])
def test_windows_are_those_of_the_published_formula(blocks: int, width: int | None) -> None:
    k = max(1, min(9, blocks // 4)) if width is None else width
    layers = range(blocks)  # counted from 0, as there
    expected = [
        [layer for layer in layers if max(0, c - math.floor(k / 2)) <= layer <= min(blocks, c + math.ceil(k / 2)) - 1]
        for c in layers
    ]
    found = Knockout(window=width).windows(blocks)
    assert list(found) == [c + 1 for c in layers]
    assert [[layer - 1 for layer in range(first, last + 1)] for first, last in found.values()] == expected


def test_windows_may_be_anchored_at_either_end() -> None:
    assert Knockout(anchored="first").windows(3) == {1: (1, 1), 2: (1, 2), 3: (1, 3)}
    assert Knockout(anchored="last", centres=[3, 1]).windows(3) == {3: (3, 3), 1: (1, 3)}


def test_every_edge_at_every_centre_has_its_random_draws() -> None:
    found = list(
        Knockout(edges=["image->last", "mark:caption->last"], above=[0, 3], random_draws=2).conditions(model(4))
    )
    assert len(found) == 3 * (2 * 4 + 2)
    rows = [(c.what, c.layer, c.first, c.last, c.control, c.draw) for c, _ in found]
    assert rows[:3] == [("image->last", 1, 1, 1, "", 0), *(("image->last", 1, 1, 1, "random", i) for i in (1, 2))]
    assert rows[-6] == (ABOVE, 0, 1, 4, "", 0) and rows[-3] == (ABOVE, 3, 4, 4, "", 0)
    assert len(set(rows)) == len(rows)
    for condition, cut in found:
        source, span = ("image", "behind") if condition.what == ABOVE else condition.what.split("->")
        assert (cut.kind, cut.source, cut.span, cut.window) == (CUT, source, span, (condition.first, condition.last))
        assert cut.payload == (condition.draw or None) and cut.site is None
        assert condition.depth == condition.layer / 4 and condition.kind == "knockout"


def test_the_default_cuts_above_every_layer_and_spans_are_those_of_the_edges() -> None:
    found = [condition for condition, _ in Knockout(random_draws=0).conditions(model(5))]
    assert [c.layer for c in found if c.what == ABOVE] == [0, 1, 2, 3, 4] and len(found) == 4 * 5 + 5
    assert Knockout().spans == ("image", "statement", "last", "behind")
    assert Knockout(edges=["statement->last"], above=[]).spans == ("statement", "last")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"edges": ["image"]}, "intervention.edges names the edge 'image', which must be SPAN->SPAN"),
        ({"edges": ["image->words"]}, "intervention.edges names the span 'words', which is unknown"),
        ({"edges": ["last->rest"]}, "intervention.edges names the span 'rest', which is another one in every"),
        ({"edges": [], "above": []}, "intervention.edges and intervention.above are both empty"),
        ({"window": 0}, "intervention.window=0 must be 1 or more"),
        ({"anchored": "top"}, "intervention.anchored=top is unknown; choose one of: first, last, or null"),
        ({"anchored": "last", "window": 3}, "intervention.window=3 does not go with intervention.anchored=last"),
        ({"random_draws": -1}, "intervention.random_draws=-1 must be 0 or more"),
        ({"centres": [], "above": []}, "intervention.centres=[] names no block"),
    ],
)
def test_wrong_settings_are_refused_where_they_are_given(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Knockout(**settings)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"window": 9}, "intervention.window=9 is out of range: the language model has 8 blocks"),
        ({"centres": [1, 9]}, "intervention.centres=9 is out of range: the language model has 8 blocks, give 1 to 8"),
        ({"centres": [0]}, "intervention.centres=0 is out of range"),
        ({"above": [8]}, "intervention.above=8 is out of range: the language model has 8 blocks, give 0 to 7"),
    ],
)
def test_windows_that_the_model_lacks_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        next(Knockout(**settings).conditions(model(8)))
    assert str(error.value).startswith(said)
