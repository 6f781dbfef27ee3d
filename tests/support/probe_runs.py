"""The folder of a probe run made by hand: its curve, and the blocks that may be its best."""

import json
from collections.abc import Collection
from pathlib import Path

from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import save_table
from mllm_probe.results.score_file import TEST_NUMBERS, TEST_TEXTS
from tests.support.score_tables import LAYERS, PEAKED, write


def probe_run(folder: Path, among: Collection[int], above: bool = True, position: str = "last") -> RunPaths:
    """A run of 9 places, of which those `among` may be the best."""
    write(folder, "entailment", PEAKED)
    paths = RunPaths(folder)
    lines = []
    for layer in range(LAYERS):
        may = layer in among
        told = {"contender": "may be the best" if may else "", "above_chance": "above chance" if above else ""}
        for test, verdict in told.items():
            row = {"run": "r", "test": test, "family": "f", "probe": "logistic", "position": position}
            row |= {"site": f"lm.{layer:02d}", "other": "", "verdict": verdict}
            lines.append([row.get(name, "") for name in TEST_TEXTS] + [0.9 if may else 0.01 for _ in TEST_NUMBERS])
    save_table(paths.tests, (*TEST_TEXTS, *TEST_NUMBERS), lines)
    chosen = {"site": "lm.05", "value": 0.9, "low": 0.8, "high": 0.95, "validation": 0.9}
    paths.summary.write_text(json.dumps({"metric": "accuracy", "chosen": {position: chosen}}))
    return paths
