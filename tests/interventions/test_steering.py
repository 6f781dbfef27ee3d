"""Steering: payloads by hand from directions written by hand."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from mllm_probe.errors import ConfigError
from mllm_probe.interventions.steering import Steering
from mllm_probe.probes.directions import Directions
from mllm_probe.records.interventions import ADD
from mllm_probe.records.sites import Anatomy, Site

ANATOMY = Anatomy({"vision": 3, "lm": 4}, {"vision": 4, "connector": 8, "lm": 3}, True, 99)
E = np.eye(3)


def given(scale: float = 10.0) -> Mapping[Site, Directions]:
    units = {"class_mean": E[0], "pattern": E[1], "weights": E[2], "leace": (E[0] + E[1]) / 2**0.5}
    return {
        Site("lm", 0): Directions({}, scale, np.zeros((0, 3))),
        Site("lm", 3): Directions(units, scale, np.stack([E[1], -E[2]]), control=-E[0]),
        Site("lm", 4, "norm"): Directions(units, scale, E[:1]),
    }


def test_states_move_by_the_strength_times_their_norm_along_the_unit_vector() -> None:
    found = list(Steering(strengths=[-2, 0, 0.5]).conditions(ANATOMY, given(), "float32"))
    assert len(found) == 5 * 3 and {condition.site for condition, _ in found} == {"lm.03"}
    for condition, change in found:
        assert isinstance(change.payload, torch.Tensor) and change.payload.dtype is torch.float32
        unit = -E[0] if condition.control else given()[Site("lm", 3)].units[condition.what]
        assert condition.strength is not None
        np.testing.assert_allclose(change.payload.numpy(), condition.strength * 10 * unit, rtol=1e-6)
        assert (change.kind, change.span, str(change.site)) == (ADD, "last", "lm.03") and condition.depth == 0.75
    assert sum(condition.control == "control_task" for condition, _ in found) == 3
    assert all(condition.what == "class_mean" for condition, _ in found if condition.control)
    assert not any(change.payload.any() for condition, change in found if condition.strength == 0)


def test_slopes_are_of_all_directions_the_control_task_and_the_null() -> None:
    steering = Steering(directions=["pattern", "weights"], in_full=["pattern"], span="statement")
    found = list(steering.slopes(ANATOMY, given()))
    assert [(c.what, c.control, c.draw) for c, _, _ in found] == [
        ("pattern", "", 0),
        ("weights", "", 0),
        ("class_mean", "control_task", 0),
        ("random", "random", 1),
        ("random", "random", 2),
    ]
    expected = 10 * np.stack([E[1], E[2], -E[0], E[1], -E[2]])
    np.testing.assert_array_equal(np.stack([step for _, _, step in found]), expected)
    assert {site for _, site, _ in found} == {Site("lm", 3)} and all(c.strength is None for c, _, _ in found)
    assert steering.position == "tokens:text" and steering.spans == ("statement",)
    assert len(list(steering.conditions(ANATOMY, given(), "bfloat16"))) == 9


def test_strengths_that_overflow_the_dtype_are_refused() -> None:
    steering = Steering(strengths=[1, -6.0])
    with pytest.raises(
        ConfigError, match=r"strengths holds 6, which times the norm 1e\+04 of states at lm.00 overflows"
    ):
        next(steering.conditions(ANATOMY, given(1e4), "float16"))
    assert next(steering.conditions(ANATOMY, given(1e4), "bfloat16")) and next(
        Steering(strengths=[5]).conditions(ANATOMY, given(1e4), "float16")
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"span": "image"}, "intervention.span=image is unknown; choose one of: last, statement"),
        ({"directions": ["mean"]}, "intervention.directions names 'mean', which is unknown; choose one of: class_mean"),
        ({"directions": []}, "intervention.directions is empty"),
        (
            {"directions": ["leace"], "in_full": ["class_mean"]},
            "intervention.in_full names 'class_mean', which is no direction here; choose one",
        ),
        ({"strengths": []}, "intervention.strengths=[] must hold finite numbers"),
        ({"strengths": [float("nan")]}, "intervention.strengths=[nan] must hold finite numbers"),
        ({"random_draws": 18}, "intervention.random_draws=18 must be 19 or more"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Steering(**settings)
    assert str(error.value).startswith(said)


def test_a_direction_of_a_site_that_the_model_lacks_is_refused() -> None:
    one = given()[Site("lm", 3)]
    with pytest.raises(ConfigError, match="the site lm.09 does not exist in this model"):
        next(Steering().slopes(ANATOMY, {Site("lm", 9): one}))
