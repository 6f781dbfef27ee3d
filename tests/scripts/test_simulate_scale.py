"""The simulation of a large cache, in small: its steps run, and what they find is what was planned."""

from functools import partial
from pathlib import Path

from simulate_scale import STEPS, peak_megabytes


def test_two_thousand_samples(tmp_path: Path) -> None:
    found = {name: peak_megabytes(partial(step, tmp_path, 2000, 16)) for name, step in STEPS.items()}
    filled = found["fill"]
    assert filled["shards"] == 6 and filled["files"] == 6 + len(("plan", "provenance", "manifest", "memo"))
    assert 1 < filled["bytes"] / filled["values"] < 1.25, "rows, and an index of some hundred bytes a sample"
    assert found["read"]["peak_anonymous_mb"] > 0
