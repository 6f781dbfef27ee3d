"""Files of a finished run that were changed after it: what reads them says which, however well they still read."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mllm_probe.api import Result
from mllm_probe.cli import entry as cli
from mllm_probe.errors import DataError
from tests.support.edits import edited, told
from tests.support.runs import QUICK, Run, tiny

FEW = (*QUICK, "extract.positions=[last]", "controls=none")


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that may be compared, the first of them made twice in its folder; `first.json` is its first summary."""
    folder = tmp_path_factory.mktemp("changed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["mllm-probe"])
        for place, stride in (("a", 4), ("b", 3), ("a", 4)):
            cli.main(["run", *tiny(checkpoint), *FEW, f"layers.stride={stride}", f"hydra.run.dir=runs/{place}"])
            if not Path("first.json").exists():
                shutil.copy("runs/a/summary.json", "first.json")
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "runs", tmp_path / "runs"))


def altered(path: Path) -> None:
    """The last digit of the file's first number with decimals: it reads as well as before."""
    whole = path.read_text()
    end = next(i for i, letter in enumerate(whole) if letter == "." and whole[i - 1 : i + 2].replace(".", "").isdigit())
    place = end + 1
    path.write_text(whole[:place] + str((int(whole[place]) + 1) % 10) + whole[place + 1 :])


def flipped(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)


def said(name: str) -> str:
    return (
        f"runs/a/{name} differs from what its run wrote: it was changed by hand or damaged; repeat the run, its cache"
    )


@pytest.mark.parametrize("name", ["scores.csv", "summary.json"])
def test_a_report_is_refused(probe: Run, runs: Path, name: str) -> None:
    before = (runs / "a" / "report.html").read_bytes()
    altered(runs / "a" / name)
    code, _, err = probe("report", "runs/a")
    assert code == 1 and f"mllm-probe: {said(name)}" in err and "Traceback" not in err
    assert (runs / "a" / "report.html").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "change"),
    [("tests.csv", altered), ("examples.json", altered), ("splits.csv", None), ("predictions.safetensors", flipped)],
)
def test_a_page_goes_without_what_only_adds_to_it(
    probe: Run, runs: Path, name: str, change: Callable[[Path], None] | None
) -> None:
    path = runs / "a" / name
    if change:
        change(path)
    else:
        path.write_text(path.read_text().replace("train", "test", 1))
    code, _, err = probe("report", "runs/a")
    (line,) = (line for line in told(err) if "left out" in line)
    assert code == 0 and said(name) in line and said(name) in (runs / "a" / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scores.csv", altered),
        ("summary.json", altered),
        ("tests.csv", altered),
        ("predictions.safetensors", flipped),
    ],
)
def test_a_comparison_is_refused_before_it_writes(
    probe: Run, runs: Path, name: str, change: Callable[[Path], None]
) -> None:
    change(runs / "a" / name)
    code, out, err = probe("compare", "runs", "--out", "o")
    assert code == 1 and f"mllm-probe: {said(name)}" in err and not out and not Path("o").exists()


def test_so_are_tables_and_probes_in_python(probe: Run, runs: Path) -> None:
    result = Result(Path("runs/a"))
    for name, change, read in (
        ("probes.safetensors", flipped, lambda: result.probe("lm.04@last")),
        ("predictions.csv", altered, lambda: result.predictions),
        ("predictions.safetensors", flipped, lambda: result.decisions),
        ("scores.csv", altered, lambda: result.scores),
        ("summary.json", altered, lambda: result.summary),
    ):
        read()
        change(runs / "a" / name)
        with pytest.raises(DataError, match="differs from what its run wrote"):
            read()


def test_without_digests_files_are_taken_as_they_are(probe: Run, runs: Path) -> None:
    """Those of older releases have none, and who has edited a file takes them out."""
    altered(runs / "a" / "scores.csv")
    assert probe("report", "runs/a")[0] == 1
    edited(runs / "a" / "summary.json", lambda found: "digests" not in found)
    assert probe("report", "runs/a")[0] == 0
    assert probe("compare", "runs", "--out", "o")[0] == 0


def test_equal_runs_in_one_folder_have_equal_digests(made: Path) -> None:
    seals = [json.loads((made / name).read_text())["digests"] for name in ("first.json", "runs/a/summary.json")]
    assert [one.pop("summary.json") for one in seals], "that of clock times"
    assert seals[0] == seals[1] and set(seals[0]) == {
        *("scores.csv", "tests.csv", "splits.csv", "examples.json"),
        *("predictions.safetensors", "probes.safetensors", "predictions.csv"),
    }


@pytest.mark.slow
def test_so_does_an_alignment(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    few = (
        *tiny(checkpoint),
        "data.n=30",
        "dataset.pictures=30",
        "layers.stride=4",
        "sweep.draws=50",
        "splits.blocks=4",
    )
    for _ in range(2):
        code, _, err = probe("align", *few, "hydra.run.dir=align")
        assert code == 0, err
    altered(tmp_path / "align" / "alignment.csv")
    code, _, err = probe("report", "align")
    assert code == 1 and "align/alignment.csv differs from what its run wrote" in err
