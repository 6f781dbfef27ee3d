"""`doctor`: whether this machine is fit for a run. The real packages are asked, the hub is not."""

import json
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from mllm_probe.commands import doctor
from mllm_probe.machine import cards, packages
from tests.support.runs import Run


def findings(out: str) -> dict[str, dict[str, str]]:
    return {row["what"]: row for row in json.loads(out)}


def test_this_machine_is_fit(probe: Run) -> None:
    """Real bitsandbytes, real packages, no network: the flag of the tests is named."""
    code, out, _ = probe("doctor", "--json")
    rows = findings(out)
    assert code == 0 and rows["nf4"]["mark"] == "ok" and rows["torch"]["mark"] == "ok"
    assert rows["hub"]["mark"] == "note" and rows["hub"]["remedy"] == "unset HF_HUB_OFFLINE to fetch checkpoints"
    code, out, _ = probe("doctor")
    assert code == 0 and "what fixes it" in out and "nf4" in out


def test_no_library_speaks_between_the_lines(tmp_path: Path) -> None:
    """In a process of its own: bitsandbytes recommends a kernel when it is imported for the first time."""
    done = subprocess.run([sys.executable, "-m", "mllm_probe", "doctor"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "nf4" in done.stdout and not done.stderr


def test_what_is_missing_is_a_problem_with_its_remedy(probe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = packages.version

    def version(name: str) -> str:
        if name == "pandas":
            raise PackageNotFoundError(name)
        return "0.0.1" if name == "rich" else real(name)

    monkeypatch.setattr(packages, "version", version)
    monkeypatch.setattr(doctor, "cards", list)  # which takes seconds
    code, out, _ = probe("doctor", "--json")
    rows = findings(out)
    assert (
        code == 1
        and rows["pandas"]["found"] == "missing"
        and rows["pandas"]["remedy"].startswith("pip install 'pandas")
    )
    assert rows["rich"]["mark"] == "problem" and rows["rich"]["found"] == "0.0.1"


def test_a_hub_that_does_not_answer_is_a_note(probe: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    (tmp_path / "hf" / "hub" / "models--we--ours").mkdir(parents=True)
    (tmp_path / "hf" / "token").write_text("hf_secret")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))

    def refused(*_: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(doctor, "cards", list)  # which takes seconds
    code, out, _ = probe("doctor", "--json")
    rows = findings(out)
    assert code == 0 and "huggingface.co does not answer (Network is unreachable)" in rows["hub"]["found"]
    assert "we/ours" in rows["hub checkpoints"]["found"] and "hf_secret" not in out


def test_a_torch_that_ends_its_process_is_a_problem_and_the_rest_is_told(
    probe: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "ASK", "import os; os.abort()")
    code, out, _ = probe("doctor", "--json")
    rows = findings(out)
    assert code == 1 and rows["disk"]["mark"] == "ok" and "nf4" not in rows
    (broken,) = [row for row in json.loads(out) if row["mark"] == "problem"]
    assert broken["found"] == "ends its process with code -6" and "--force-reinstall torch" in broken["remedy"]


def test_a_torch_that_cannot_be_imported_is_a_problem(
    probe: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    code, out, _ = probe("doctor", "--json")
    (broken,) = [row for row in json.loads(out) if row["mark"] == "problem"]
    assert code == 1 and "cannot be imported: libcudart.so.12" in broken["found"]
