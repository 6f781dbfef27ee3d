"""A finished run, made once for all tests of a file."""

import json
from pathlib import Path

import pytest

from tests.support.score_tables import PEAKED, at, score, write

AUROC = [score(0.5 + 0.05 * i, metric="auroc", headline=False, **at("lm", i, "last", i / 8)) for i in range(9)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a run, as `report` reads them."""
    chosen = {"last": {"site": "lm.05", "value": 0.93, "low": 0.91, "high": 0.95, "validation": 0.9}}
    write(tmp_path / "run", "entailment", PEAKED, more=AUROC)
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"chosen": chosen, "metric": "accuracy"}))
    return tmp_path / "run"
