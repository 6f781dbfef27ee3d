"""The benchmark script itself, on models shrunk to nothing: every arm reads the same states; the clock is not asked."""

import json
from pathlib import Path

import bench_extract
import pytest


@pytest.mark.parametrize("setting", ["small", "llava-7b", "qwen2.5-vl-7b"])
def test_every_arm_reads_the_same_states(setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With quantised weights for the 7B settings, as on a device."""
    out = tmp_path / "numbers.json"
    args = ["--setting", setting, "--tiny", "--statements", "2", "--examples", "4", "--repeats", "1"]
    monkeypatch.setattr("sys.argv", ["bench_extract.py", *args, "--json", str(out)])
    bench_extract.main()
    report = json.loads(out.read_text())
    assert report["proof"]["why"] == "" and report["proof"]["error"] <= 1e-5
    assert [row["arm"] for row in report["rows"]] == ["a", "a*", "b", "p8", "c", "d", "d-"][
        : 6 if setting == "small" else 7
    ], "a model that is not quantised has no matrix to unpack"
    assert all(row["difference"] <= 1e-5 for row in report["rows"])
    assert report["rows"][-1]["ideal"] > 1
    assert report["memory"]["2"].keys() == {"a*", "d"}
