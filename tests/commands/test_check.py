"""`mllm-probe check`: what it tells of own data is what a run then finds, and what a run refuses it refuses."""

import csv
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mllm_probe.experiment.data_check import facts
from tests.support.pictures_on_disk import coco_folder
from tests.support.runs import REAL, Run


def written(
    folder: Path, rows: Sequence[Sequence[str]], header: str = "picture,text,label", pictures: int = 24
) -> Path:
    """A table beside a folder `images` of different pictures p0.png, p1.png, ..."""
    (folder / "images").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(pictures):
        shades = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(shades).resize((40 + i % 2 * 8, 40), 0).save(folder / "images" / f"p{i}.png")
    with (folder / "mine.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header.split(","), *rows])
    return folder / "mine.csv"


def three(n: int = 24) -> list[list[str]]:
    return [[f"p{i}.png", "What?", ("<b>a</b>", "[red]ã[/]", "字")[i % 3]] for i in range(n)]


def test_it_tells_what_a_run_finds_and_the_command_it_prints_works(probe: Run, tmp_path: Path) -> None:
    place = written(tmp_path, [*three(), ["p4.png", "What?", "[RED]Ã[/]"], ["p0.png", "What?", "<b>a</b>"]])
    code, out, err = probe("check", str(place))
    assert code == 0, err
    told = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines()}
    assert told["rows"] == "26" and told["columns"] == "picture, text, label"
    assert told["pictures"] == "24 different ones, from 40 x 40 to 48 x 40 pixels"
    assert told["questions"] == "24 decisions about 24 prompts, 1 different text"
    assert told["labels"] == "3 classes: <b>a</b> (8), [red]ã[/] (8), 字 (8)"
    assert told["seed"] == "0 train 14 on 14, val 4 on 4, test 6 on 6 groups"
    assert "'[RED]Ã[/]' (1) in the table counted as the label '[red]ã[/]'" in out and "counted again: 26, 27" in out
    assert not list(tmp_path.glob("outputs*"))
    *_, last = out.splitlines()
    words = last.split("mllm-probe run ")[1].split()
    assert f"dataset.root={tmp_path}" in words and "dataset.pictures=images" in words
    code, _, err = probe("inspect", *words, "n=1")
    assert code == 0, err


def test_groups_and_several_labels(probe: Run, tmp_path: Path) -> None:
    rows = [
        {"picture": f"p{i}.png", "text": "Which?", "label": ["cat", "dog"][: i % 3], "case": f"c{i // 2}"}
        for i in range(24)
    ]
    written(tmp_path, [])
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    code, out, err = probe("check", str(tmp_path / "mine.jsonl"), "dataset.group_column=case")
    assert code == 0, err
    assert "12 that splits keep together, the largest with 2 pictures" in out
    assert "2 labels, several of which may apply: cat (16), dog (8)" in out


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([["gone.png", "What?", "a"]], (), "a run stops at the first of 1 bad row; fix them, or leave them out with"),
        ([["p1.png", "", "a"], ["p2.png", "What?", ""]], (), "a run stops at the first of 2 bad rows"),
        ([["p1.png", "Why?", "nan"]], (), "mine.csv: row 26 has the label 'nan', which reads as a missing one"),
        ([["p1.png", "Why?", "once"]], (), "lacks 1 of 4 classes: once; take more pictures (data.n) or fewer"),
        ([], ("dataset.label_column=answer",), "no column 'answer' (dataset.label_column); choose one of: picture"),
        ([], ("dataset.pictures=nix",), "no usable row is left in"),
        ([], ("task.kind=binary",), "task.kind=binary needs two labels, found 3"),
        ([], ("extract.answers=[Yes,No]",), "does not assign its 2 words to the 3 labels"),
        ([], ("task.labels={x: y}",), "task.labels names 'x', which is no label"),
        ([["p0.png", "What?", "字"]], (), "mine.csv: rows 2 and 26 ask 'What?' about picture p0.png and answer it"),
    ],
)
def test_what_a_run_refuses_is_one_sentence(
    probe: Run, tmp_path: Path, rows: list[list[str]], settings: tuple[str, ...], message: str
) -> None:
    place = written(tmp_path, [*three(), *rows])
    code, out, err = probe("check", str(place), *settings)
    assert code == 1 and message in err and err.count("mllm-probe:") == 1 and "a run can use it" not in out
    if "bad row" in message:
        code, out, err = probe("check", str(place), *settings, "data.on_bad_row=skip")
        assert code == 0 and "skipped" in out and "mine.csv, row 26" in out, err


def test_one_class_and_an_empty_file_and_none(probe: Run, tmp_path: Path) -> None:
    place = written(tmp_path, [[*row[:2], "a"] for row in three()])
    assert "all 24 rows have the label 'a'; two different ones are needed" in probe("check", str(place))[2]
    place.write_text("picture,text,label\n")
    assert "mine.csv holds no row" in probe("check", str(place))[2]
    code, _, err = probe("check", str(tmp_path / "no.csv"))
    assert code == 1 and "no.csv is missing" in err
    assert "has the extension '.txt'; choose one of" in probe("check", str(tmp_path / "a.txt"))[2]
    assert "no COCO annotations in" in probe("check", str(tmp_path))[2]


def test_of_many_pictures_some_are_opened(probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "OPENED", 12)
    place = written(tmp_path, three())
    _, out, _ = probe("check", str(place))
    assert "12 different ones were drawn and opened (data.n=null: all)" in out and "rows       24" in out
    assert "24 different ones, from" in probe("check", str(place), "data.n=null")[1]


def test_of_a_folder_that_suits_one_task_that_one_is_named(probe: Run, tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "data")
    code, out, err = probe("check", str(root), "splits.blocks=2", "sweep.seeds=[0]")
    assert code == 0, err
    assert "not for task=objects: dataset coco has no instance annotations" in out
    last = out.splitlines()[-1]
    assert last.startswith(f"a run can use it: mllm-probe run task=entailment dataset=coco dataset.root={root}")
    assert sum(line.startswith("pictures ") for line in out.splitlines()) == 1
    assert probe("inspect", *shlex.split(last.split("mllm-probe run ")[1]), "n=1")[0] == 0
    code, _, err = probe("check", str(root), "splits.blocks=2", "task=objects")
    assert code == 1 and "task=objects needs instances.json, task=entailment does not" in err


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is absent; set MLLM_PROBE_REAL_DATA to the folder with it")
def test_a_coco_folder(probe: Run) -> None:
    code, out, err = probe("check", str(REAL / "coco_subset"), "task=objects")
    assert code == 0, err
    assert "188 different ones" in out and "940" in out and "80 of 80 are in these pictures: person (103)" in out
