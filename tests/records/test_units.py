"""Each measure is written in its own unit, and nothing has a minus that rounds to nothing."""

import pytest

from mllm_probe.records import units


@pytest.mark.parametrize(
    ("metric", "value", "said", "gap"),
    [
        ("accuracy", 0.9312, "93.1 % [92.0, 94.0]", "+93.1 points [92.0, 94.0]"),
        ("balanced_accuracy", 0.5, "50.0 % [92.0, 94.0]", "+50.0 points [92.0, 94.0]"),
        ("auroc", 0.75, "0.750 [0.920, 0.940]", "+0.750 [0.920, 0.940]"),
        ("r2", 0.42, "0.420 [0.920, 0.940]", "+0.420 [0.920, 0.940]"),
        ("nll", 0.35, "0.350 nats [0.920, 0.940]", "+0.350 nats [0.920, 0.940]"),
        ("spearman", -0.1, "-0.100 [0.920, 0.940]", "-0.100 [0.920, 0.940]"),
    ],
)
def test_a_measure_is_written_in_its_unit(metric: str, value: float, said: str, gap: str) -> None:
    assert units.value(value, 0.92, 0.94, metric) == said
    assert units.gap(value, 0.92, 0.94, metric) == gap


@pytest.mark.parametrize("metric", ["accuracy", "auroc", "nll", "r2"])
def test_nothing_is_never_below_nothing(metric: str) -> None:
    for said in (units.value, units.bare, units.gap):
        assert "-" not in said(-1e-9, -1e-12, -0.0, metric)


def test_what_has_no_interval_shows_none() -> None:
    assert units.value(0.5, float("nan"), float("nan"), "accuracy") == units.value(0.5, None, None, "accuracy")
    assert units.value(0.5, None, None, "accuracy") == "50.0 %" and units.bare(0.5, None, None, "r2") == "0.500"


def test_an_amount_is_short_and_heads_tell_the_unit() -> None:
    assert units.amount(0.01, "accuracy") == "1 point" and units.amount(0.025, "accuracy") == "2.5 points"
    assert units.amount(None, "accuracy") == units.amount(float("nan"), "nll") == ""
    assert units.amount(0.01, "r2") == "0.01" and units.amount(0.01, "nll") == "0.01 nats"
    assert [units.headed(name) for name in ("accuracy", "nll", "auroc")] == [
        "accuracy in %",
        "log loss in nats",
        "AUROC",
    ]
