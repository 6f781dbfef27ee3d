"""Scores of trials: what is said of the same decisions is measured and resampled once."""

from types import SimpleNamespace

import numpy as np
import pytest

from mllm_probe.fitting.trials import Probing, Trial
from mllm_probe.records.samples import Decision, Examples
from mllm_probe.records.sites import Key
from mllm_probe.scoring import aggregate
from mllm_probe.scoring.aggregate import Scoring
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.intervals import of
from mllm_probe.stats.measures import METRICS, measure
from mllm_probe.tasks.splits import Folds


def scoring() -> Scoring:
    """Of 40 pictures with two decisions each, without a model."""
    rows = [(f"{i}{side}", side, f"p{i:02d}") for i in range(40) for side in (0, 1)]
    made = tuple(Decision(uid, "s", "t", label, group) for uid, label, group in rows)
    folds = {f"p{i:02d}": i // 4 for i in range(40)}
    sweep = SimpleNamespace(seeds=[0], metric="auto", draws=40, ci_level=0.95)
    names = {"run": "r", "group_word": "picture", "variants": (), "identity": SimpleNamespace(digest="c")}
    names |= {"model": SimpleNamespace(label="m", revision=None, precision="none"), "controls": (), "sweep": sweep}
    names |= {"collection": SimpleNamespace(name="d"), "task": SimpleNamespace(name="t", template="a")}
    names |= {"anatomy": SimpleNamespace(depth=lambda site: 0.5), "examples": Examples((), made, folds)}
    return Scoring(Probing(SimpleNamespace(**names, folds=Folds(), probe=SimpleNamespace(log_odds=True))))  # type: ignore[arg-type]


def trial(layer: int, logits: np.ndarray) -> Trial:
    return Trial(Key.parse(f"lm.{layer:02d}@last"), "", "logistic", 0, logits, {"converged": 1.0, "log_odds": 1.0}, {})


def test_layers_that_say_the_same_are_measured_and_resampled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(aggregate, "of", lambda metric, *rest: (seen.append(metric), of(metric, *rest))[1])
    monkeypatch.setattr(
        aggregate, "measure", lambda metric, *rest, **more: (seen.append(metric), measure(metric, *rest, **more))[1]
    )
    one, said = scoring(), np.random.default_rng(0).normal(size=80).astype(np.float32)
    first = one.scores([trial(0, said)])
    asked = len(seen)
    assert asked == 3 * len(METRICS["binary"])  # two splits, and the interval
    again = one.scores([trial(1, said.copy())])
    assert len(seen) == asked and [(row.value, row.low, row.high) for row in again] == [
        (row.value, row.low, row.high) for row in first
    ]
    one.scores([trial(2, -said)])
    assert len(seen) == 2 * asked
    rows = one.rows(trial(0, said), "test")
    y, pictures = one.probing.y[rows], Resamples(one.probing.groups[rows], 40)
    for metric in METRICS["binary"]:
        (whole,) = (row for row in first if row.metric == metric and row.seed == "all")
        between = of(metric, said[None, rows].astype(float), y, pictures)
        assert (whole.value, whole.low) == (measure(metric, said[rows], y)[0], between.low)
