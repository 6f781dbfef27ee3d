"""H1 to H3 against planted curves; joint draws against `Resamples` and against the binomial of separate pictures."""

import numpy as np
import pytest

from mllm_probe.errors import ProbeError
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.hypotheses import FAILS, HOLDS, UNDECIDED, Curve, Judge, Statement
from mllm_probe.stats.joint import JointResamples

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


def test_a_peak_and_a_plateau_make_all_three_hold() -> None:
    found = judged(PEAKED, SATURATING, 800)
    assert {name: s.verdict for name, s in found.items()} == {"H1": HOLDS, "H2": HOLDS, "H3": HOLDS}
    h1, h2, h3 = (found[name].numbers for name in ("H1", "H2", "H3"))
    assert h1["peak"] == "lm.05" and h1["first_depth"] <= 0.625 <= h1["last_depth"] < 1
    assert h1["drop_low"] < 0.2 < h1["drop_high"] and h1["rise_low"] < 0.45 < h1["rise_high"]
    assert (
        h2["middle"] == "lm.04" and h2["rise_low"] < 0.33 < h2["rise_high"] and h2["more_low"] < 0.2 < h2["more_high"]
    )
    assert h3["peak_depth"] == 0.625 and h3["saturation_depth"] == 0.375 and h3["later"] == 0.25


def test_sentences_say_what_was_found_and_with_what_interval() -> None:
    found = judged(PEAKED, SATURATING, 800)
    h1 = found["H1"].numbers
    assert found["H1"].sentence == (
        f"entailment at last: peak at lm.05 [{h1['first']}, {h1['last']}]; the top layer lm.08 is "
        f"{100 * h1['drop']:.1f} points lower [{100 * h1['drop_low']:.1f}, {100 * h1['drop_high']:.1f}]; H1 holds"
    )
    assert "objects at last: lm.04 is 3" in found["H2"].sentence and "points more [" in found["H2"].sentence
    assert "later [" in found["H3"].sentence and found["H3"].sentence.endswith("; H3 holds")


def test_nothing_falls_where_the_top_is_best_or_all_is_flat() -> None:
    rising = judged(RISING, SATURATING, 800)
    assert rising["H1"].verdict == FAILS and "the top layer itself" in rising["H1"].sentence
    assert rising["H2"].verdict == FAILS and rising["H3"].verdict == HOLDS
    flat = judged(FLAT, SATURATING, 6000, margin=0.02)
    assert flat["H1"].verdict == flat["H2"].verdict == FAILS


def test_a_local_curve_that_falls_just_as_much_breaks_h2_alone() -> None:
    found = judged(PEAKED, PEAKED, 6000, margin=0.02)
    assert (found["H1"].verdict, found["H2"].verdict, found["H3"].verdict) == (HOLDS, FAILS, FAILS)


@pytest.mark.parametrize("chosen", range(LAYERS))
def test_a_few_noisy_rows_decide_nothing_whichever_layer_validation_chose(chosen: int) -> None:
    """Also where it chose the top, so that the drop is 0 in every draw."""
    whole, local = curve(FLAT, 12, 3, own=1.0), curve(FLAT, 12, 4, "objects at last", own=1.0)
    whole, local = (Curve(c.sites, c.depths, c.rows, c.groups, chosen, c.name) for c in (whole, local))
    assert {s.verdict for s in Judge(draws=300).statements(whole, local)} == {UNDECIDED}


def test_a_flat_curve_is_no_peak_in_more_than_its_share_of_sweeps() -> None:
    found = [Judge(draws=200).peaks(curve(FLAT, 150, seed)).verdict for seed in range(60)]
    assert found.count(HOLDS) <= 6


def test_an_earlier_peak_is_said_without_a_minus_sign() -> None:
    early, late = SATURATING - np.array([0, 0, 0, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2]), RISING
    found = judged(early, late, 800)["H3"]
    assert found.verdict == FAILS and found.numbers["high"] < 0 and " earlier [0." in found.sentence


def test_the_same_rows_are_drawn_as_resamples_draws_them() -> None:
    rng = np.random.default_rng(0)
    groups, scores = rng.integers(0, 40, 200), rng.random((200, 3))
    joint, alone = JointResamples(groups, groups, 300, 7), Resamples(groups, 300, 7)
    assert np.array_equal(joint.ratios("a", scores), alone.ratios(scores))
    paired = joint.ratios("a", scores[:, :1]) - joint.ratios("b", scores[:, 1:2])
    assert np.allclose(paired[:, 0], alone.ratios(scores[:, :1] - scores[:, 1:2])[:, 0])


def test_sides_move_together_as_far_as_they_share_pictures() -> None:
    rng = np.random.default_rng(1)
    ids = np.repeat(np.arange(100), 3)
    by_picture = np.repeat(rng.random(100), 3)[:, None]
    same = JointResamples(ids, ids[::3], 4000, 0)
    apart = JointResamples(ids, ids + 1000, 4000, 0)
    correlation = [
        np.corrcoef(draws.ratios("a", by_picture)[:, 0], draws.ratios("b", other)[:, 0])[0, 1]
        for draws, other in ((same, by_picture[::3]), (apart, by_picture))
    ]
    assert correlation[0] > 0.999 and abs(correlation[1]) < 0.06
    spread = by_picture.std() / 10
    assert apart.ratios("b", by_picture).std() == pytest.approx(spread, rel=0.1)


def test_a_draw_without_rows_of_a_side_is_left_out() -> None:
    """One picture of six: (5/6)^6 of draws miss it."""
    draws = JointResamples(np.arange(5), np.array([9]), 3000, 0).ratios("b", np.ones((1, 1)))
    assert np.isnan(draws).mean() == pytest.approx((5 / 6) ** 6, abs=0.03) and np.nanmax(draws) == np.nanmin(draws) == 1


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ProbeError, match="2 layers, and a curve needs 3"):
        Curve(SITES[:2], DEPTHS[:2], np.ones((2, 4)), np.arange(4), 0, "entailment at last")
    with pytest.raises(ProbeError, match="chosen=9 must be 0 to 8"):
        Curve(SITES, DEPTHS, np.ones((LAYERS, 4)), np.arange(4), 9, "entailment at last")
    with pytest.raises(ProbeError, match="deeper ones last, and 5 test rows"):
        Curve(SITES, DEPTHS, np.ones((LAYERS, 4)), np.arange(5), 0, "entailment at last")
    with pytest.raises(ProbeError, match="side b of two has no rows"):
        JointResamples(np.arange(3), np.arange(0))
    with pytest.raises(ProbeError, match="must be \\[3, layers\\], the rows of side a"):
        JointResamples(np.arange(3), np.arange(3)).ratios("a", np.ones((4, 2)))


def test_a_significant_drop_is_no_peak_while_the_top_may_still_be_the_best_layer() -> None:
    """One comparison finds a small drop before the set of all layers that may be best lets go of the top."""
    weak = np.array([0.5, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8, 0.8, 0.79])
    found = [Judge(draws=200).peaks(curve(weak, 100, seed)) for seed in range(30)]
    numbers = [s.numbers for s in found]
    clear = [max(n["drop_p"], n["rise_p"]) <= 0.05 for n in numbers]
    torn = [s.verdict for s, n, p in zip(found, numbers, clear, strict=True) if p and n["last"] == n["top"]]
    assert torn and HOLDS not in torn
