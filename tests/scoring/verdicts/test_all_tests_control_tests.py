"""A layer against the same layer of a control: the sign is found, and what was not shown is told with what could be."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mllm_probe.experiment.controls import random_draws
from mllm_probe.fitting.trials import Trial
from mllm_probe.records.sites import Key
from mllm_probe.scoring.verdicts.all_tests import Controls
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.paired import difference

PICTURES, LAYERS = 200, 6
KEYS = [Key.parse(f"lm.{layer:02d}@last") for layer in range(LAYERS)]


def scoring(*controls: str) -> Any:
    """What Controls asks of a sweep: one decision a picture, all tested; a trial's logits are its scores."""
    sweep = SimpleNamespace(permutations=999)
    variants = [SimpleNamespace(control=name) for name in controls]
    experiment = SimpleNamespace(variants=variants, probe=SimpleNamespace(name="ridge"), sweep=sweep)
    draws = Resamples(np.arange(PICTURES), 200)
    return SimpleNamespace(
        probing=SimpleNamespace(experiment=experiment, groups=np.arange(PICTURES)),
        run="run",
        level=0.95,
        rows=lambda trial, split: np.ones(PICTURES, bool),
        row_scores=lambda trials, rows: trials[0].logits,
        draws=lambda rows: draws,
        measured=lambda rows: float(rows.mean()),
        incomparable=lambda rows: None,
        difference=lambda a, b, rows, **more: difference(a, b, draws, 0.95, **more),
    )


def added(found: Controls, control: str, right: float, rng: np.random.Generator) -> None:
    for key in KEYS:
        scores = (rng.random(PICTURES) < right).astype(float)
        found.add([Trial(key, control, "ridge", 0, scores, {}, {})])


def test_a_trained_model_below_an_untrained_one_is_said_to_be_below() -> None:
    """57 against 73 at every layer, and against another draw that scores the same: below, and not shown."""
    rng = np.random.default_rng(0)
    found = Controls(scoring("random_weights", "random_weights_2", "text_only"), SimpleNamespace(has=lambda *_: False))
    for control, right in (("", 0.57), ("random_weights", 0.73), ("random_weights_2", 0.57), ("text_only", 0.3)):
        added(found, control, right, rng)
    rows = {(test.other, test.site): test for test in found.tests()}
    assert len(rows) == 3 * LAYERS
    for key in KEYS:
        first, second, blind = (rows[c, str(key.site)] for c in ("random_weights", "random_weights_2", "text_only"))
        assert (first.verdict, second.verdict, blind.verdict) == ("below", "", "above")
        assert first.value < 0 < blind.value and first.family == second.family != blind.family
        assert first.low <= first.value <= first.high and second.detectable > 0.05
        assert first.p_adjusted >= first.p_value


def test_what_is_by_design_is_told_and_in_no_family() -> None:
    rng = np.random.default_rng(0)
    known = SimpleNamespace(has=lambda control, key: control == "text_only" or key == KEYS[0])
    found = Controls(scoring("text_only", "random_weights"), known)
    for control in ("", "text_only", "random_weights"):
        added(found, control, 0.5, rng)
    rows = {(test.other, test.site): test for test in found.tests()}
    told = {place for place, test in rows.items() if test.verdict == "by design"}
    assert told == {("text_only", str(key.site)) for key in KEYS} | {("random_weights", "lm.00")}
    assert all(rows[place].p_value is None and rows[place].family == "by design" for place in told)
    assert {rows["random_weights", str(key.site)].family for key in KEYS[1:]} == {"random_weights, 5 keys"}


@pytest.mark.parametrize("control", ["majority", "control_task"])
def test_controls_that_change_neither_model_nor_input_have_no_row(control: str) -> None:
    found = Controls(scoring("random_weights"), SimpleNamespace(has=lambda *_: False))
    for name in ("", control):
        added(found, name, 0.5, np.random.default_rng(0))
    assert found.tests() == []


@pytest.mark.parametrize(("weights", "seeds"), [("pretrained", [3, 4, 5]), ("random", [4, 5, 6])])
def test_draws_have_seeds_of_their_own_and_none_is_the_model_itself(weights: str, seeds: list[int]) -> None:
    config = SimpleNamespace(model=SimpleNamespace(weights=weights, seed=3), random_draws=3)
    made = random_draws(config)  # type: ignore[arg-type]
    assert [change.keywords["seed"] for change in made.values()] == seeds  # type: ignore[attr-defined]
    assert list(made) == ["random_weights", "random_weights_2", "random_weights_3"]
