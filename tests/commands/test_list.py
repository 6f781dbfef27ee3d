"""`list`: what can be chosen."""

import re
from pathlib import Path

import pytest

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
    monkeypatch.setattr("mllm_probe.commands.doctor.cards", list)  # which takes seconds
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
