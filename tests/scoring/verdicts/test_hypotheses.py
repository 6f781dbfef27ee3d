"""H1 to H3 against planted curves, and how often they hold where they are false."""

from dataclasses import replace

import numpy as np
import pytest

from mllm_probe.errors import ProbeError
from mllm_probe.scoring.verdicts.best_layers import Curve
from mllm_probe.scoring.verdicts.hypotheses import FAILS, HOLDS, UNDECIDED, Judge, Statement
from mllm_probe.stats.bootstrap import Resamples

LAYERS, PER_PICTURE = 9, 4
DEPTHS = np.linspace(0, 1, LAYERS)
SITES = tuple(f"lm.{layer:02d}" for layer in range(LAYERS))
PEAKED = np.array([0.5, 0.55, 0.65, 0.75, 0.85, 0.95, 0.92, 0.85, 0.75])
SATURATING = np.array([0.6, 0.75, 0.9, 0.93, 0.93, 0.93, 0.93, 0.93, 0.93])
RISING = np.array([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9])
FLAT = np.full(LAYERS, 0.8)


def curve(truth: np.ndarray, pictures: int, seed: int, name: str = "entailment at last", own: float = 0.1) -> Curve:
    """Right or wrong by row: one uniform number a row, half of it shared by its picture, a share of rows drawn anew at
    each layer; `chosen` by the mean of as many validation rows."""
    rng = np.random.default_rng(seed)
    val, test = (_right(truth, pictures, rng, own) for _ in range(2))
    groups = np.repeat(np.arange(pictures), PER_PICTURE)
    return Curve(SITES, DEPTHS, test, groups, int(val.mean(axis=1).argmax()), name)


def _right(truth: np.ndarray, pictures: int, rng: np.random.Generator, own: float) -> np.ndarray:
    n = pictures * PER_PICTURE
    shared = np.where(rng.random(n) < 0.5, np.repeat(rng.random(pictures), PER_PICTURE), rng.random(n))
    luck = np.where(rng.random((LAYERS, n)) < own, rng.random((LAYERS, n)), shared)
    return (luck < truth[:, None]).astype(np.float64)


def judged(whole: np.ndarray, local: np.ndarray, pictures: int, **how: float) -> dict[str, Statement]:
    a, b = curve(whole, pictures, 1), curve(local, pictures, 2, "objects at last")
    return {s.name: s for s in Judge(draws=500, **how).statements(a, b)}  # type: ignore[arg-type]


def chosen(curve: Curve, layer: int) -> Curve:
    return replace(curve, chosen=layer)


def test_a_peak_and_a_plateau_make_all_three_hold() -> None:
    found = judged(PEAKED, SATURATING, 800)
    assert {name: s.verdict for name, s in found.items()} == {"H1": HOLDS, "H2": HOLDS, "H3": HOLDS}
    h1, h2, h3 = (found[name].numbers for name in ("H1", "H2", "H3"))
    assert h1["chosen"] == "lm.05" and h1["first_depth"] <= 0.625 <= h1["last_depth"] < 1
    assert h1["fall_low"] < 0.2 < h1["fall_high"] and h1["rise_low"] < 0.45 < h1["rise_high"]
    assert (
        h2["middle"] == "lm.04" and h2["rise_low"] < 0.33 < h2["rise_high"] and h2["more_low"] < 0.2 < h2["more_high"]
    )
    assert h3["first_depth"] == 0.625 and h3["not_before"] <= 0.375 <= h3["saturated_by"] < 0.625


def test_sentences_say_what_was_found_of_each_part_and_with_what_interval() -> None:
    found = judged(PEAKED, SATURATING, 800)
    h1 = found["H1"].numbers
    points = {
        n: "+{:.1f} points [{:.1f}, {:.1f}]".format(*(100 * h1[n + e] for e in ("", "_low", "_high")))
        for n in ("rise", "fall")
    }
    assert found["H1"].sentence == (
        "entailment at last: validation chose lm.05, the best layer is lm.05 (95 %); a rise is shown: the lowest "
        f"layer compared, lm.00, is not among them (lm.05 minus it: {points['rise']}); a fall is shown: the highest "
        f"layer compared, lm.08, is not among them (lm.05 minus it: {points['fall']}); H1 holds"
    )
    assert "objects at last from lm.00 to lm.04: +3" in found["H2"].sentence
    assert found["H3"].sentence.endswith("within 1 point of its best at lm.03 (depth 0.38) (97.5 % each); H3 holds")


def test_a_hypothesis_that_fails_says_which_part_does() -> None:
    """Of a rising curve nothing falls, and no word is said against the local one."""
    found = judged(RISING, SATURATING, 800)
    assert found["H1"].verdict == FAILS and found["H1"].parts == {"rise": HOLDS, "fall": FAILS}
    assert (
        "there is no fall: the highest layer compared, lm.08, is within 1 point of every layer" in found["H1"].sentence
    )
    assert found["H2"].verdict == FAILS and found["H2"].parts == {"rise": HOLDS, "fall": FAILS}
    assert "entailment at last does not fall more than objects at last: at most by +0." in found["H2"].sentence
    assert "a rise is shown: objects at last from lm.00 to lm.04" in found["H2"].sentence
    assert found["H3"].verdict == HOLDS
    flat = judged(FLAT, SATURATING, 6000, margin=0.02)
    assert flat["H1"].verdict == flat["H2"].verdict == FAILS


