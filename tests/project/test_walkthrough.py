"""docs/walkthrough.py is the command written flat: the same scores to the last digit, the same cache to the last byte.

It runs in this process, where torch and transformers are loaded already.
"""

import re
import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.support.runs import Run

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "walkthrough.py"
PICTURES = "40"


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the script into the folder `walked` -> its variables and what it printed."""

    def run() -> tuple[dict, str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), PICTURES, str(tmp_path / "walked")])
        return runpy.run_path(str(SCRIPT)), capsys.readouterr().out

    return run


def test_the_walkthrough_ends_with_the_scores_of_the_command(walk, probe: Run, tmp_path: Path) -> None:
    found, said = walk()
    code, _, err = probe(*command())
    assert code == 0, err
    rows = pd.read_csv("outputs/latest/scores.csv")
    rows = rows[(rows.seed == "all") & rows.headline & (rows.probe == "logistic") & rows.site.notna()]
    told = {f"{row.site}@{row.position}": (row.value, row.low, row.high) for row in rows.itertuples()}
    assert told.keys() == found["scores"].keys()
    open_ended = {key: numbers for key, numbers in told.items() if numbers[1] == numbers[1]}  # the rest are by design
    assert "lm.02@last" in open_ended and 0.5 < open_ended["lm.02@last"][0] < 1
    assert {key: found["scores"][key] for key in open_ended} == open_ended
    assert all(found["scores"][key][0] == told[key][0] == 0.5 for key in told.keys() - open_ended.keys())
    value, low, high = told[found["best"]]
    assert said.endswith(f"{found['best']}, with {value:.1%} [{low:.1%}, {high:.1%}] on the test pictures\n")
    assert cached(tmp_path / "walked") == cached(tmp_path / "outputs")
    again, said = walk()
    assert "lacks activations of 0 samples" in said and "plan" not in said
    assert again["scores"] == found["scores"]


def command() -> list[str]:
    """The words of the command as the script's first lines have them."""
    text = re.search(r"^    mllm-probe (run .*?)$\n\n", SCRIPT.read_text(), re.MULTILINE | re.DOTALL)
    assert text
    return text[1].replace("\\\n", " ").replace("=PICTURES", f"={PICTURES}").split()


def cached(outputs: Path) -> dict[str, bytes]:
    """The files of the caches, but for the memo of paths and what is kept for people."""
    files = sorted((outputs / "cache").glob("*/**/*"))
    return {
        str(path.relative_to(outputs)): path.read_bytes()
        for path in files
        if path.is_file() and path.parent.name != "renderings"
    }
