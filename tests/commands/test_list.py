"""`list` and `doctor`: what can be chosen, and whether this machine is fit for it."""

import json
import re
import socket
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from mllm_probe.commands import doctor
from mllm_probe.commands.list import COMMANDS
from mllm_probe.files.paths import config_dir
from mllm_probe.files.reference import heading
from tests.support.runs import Run


def test_every_option_is_listed_with_what_it_is(probe: Run) -> None:
    code, out, _ = probe("list")
    assert code == 0
    rows = [line.split(maxsplit=1) for line in out.splitlines() if line.strip()]
    said = {row[0]: row[1] for row in rows if len(row) == 2}
    for group in COMMANDS.values():
        for path in (config_dir() / group).glob("*.yaml"):
            assert path.stem in said and not said[path.stem].startswith(("#", "defaults")), path
    assert "(Qwen/Qwen2.5-VL-7B-Instruct)" in said["qwen2_5_vl"]


@pytest.mark.parametrize("width", ["40", "80"])
def test_what_an_option_is_is_listed_whole_on_a_narrow_terminal(
    probe: Run, width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither after a full stop within a sentence, as in `et al.`, nor where a word is longer than its column."""
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    for args in (("list",), ("list", "experiments"), ("doctor",)):
        code, out, _ = probe(*args)
        assert code == 0 and "…" not in out
    code, out, _ = probe("list", "experiments")
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in out.splitlines()]
    start = lines[1].index("what it is")
    listed = "".join("".join(line[start:].split()) for line in lines[2:])
    for path in (config_dir() / "experiment").glob("*.yaml"):
        assert "".join(heading(path).split()) in listed, path


def test_one_kind_and_a_folder_of_ones_own(probe: Run, tmp_path: Path) -> None:
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "ours.yaml").write_text("# Our model,\n# in two lines.\n# More.\nhub_id: we/ours\n")
    code, out, _ = probe("list", "models", "--config-dir", str(tmp_path / "own"))
    assert code == 0 and "Our model, in two lines. More. (we/ours)" in out and "entailment" not in out
    code, _, err = probe("list", "models", "--config-dir", "nowhere")
    assert code == 1 and err.strip() == (
        "mllm-probe: --config-dir nowhere does not exist; name the folder that holds model/, task/, ..."
    )
    assert probe("list", "colours")[0] == 2


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


def test_what_is_missing_is_a_problem_with_its_remedy(probe: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.version

    def version(name: str) -> str:
        if name == "pandas":
            raise PackageNotFoundError(name)
        return "0.0.1" if name == "rich" else real(name)

    monkeypatch.setattr(doctor, "version", version)
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
    code, out, _ = probe("doctor", "--json")
    rows = findings(out)
    assert code == 0 and "huggingface.co does not answer (Network is unreachable)" in rows["hub"]["found"]
    assert "we/ours" in rows["hub checkpoints"]["found"] and "hf_secret" not in out
