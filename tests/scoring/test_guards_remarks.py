"""Which remarks a sweep makes on fits."""

from typing import Any

import numpy as np

from mllm_probe.fitting.trials import Trial
from mllm_probe.records.sites import Key
from mllm_probe.scoring.guards import remarks_on


def test_decisions_too_close_to_call_are_told() -> None:
    def told(logits: list[Any], kind: str = "binary") -> bool:
        facts = {"converged": 1.0, "log_odds": 1.0}
        trial = Trial(Key.parse("lm.01@last"), "", "logistic", 0, np.asarray(logits, np.float32), facts, {})
        return any("ties and count half" in remark for remark in remarks_on([trial], kind))

    assert told([0.0, 1.0, -1.0]) and told([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0]], "classes")
    assert not told([0.1, 1.0]) and not told([[1.0, 0.0, 0.0]] * 2, "classes") and not told([0.0, 1.0], "number")
    assert not told([0.0, 0.0]), "such keys have a remark of their own"
