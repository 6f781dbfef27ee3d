"""What a run leaves does not depend on where it lies: equal bytes in another place, pictures found after a move, and
nothing half written behind a kill."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mllm_probe.cache.claims import is_orphan
from mllm_probe.cache.store import Store
from mllm_probe.files.digests import Digests
from mllm_probe.files.store_paths import CachePaths, pid_namespace, temporary
from tests.support.runs import QUICK, Run, tiny

SAME = (
    "examples.json",
    "inspect.json",
    "inspect.html",
    "scores.csv",
    "tests.csv",
    "splits.csv",
    "predictions.safetensors",
)


def test_two_places_hold_the_same_bytes_and_a_moved_run_its_pictures(
    probe: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(checkpoint, tmp_path / "model")
    less = ("layers.stride=4", "controls=none", "hydra.run.dir=outputs/run")
    for place in ("one", "elsewhere/two"):
        (tmp_path / place).mkdir(parents=True)
        monkeypatch.chdir(tmp_path / place)
        code, _, err = probe("run", *tiny(tmp_path / "model"), *QUICK, *less)
        assert code == 0, err
    one, two = tmp_path / "one" / "outputs" / "run", tmp_path / "elsewhere" / "two" / "outputs" / "run"
    for name in SAME:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
        assert str(tmp_path).encode() not in (one / name).read_bytes()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").rename(tmp_path / "moved")
    assert probe("report", "run=moved/outputs/run")[0] == 0
    page = (tmp_path / "moved" / "outputs" / "run" / "report.html").read_text()
    assert page.count("data:image/png") > 3 and "is gone" not in page
    (tmp_path / "elsewhere" / "two" / "outputs" / "run").rename(tmp_path / "alone")
    assert probe("report", "run=alone")[0] == 0
    assert "is gone" not in (tmp_path / "alone" / "report.html").read_text()


def left(path: Path, pid: int, host: str = "", space: str = "") -> Path:
    """A temporary file as a process leaves it."""
    part = path.with_name(f".{path.name}.{host or platform.node()}.{space or pid_namespace()}.{pid}")
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_text("half")
    return part


def test_what_a_killed_process_left_goes_with_the_next_command(probe: Run, tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    root = CachePaths(tmp_path / "outputs" / "cache" / "abc")
    files = (root.identity, root.digests, root.group("g").shard(0), root.group("g").manifest)
    gone = [left(path, ended.pid) for path in files]
    stay = [left(path, os.getpid()) for path in files]
    stay += [left(root.identity, ended.pid, host="elsewhere"), left(root.identity, ended.pid, space="1")]
    stay += [root.root / ".notes", root.root / f".notes.{ended.pid}"]
    for path in stay[-2:]:
        path.write_text("mine")
    assert temporary(root.identity) in stay and all(map(is_orphan, gone)) and not any(map(is_orphan, stay))
    root.identity.write_text(json.dumps({"fields": {}}))
    code, out, _ = probe("cache", "prune")
    assert code == 0 and all(str(path.relative_to(tmp_path)) in out for path in gone) and "in 4 places" in out
    Store(root, Digests(tmp_path / "none")).tidy()
    assert not any(path.exists() for path in gone) and all(path.exists() for path in stay)
