"""The table that is timed is one that a run reads."""

from pathlib import Path

import bench_table
import pytest

from mllm_probe.data.coco import Selection
from mllm_probe.data.table import Table
from mllm_probe.files.digests import Digests


def test_the_table_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_table, "PICTURES", 6)
    bench_table.write_table(tmp_path, 40)
    found = Table(str(tmp_path), "rows.csv").load(tmp_path, Selection(), Digests(tmp_path / "digests.json"))
    assert (len(found.pictures), len({row.text for row in found.rows})) == (6, 40)
    assert {row.label for row in found.rows} == {"yes", "no"} and not found.skipped
