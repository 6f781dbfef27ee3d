"""What a sweep showed, in words: first layer, largest layer with its set, and what was not shown."""

from dataclasses import replace

import numpy as np
import pytest

from mllm_probe.records.interventions import Condition
from mllm_probe.results.effects import HEADLINES, Sweep
from mllm_probe.scoring.effect_facts import OPEN, facts, summarised
from mllm_probe.scoring.effects import Scored
from tests.support.sweeps import EDGES, LAYERS, NAMED, erased, nothing, patched, steered, sweep_of, windows


def used(one: Condition) -> float:
    """statement->last is used in blocks 3 to 6, most in 5."""
    if one.what != "statement->last" or one.control:
        return 0.0
    return {3: 0.8, 4: 1.2, 5: 2.0, 6: 0.8}.get(one.layer, 0.0)


def test_the_first_and_the_largest_layer_of_an_edge_are_told() -> None:
    found = {(one.metric, one.what): one for one in facts(Scored(sweep_of(windows(), used), NAMED))}
    one = found["margin", "statement->last"]
    assert (one.shown, one.first, one.largest) == (True, "lm.03", "lm.05") and one.layers == (5,)
    assert one.sentence.startswith("statement->last: cutting it in blocks 4 to 6, the window of lm.05, takes ")
    assert "nats [" in one.sentence and "as many random edges: " in one.sentence
    assert one.sentence.endswith("first shown at lm.03, largest at lm.05 (95 %)")
    other = found["margin", "image->last"]
    assert not other.shown and other.first is None and len(other.layers) > 1
    assert "no window takes more from the right answer than as many random edges" in other.sentence


def test_a_place_with_less_harm_is_not_called_that_of_the_largest_effect() -> None:
    """Random edges take more where the edge takes most."""
    taken = {(1, ""): 2.0, (1, "random"): 3.0}
    sweep = sweep_of(windows(EDGES[:1]), lambda one: taken.get((one.layer, one.control), 0.0))
    one = next(facts(Scored(sweep, NAMED)))
    assert one.metric == "margin" and not one.shown and one.largest != "lm.01"
    assert f"; set against theirs, the effect is largest at {one.largest}, which " in one.sentence


def test_a_tie_of_layers_is_a_set() -> None:
    tied = sweep_of(
        windows(), lambda one: 1.0 * (one.layer in (4, 5) and one.what == "image->last" and not one.control)
    )
    one = next(one for one in facts(Scored(tied, NAMED)) if (one.metric, one.what) == ("margin", "image->last"))
    assert one.layers == (4, 5) and "largest at one of lm.04, lm.05 (95 %)" in one.sentence


def test_the_summary_has_both_lists_and_a_caution() -> None:
    told = summarised(Scored(sweep_of(windows(), used), NAMED))
    assert len(told["shown"]) == 1 and len(told["not_shown"]) == 3 and told["not_shown"][-1] == OPEN
    assert told["tests"] == 3 * 3 * LAYERS and told["read"] == told["answered_rightly"] < told["measured"] == 80
    assert len(told["effects"]) == 9 and told["metric"] == "margin"


def test_other_kinds_are_told_in_their_own_words() -> None:
    patch = summarised(Scored(patched(lambda one: 0.5 * (one.what == "image" and one.layer == 4)), NAMED))
    assert patch["shown"][0].startswith("image, denoise: putting in the states at lm.04 moves the answer by ")
    assert "last, noise: no site moves the answer; the largest effect is at " in patch["not_shown"][1]
    steer = summarised(Scored(steered(lambda one: 2.0 * (one.what == "pattern" and one.layer == 5)), NAMED))
    assert "pattern: adding it at lm.05 moves the answer by " in steer["shown"][0]
    assert "95 % of random directions: 0." in steer["shown"][0]
    erase = summarised(
        Scored(erased(lambda one: 2.5 * (one.layer == 6 and one.what == "last" and not one.control)), NAMED)
    )
    assert "erasing it at lm.06 loses " in erase["shown"][0] and " points [" in erase["shown"][0]


def test_a_slope_the_other_way_is_not_shown() -> None:
    steer = steered(lambda one: -2.0 * (one.what == "pattern"))
    scored = Scored(steer, NAMED)
    assert min(row.p_max_t for row in scored.rows if row.p_max_t is not None) <= 0.05
    assert not summarised(scored)["shown"]


def test_two_windows_around_a_block_have_two_names() -> None:
    both = [*windows(("image->last",), 3, 0), Condition("knockout", "image->last", "", 1, 2, 2, 2 / 3)]
    one = next(facts(Scored(sweep_of(both, nothing), NAMED)))
    assert one.largest.endswith(")") and np.all([name.startswith("lm.0") for name in one.may_be_largest])


def test_a_verb_tells_the_sign_and_no_amount_is_below_0() -> None:
    """What helps adds, and a control that goes the other way says so."""
    first = windows(EDGES[:2], layers=1, draws=2)
    moved = {(EDGES[0], ""): -0.5, (EDGES[0], "random"): 0.25, (EDGES[1], ""): 0.5, (EDGES[1], "random"): 0.25}
    sweep = sweep_of(first)
    lost = np.array([[moved[one.what, one.control]] for one in first])
    sweep = replace(sweep, d=(sweep.clean_d - np.where(sweep.labels == 1, lost, -lost)).astype(np.float32))
    found = {one.what: one.sentence for one in facts(Scored(sweep, NAMED)) if one.metric == "margin"}
    assert "adds 0.500 nats [0.500, 0.500] to the right answer" in found[EDGES[0]]
    assert found[EDGES[0]].endswith("; as many random edges: 0.250 nats the other way")
    assert "takes 0.500 nats [0.500, 0.500] from the right answer" in found[EDGES[1]]
    assert "; as many random edges: 0.250 nats; " in found[EDGES[1]]


def test_the_ends_of_an_interval_are_turned_with_the_sign() -> None:
    sweep = sweep_of(windows(EDGES[:1], layers=1, draws=0), lambda one: -1.0)
    scored = Scored(sweep, NAMED)
    fact = next(one for one in facts(scored) if one.metric == "margin")
    assert f"adds {fact.value:.3f} nats [{fact.low:.3f}, {fact.high:.3f}] to the right answer" in fact.sentence
    assert fact.value is not None and fact.low is not None and fact.low < fact.value
    lost = next(one for one in facts(Scored(sweep_of(sweep.conditions, lambda one: 1.0), NAMED)))
    assert f"takes {-lost.value:.3f} nats [{-lost.high:.3f}, {-lost.low:.3f}] from" in lost.sentence  # type: ignore[operator]


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        (erased(lambda one: -2.5 * (one.control == "")), "gains "),
        (steered(lambda one: -2.0), "moves the answer the other way, by "),
        (patched(lambda one: -0.5), "moves the answer the other way, by "),
    ],
    ids=["erasure", "steering", "patching"],
)
def test_other_kinds_turn_signs_in_their_own_words(sweep: Sweep, said: str) -> None:
    sentences = [one.sentence for one in facts(Scored(sweep, NAMED)) if one.metric == HEADLINES[sweep.kind]]
    assert all(said in one and f"{said}-" not in one for one in sentences)