def test_one_layer_stands_for_a_curve_in_all_three() -> None:
    """Whichever validation chose; where it lies outside the set the words say so, and no other is called the best."""
    whole, local = (chosen(curve(truth, 800, seed), 8) for truth, seed in ((PEAKED, 1), (SATURATING, 2)))
    found = {s.name: s for s in Judge(draws=500).statements(whole, local)}
    assert "validation chose lm.08, the best layer is lm.05 (95 %), a different layer" in found["H1"].sentence
    assert found["H1"].verdict == HOLDS and "fall" not in found["H1"].numbers, "a layer is not held against itself"
    assert (
        "validation chose the highest layer compared, lm.08" in found["H2"].sentence
        and found["H2"].verdict == UNDECIDED
    )
    assert "the best layer of entailment at last is at depth 0.62, and" in found["H3"].sentence


def test_nothing_is_said_to_hold_of_what_is_not_above_chance() -> None:
    whole, local = (replace(curve(t, 800, seed), above=False) for t, seed in ((PEAKED, 1), (SATURATING, 2)))
    found = Judge(draws=500).statements(whole, local)
    assert {s.verdict for s in found} == {UNDECIDED} and "none of the best layers is above chance" in found[0].sentence


def test_a_local_curve_that_falls_just_as_much_breaks_h2_alone() -> None:
    found = judged(PEAKED, PEAKED, 6000, margin=0.02)
    assert (found["H1"].verdict, found["H2"].verdict, found["H3"].verdict) == (HOLDS, FAILS, FAILS)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_few_noisy_rows_decide_nothing_whichever_layer_validation_chose(layer: int) -> None:
    """Also where it chose the top, so that the drop is 0 in every draw."""
    whole, local = curve(FLAT, 12, 3, own=1.0), curve(FLAT, 12, 4, "objects at last", own=1.0)
    found = Judge(draws=300).statements(chosen(whole, layer), chosen(local, layer))
    assert {s.verdict for s in found} == {UNDECIDED}


def test_a_local_curve_that_saturates_later_is_no_later_peak() -> None:
    early = SATURATING - np.array([0, 0, 0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2])
    found = judged(early, RISING, 800)["H3"]
    assert found.verdict == FAILS and found.numbers["last_depth"] <= found.numbers["not_before"]
    assert judged(PEAKED, PEAKED, 800)["H3"].verdict == FAILS, "no later, at the same layer"


TIED = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 0.8, 0.8, 0.8, 0.9])  # as high at the top: no fall
LATE = np.array([0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.9, 0.9, 0.9])  # saturates at lm.06


FALSE = {  # at the edge of each hypothesis: (judged by, global, local)
    "H1": (lambda judge, a, b: judge.peaks(a), TIED, SATURATING),
    "H2": (Judge.no_same_fall, PEAKED, PEAKED),
    "H3": (Judge.peaks_later, np.array([0.5, 0.6, 0.7, 0.8, 0.8, 0.8, 0.93, 0.83, 0.83]), LATE),
}


@pytest.mark.parametrize("name", FALSE)
def test_what_is_false_seldom_holds(name: str) -> None:
    """13 of 120 is the 99.5th percentile at 5 %."""
    tell, whole, local = FALSE[name]
    sides = ((curve(whole, 60, seed), curve(local, 60, 1000 + seed, "objects at last")) for seed in range(120))
    assert sum(tell(Judge(draws=200), a, b).verdict == HOLDS for a, b in sides) <= 13


def test_two_sets_of_rows_on_the_same_pictures_are_compared_within_them() -> None:
    """What the sides share moves both: of the same rows twice nothing is left, of other pictures all is."""
    rng = np.random.default_rng(1)
    ids, x = np.repeat(np.arange(100), 3), np.repeat(rng.normal(size=100), 3)
    y = x[::3] + 0.01 * rng.normal(size=100)
    judge = Judge(draws=1000)
    same = judge._apart(x, y, Resamples(np.concatenate([ids, ids[::3]])))
    apart = judge._apart(x, y, Resamples(np.concatenate([ids, 1000 + ids[::3]])))
    assert same.value == apart.value == pytest.approx(x.mean() - y.mean())
    assert same.se < 0.002 and apart.se == pytest.approx(np.sqrt(2) * x.std() / 10, rel=0.05)


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ProbeError, match="2 layers, and a curve needs 3"):
        Curve(SITES[:2], DEPTHS[:2], np.ones((2, 4)), np.arange(4), 0, "entailment at last")
    with pytest.raises(ProbeError, match="chosen=9 must be 0 to 8"):
        Curve(SITES, DEPTHS, np.ones((LAYERS, 4)), np.arange(4), 9, "entailment at last")
    with pytest.raises(ProbeError, match="deeper ones last, and 5 test rows"):
        Curve(SITES, DEPTHS, np.ones((LAYERS, 4)), np.arange(5), 0, "entailment at last")


def test_a_clear_fall_is_no_peak_while_the_top_may_still_be_the_best_layer() -> None:
    """One comparison finds a small drop before the set of all layers that may be best lets go of the top."""
    weak = np.array([0.5, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8, 0.79])
    found = [Judge(draws=200).peaks(curve(weak, 100, seed)) for seed in range(30)]
    torn = [s for s in found if s.numbers["last"] == "lm.08" and s.numbers.get("fall_low", 0) > 0]
    assert torn and HOLDS not in {s.verdict for s in torn}
