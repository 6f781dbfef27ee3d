"""Probes of one data set tested on another: the same probes as without it, other test pictures, both names."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from mllm_probe.data import duplicates
from mllm_probe.data.duplicates import look_alikes
from mllm_probe.files.paths import RunPaths
from mllm_probe.results.predictions import load_predictions
from mllm_probe.results.score_file import load_scores, load_summary
from tests.support.runs import Run, tiny

NAMES = ("red", "green", "blue")


def written(folder: Path, seed: int, labels: tuple[str, ...] = NAMES, n: int = 48) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    with (folder / "t.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("id", "picture", "text", "label"))
        for i in range(n):
            shades = rng.integers(0, 90, (8, 8, 3)) + 150 * (np.arange(3) == i % len(labels))
            Image.fromarray(shades.astype(np.uint8)).resize((32, 32), 0).save(folder / f"{seed}-{i}.png")
            table.writerow((f"case {i}", f"{seed}-{i}.png", "Which?", labels[i % len(labels)]))
    return folder


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, ...]:
    """The settings of a table, and of another one that is tested."""
    written(tmp_path / "home", 0)
    written(tmp_path / "away", 1, ("Red", "green", "BLUE"), 21)
    home = (f"dataset.root={tmp_path / 'home'}", "dataset.file=t.csv", "dataset.id_column=id")
    away = (f"test.dataset.root={tmp_path / 'away'}", "test.dataset.file=t.csv", "test.dataset.name=away")
    return ("task=custom", *home, "test.dataset=table", *away, "test.dataset.id_column=id")


SMALL = ("sweep.draws=50", "sweep.seeds=[0,1]", "layers.stride=2", "controls=none")


def test_probes_are_the_same_and_what_is_tested_is_other(
    probe: Run, checkpoint: Path, tmp_path: Path, two: tuple[str, ...]
) -> None:
    code, _, err = probe("run", *tiny(checkpoint), *two, *SMALL, "hydra.run.dir=away_run")
    assert code == 0, err
    plain = tuple(word for word in two if not word.startswith("test."))
    code, _, err = probe("run", *tiny(checkpoint), *plain, *SMALL, "hydra.run.dir=home_run")
    assert code == 0, err
    here, there = RunPaths(tmp_path / "home_run"), RunPaths(tmp_path / "away_run")
    one, other = load_file(here.probes), load_file(there.probes)
    fits = [name for name in one if "/logistic/" in name]
    assert fits and all(np.array_equal(one[name], other[name]) for name in fits)
    scores = load_scores(there.scores)
    assert set(scores.dataset) == {"table -> away"} and set(load_scores(here.scores).dataset) == {"table"}
    tested = scores[(scores.split == "test") & (scores.subset == "") & scores.n.gt(0)]
    assert set(tested.n) == {21} and set(load_scores(here.scores).run) != set(scores.run)
    table = load_predictions(there)
    held = table[table.split == "test"]
    assert held.picture.str.startswith("away/").all() and set(held.label) == set(NAMES)
    assert table[table.split != "test"].picture.str.startswith("home/").all()
    assert (held.id == held.picture.str.extract(r"-(\d+)\.png")[0].map("case {}".format)).all()
    assert load_summary(there.summary)["dataset"] == "table -> away"


def test_a_picture_of_both_does_not_train(probe: Run, tmp_path: Path, two: tuple[str, ...]) -> None:
    for i in (0, 6):
        (tmp_path / "away" / f"1-{i}.png").write_bytes((tmp_path / "home" / f"0-{i}.png").read_bytes())
    code, _, err = probe("inspect", *two, "n=1", "data.n=48")
    assert code == 0 and "2 groups of pictures of table look like away and are not used for training" in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("splits.unit=row",), "test.dataset is tested whole, and splits.unit=row does not cover its pictures"),
        (("task.labels={red: rot}",), "task.labels"),
        (("test.dataset.file=u.csv",), "u.csv is missing"),
        (("test.dataset.file=odd.csv",), "test.dataset=away has labels that table lacks: green tea; there are blue"),
        (("+test.seed=1",), "must hold dataset, and nothing else; test.dataset=coco is an example"),
    ],
)
def test_wrong_pairs_are_one_sentence(
    probe: Run, tmp_path: Path, two: tuple[str, ...], more: tuple[str, ...], message: str
) -> None:
    rows = "".join(f"1-{i}.png,Which?,{('red', 'green tea')[i % 2]}\n" for i in range(20))
    (tmp_path / "away" / "odd.csv").write_text("picture,text,label\n" + rows)
    without = [
        word for word in two if more[0].partition("=")[0] != word.partition("=")[0] and "test.dataset.id" not in word
    ]
    code, _, err = probe("inspect", *without, *more, "n=1")
    if "rot" in more[0]:
        assert code == 0 and "'red' (16) in the table counted as the label 'rot'" in err, err
    else:
        assert code == 1 and message in err and err.count("mllm-probe:") == 1, err


def test_tasks_of_their_own_go_from_one_data_set_to_another(probe: Run, tmp_path: Path) -> None:
    code, _, err = probe("inspect", "task=entailment", "test.dataset=scenes", "test.dataset.seed=7", "data.n=24", "n=1")
    assert code == 0, err


def test_labels_of_both_tables_are_named(probe: Run, tmp_path: Path, two: tuple[str, ...]) -> None:
    """A name that stands in the other table alone, too."""
    written(tmp_path / "other", 3, ("1", "green", "maybe", "BLUE"), 24)
    words = [word for word in two if not word.startswith(("test.dataset.root", "test.dataset.name"))]
    words += [f"test.dataset.root={tmp_path / 'other'}", "test.dataset.name=other", "n=1"]
    code, _, err = probe("inspect", *words, "task.labels={1: red, maybe: null}")
    assert code == 0 and "'1' (6) in the table counted as the label 'red'" in err, err
    assert "label 'maybe' left out by task.labels: 6 rows" in err
    code, _, err = probe("inspect", *words, "task.labels={1: red, perhaps: null}")
    assert code == 1 and "task.labels names 'perhaps', which is no label" in err and "maybe" in err


def test_a_group_of_one_name_in_both_does_not_train(probe: Run, tmp_path: Path, two: tuple[str, ...]) -> None:
    """A patient of both tables may be one person; what each table groups by may have another name."""
    for place, column in (("home", "patient"), ("away", "case")):
        file = tmp_path / place / "t.csv"
        lines = file.read_text().splitlines()
        first = 20 if place == "away" else 0
        named = [f"{line},{first + i // 2}" for i, line in enumerate(lines[1:])]
        file.write_text("\n".join([f"{lines[0]},{column}", *named, ""]))
    groups = ("dataset.group_column=patient", "test.dataset.group_column=case")
    code, _, err = probe("inspect", *two, *groups, "n=1")
    assert code == 0, err
    assert "4 groups of table have names of away and are not used for training: 20, 21, 22, 23" in err
    code, _, err = probe("inspect", *two, groups[0], "n=1")
    assert code == 0 and "have names of" not in err, "only what both tables call groups"
    alone = [word.replace("away", "home") if word.startswith("test.dataset.root") else word for word in two]
    code, _, err = probe("inspect", *alone, "n=1")
    assert (
        code == 1
        and "no picture of table is left to train on, because 48 groups of pictures of table look like away" in err
    )


def test_look_alikes_are_looked_for_once(probe: Run, two: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(hashes: np.ndarray, paths: list[Path]) -> Iterator[tuple[int, int]]:
        asked.append(len(hashes))
        return look_alikes(hashes, paths)

    monkeypatch.setattr(duplicates, "look_alikes", counted)
    code, _, err = probe("inspect", *two, "n=1")
    assert code == 0 and asked == [48 + 21], err


def test_both_are_checked(probe: Run, tmp_path: Path, two: tuple[str, ...]) -> None:
    own = [word for word in two if word.startswith("test.") or word == "dataset.id_column=id"]
    code, out, err = probe("check", str(tmp_path / "home" / "t.csv"), *own)
    assert code == 0, err
    told = [" ".join(line.split()) for line in out.splitlines()]
    assert "pictures 48 different ones, all 32 x 32 pixels" in told
    assert "tested pictures 21 different ones, all 32 x 32 pixels" in told
    assert any(line.startswith("seed 0 train ") and line.endswith("test 21 on 21 groups") for line in told)
    _, last = told[-1].split("mllm-probe run ")
    code, _, err = probe("inspect", *last.split(), "n=1")
    assert code == 0, err
    code, _, err = probe("check", str(tmp_path / "home" / "t.csv"), *own, "test.dataset.file=u.csv")
    assert code == 1 and "test.dataset: " in err and "u.csv is missing" in err


def test_a_class_that_is_not_tested_is_named_or_left_out(probe: Run, tmp_path: Path, two: tuple[str, ...]) -> None:
    written(tmp_path / "less", 2, ("red", "blue"), 20)
    words = [word for word in two if not word.startswith(("test.dataset.root", "test.dataset.name"))]
    less = (*words, f"test.dataset.root={tmp_path / 'less'}", "n=1")
    code, _, err = probe("inspect", *less)
    assert code == 1 and "the test split lacks 1 of 3 classes: green;" in err
    code, _, err = probe("inspect", *less, "task.rare=drop")
    assert code == 0 and "skipped: task.rare=drop leaves out" in err and "classes that some split lacks: green" in err
