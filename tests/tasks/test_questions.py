"""From a table's rows to decisions: what the labels become, and which tables are refused."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mllm_probe.config.build import build
from mllm_probe.data.coco import Selection
from mllm_probe.errors import ConfigError, DataError
from mllm_probe.files.digests import Digests
from mllm_probe.records.protocols import Dataset, Task
from mllm_probe.records.samples import Collection, Row
from mllm_probe.tasks.questions import Questions
from mllm_probe.tasks.splits import Folds
from tests.support.configs import composed
from tests.support.questions import FOLDS, asked, collection
from tests.support.runs import REAL, Run

POPE = REAL / "pope_subset"


@pytest.mark.parametrize(
    ("labels", "kind", "expected"),
    [
        (["no", "yes", "no"], "binary", [0, 1, 0]),
        (["False", "True"], "binary", [0, 1]),
        (["Yes", "other"], "binary", [1, 0]),
        ([1.0, 0.0], "binary", [1, 0]),
        (["1", "0"], "binary", [1, 0]),
        (["b", "a", "b"], "binary", [1, 0, 1]),
        ([10.0, 9.0], "binary", [1, 0]),
        (["red", "blue", "green", "blue"], "classes", [2, 0, 1, 0]),
        ([3.0, 1.5, 2.0], "number", [3.0, 1.5, 2.0]),
        (["3", "1.5", "-2"], "number", [3.0, 1.5, -2.0]),
    ],
)
def test_the_kind_follows_from_the_labels(labels: list[Any], kind: str, expected: list[float]) -> None:
    examples = asked(*labels)
    assert examples.kind == kind and [d.label for d in examples.decisions] == expected
    assert {type(d.label) for d in examples.decisions} == {float if kind == "number" else int}
    assert {d.head for d in examples.decisions} == {None}


def test_what_is_set_wins() -> None:
    assert [d.label for d in asked("yes", "no", task=Questions(positive="no")).decisions] == [0, 1]
    classes = asked(7.0, 30.0, 8.0, task=Questions(kind="classes"))
    assert classes.kind == "classes" and [d.label for d in classes.decisions] == [0, 2, 1]
    mixed = asked("2", "10", "x", "1", task=Questions(kind="classes"))
    assert [d.label for d in mixed.decisions] == [1, 2, 3, 0] and mixed.names == ("1", "2", "10", "x")
    number = asked("0", "1", task=Questions(kind="number", target="size"))
    assert number.kind == "number" and [(d.label, d.target) for d in number.decisions] == [(0.0, "size"), (1.0, "size")]


def test_each_label_of_several_is_a_head() -> None:
    examples = asked(("cat", "all"), ("all", "dog", "cat"), ("all",))
    assert examples.kind == "binary" and len(examples.samples) == 3
    found = [(d.strata["picture"], d.head, d.label) for d in examples.decisions]
    cat = [("p0", "cat", 1), ("p1", "cat", 1), ("p2", "cat", 0)]
    assert sorted(found, key=lambda one: one[1]) == [*cat, ("p0", "dog", 0), ("p1", "dog", 1), ("p2", "dog", 0)]
    assert all(d.head == d.type == d.strata["category"] for d in examples.decisions)
    assert examples.skipped == ("label 'all' applies to every row",)
    assert len({d.uid for d in examples.decisions}) == 6


def test_the_text_is_marked_in_the_template() -> None:
    task = Questions(template="Look. {text} Say yes or no.")
    examples = asked("yes", "no", task=task)
    for sample, text in zip(examples.samples, ("Number 0?", "Number 1?"), strict=True):
        assert sample.text == f"Look. {text} Say yes or no."
        assert sample.text[slice(*sample.marks["text"])] == text
    assert {d.mark for d in examples.decisions} == {"text"}


def test_groups_are_those_of_the_collections_pictures() -> None:
    examples = asked("yes", "no", "no", groups=("g", "h", "g"))
    assert [d.group for d in examples.decisions] == ["g", "h", "g"]
    assert set(examples.folds) == {"g", "h"} | {f"d{i}" for i in range(3, 12)}


def test_only_recurring_texts_are_types() -> None:
    labels = ["yes", "no", "no", "yes"]
    assert [d.type for d in asked(*labels, texts=("A?", "B?")).decisions] == ["A?", "B?", "A?", "B?"]
    assert {d.type for d in asked(*labels, texts=("A?", "B?", "C?")).decisions} == {None}


def repeated(*labels: Any) -> Collection:
    """Rows 1, 3, ... about one picture in the same words."""
    base = collection(*labels)
    rows = tuple(Row(base.pictures[0], "Same?", label, 2 * i + 1) for i, label in enumerate(labels))
    return Collection(
        "table", base.pictures, (), base.contradicts, rows=(*rows, Row(base.pictures[1], "Same?", "no", 8))
    )


def test_a_repeated_row_counts_once_and_a_contradiction_is_named() -> None:
    examples = Questions().examples(repeated("yes", "yes"), FOLDS)
    assert [d.label for d in examples.decisions] == [1, 0] and len(examples.samples) == 2
    message = "rows 1 and 5 ask 'Same\\?' about picture p0 and answer it 'yes' and 'no'; keep one"
    with pytest.raises(DataError, match=message):
        Questions().examples(repeated("yes", "yes", "no"), FOLDS)
    assert examples.said == ("1 row repeat earlier rows and are not counted again: 3",)
    lists = repeated(("a", "b"), ("b", "a")).rows[:2]
    assert len(Questions()._asked(lists)[0]) == 1
    with pytest.raises(DataError, match=r"answer it \['a, b'\] and \['a', 'b'\]; keep one"):
        Questions()._asked(repeated(("a, b",), ("a", "b")).rows)


@pytest.mark.parametrize(
    ("settings", "labels", "message"),
    [
        ({}, [], "dataset table has no table of questions; task=custom needs dataset=table"),
        ({}, ["yes", "yes"], "all 2 rows have the label 'yes'; two different ones are needed"),
        ({"kind": "binary"}, ["a", "b", "c"], "task.kind=binary needs two labels, found 3: a, b, c"),
        ({"positive": "on"}, ["of", "no"], "task.positive=on is no label; choose one of: no, of"),
        ({"positive": "a"}, ["a", "b", "c"], "task.positive=a needs two labels, found 3: a, b, c"),
        ({"kind": "number"}, [1.0, "two"], "row 2 has the label 'two', but task.kind=number takes a finite number"),
        ({"kind": "labels"}, [("a",), "b"], "row 2 has the label 'b', but task.kind=labels takes a list of words"),
        ({}, [("a",), 1.0], "row 2 has the label 1.0, but task.kind=labels takes a list of words"),
        ({"kind": "classes"}, ["a", ("b",)], "row 2 has the label \\('b',\\), but task.kind=classes takes one"),
        ({"kind": "number"}, [1.0, ("b",)], "row 2 has the label 'b', but task.kind=number"),
        ({}, [("a",), ("a",)], "each label applies to all or none of the 2 rows"),
    ],
)
def test_labels_that_make_no_task_are_one_sentence(settings: dict[str, str], labels: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        asked(*labels, task=Questions(**settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "{text} {text}"}, "must hold {text} exactly once"),
        ({"template": "Yes?"}, "must hold {text} exactly once"),
        ({"kind": "class"}, "task.kind=class is unknown; did you mean 'classes'"),
        ({"kind": "labels", "positive": "a"}, "task.positive=a needs task.kind=binary or auto, not labels"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Questions(**settings)


@pytest.mark.parametrize("command", ["run", "extract", "sweep"])
def test_pope_brings_its_questions_unless_others_are_named(command: str) -> None:
    pope = composed("task=pope", command=command)
    assert pope.dataset["name"] == "pope" and pope.extract.answers == ["Yes", "No"]
    mine = composed("task=pope", "dataset=table", "dataset.file=mine.csv", command=command)
    assert mine.dataset["name"] == "table" and mine.task["name"] == "pope"
    preset = composed("experiment=pope", "dataset.file=coco_pope_popular.json", command=command)
    assert preset.dataset["file"] == "coco_pope_popular.json" and preset.extract.positions == ["last"]
    assert "text_only" in preset.controls and composed("task=custom").extract.answers is None


@pytest.mark.realdata
@pytest.mark.skipif(not POPE.is_dir(), reason=f"{POPE} is absent; set MLLM_PROBE_REAL_DATA to the folder with it")
@pytest.mark.parametrize("file", ["random", "popular", "adversarial"])
def test_published_pope_questions(tmp_path: Path, file: str) -> None:
    config = composed("task=pope", f"dataset.root={POPE}", f"dataset.file=coco_pope_{file}.json")
    table, task = build(config.dataset, Dataset), build(config.task, Task, seed=0)
    folds = Folds()
    examples = task.examples(table.load(tmp_path, Selection(), Digests(tmp_path / "digests.json")), folds)
    assert (examples.kind, len(examples.samples), len(examples.folds)) == ("binary", 336, 56)
    assert Counter(d.label for d in examples.decisions) == {1: 168, 0: 168}
    assert all(d.type for d in examples.decisions) and {d.target for d in examples.decisions} == {"answer"}
    folds.check(examples, [0, 1, 2])


@pytest.mark.realdata
@pytest.mark.skipif(not POPE.is_dir(), reason=f"{POPE} is absent; set MLLM_PROBE_REAL_DATA to the folder with it")
def test_the_preset_scores_published_questions_with_and_without_their_pictures(probe: Run, tmp_path: Path) -> None:
    code, out, err = probe(
        "run", "experiment=pope", f"dataset.root={POPE}", "layers=every4", "sweep.draws=50", "sweep.seeds=[0]"
    )
    assert code == 0, err
    assert "pope on pope" in out and "question_only" in out
    (scores,) = (tmp_path / "outputs" / "run").rglob("scores.csv")
    with scores.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["dataset"] for row in rows} == {row["task"] for row in rows} == {"pope"}
    assert {"text_only", "blank_picture"} <= {row["control"] for row in rows}
