"""What labels of a table are called: spellings joined and said, doubts that end the run with the setting to type."""

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from mllm_probe.config.compose import readable
from mllm_probe.errors import ConfigError, DataError
from mllm_probe.report.html.confusion import Confusion
from mllm_probe.results.predictions import Scored
from mllm_probe.results.selection import leading
from mllm_probe.tasks.label_names import Names
from mllm_probe.tasks.questions import Questions
from mllm_probe.tasks.rare import without_rare
from mllm_probe.tasks.splits import Folds
from tests.support.questions import asked, collection
from tests.support.runs import Run, tiny


def named(*labels: Any, **settings: Any) -> tuple[str, ...]:
    return asked(*labels, task=Questions(**settings)).names


def test_case_and_blanks_make_no_label() -> None:
    examples = asked("yes", "Yes", "no", "YES", "yes", "No", "no")
    assert examples.kind == "binary" and examples.names == ("no", "yes")
    assert [d.label for d in examples.decisions] == [1, 1, 0, 1, 1, 0, 0]
    assert examples.said == (
        "'Yes' (1), 'YES' (1) in the table counted as the label 'yes'",
        "'No' (1) in the table counted as the label 'no'",
    )
    assert named("Straße", "STRASSE", "weg", "weg", "weg") == ("Straße", "weg")
    assert named("e\u0301t\u00e9", "\u00e9te\u0301", "hiver") == ("e\u0301t\u00e9", "hiver")


def test_words_of_lists_are_joined_alike() -> None:
    examples = asked(("Cat", "dog"), ("cat",), ("cat", "CAT"), ("dog",))
    assert [(d.head, d.label) for d in examples.decisions if d.sample == examples.samples[2].uid] == [
        ("cat", 1),
        ("dog", 0),
    ]
    assert examples.names == ("no", "yes") and "'Cat' (1), 'CAT' (1) in the table" in examples.said[0]


@pytest.mark.parametrize(
    ("labels", "message", "fixed"),
    [
        (["a", "b", "nan"], "row 3 has the label 'nan', which reads as a missing one", ("a", "b")),
        (["a", "b", "N/A", "n/a"], "row 3 has the label 'N/A', which reads as a missing one", ("a", "b")),
        (["yes", "1", "no"], "rows 1 and 2 have the labels 'yes' and '1', which may mean the same", ("no", "yes")),
        (["true", "1.0"], "rows 1 and 2 have the labels 'true' and '1'", None),
        (["1", "yes", "no"], "rows 2 and 1 have the labels 'yes' and '1', which may mean the same", ("no", "yes")),
        (["no", "yes", "FALSE"], "rows 1 and 3 have the labels 'no' and 'FALSE'", ("no", "yes")),
        (["2", "10", "ten", "1.5"], "row 3 has the label 'ten', and labels are words as well as numbers", None),
        ([("a",), ("b", "null"), ("a", "b")], "row 2 has the label 'null', which reads as a missing one", None),
    ],
)
def test_a_doubt_is_one_sentence_with_the_setting_that_settles_it(
    labels: list[Any], message: str, fixed: tuple[str, ...] | None
) -> None:
    labels = [float(label) if label == "1.0" else label for label in labels]
    with pytest.raises(DataError) as caught:
        asked(*labels)
    said = str(caught.value)
    assert message in said and "\n" not in said
    typed = next((word for word in shlex.split(said) if word.startswith("task.labels=")), "")
    if fixed:
        assert named(*labels, labels=typed.removeprefix("task.labels=")) == fixed


@pytest.mark.parametrize("kept", ["{nan: nan}", {"nan": "nan"}, '{"nan": "nan"}'])
def test_a_word_that_reads_as_missing_may_be_kept(kept: Any) -> None:
    assert named("a", "nan", "b", labels=kept) == ("a", "b", "nan")
    assert named("yes", "1", "no", labels="{yes: yes, 1: 1}") == ("1", "no", "yes")


def test_whole_numbers_are_amounts_or_classes_by_the_users_word() -> None:
    labels = [float(i % 5) for i in range(12)]
    with pytest.raises(DataError, match=r"all 5 different labels are whole numbers from 0 to 4; set task.kind=classes"):
        asked(*labels)
    assert asked(*labels, task=Questions(kind="number")).kind == "number"
    assert named(*labels, kind="classes") == ("0", "1", "2", "3", "4")
    assert named(*labels, labels="{0: none, 1: one, 2: two, 3: three, 4: four}")[0] == "four"
    assert asked(*(float(i) for i in range(25))).kind == "number"


def test_labels_are_renamed_joined_and_left_out() -> None:
    settings = "{1: yes, true: yes, maybe: null, é: 'a, b'}"
    labels = [1.0, "true", "maybe", "no", "é", "Maybe"]
    examples = asked(*labels, task=Questions(labels=settings))
    assert examples.names == ("a, b", "no", "yes") and [d.label for d in examples.decisions] == [2, 2, 1, 0]
    assert [d.row for d in examples.decisions] == [1, 2, 4, 5]
    assert "label 'maybe' left out by task.labels: 1 rows (3)" in examples.said
    assert named("A", "a", "b", labels="{A: A, a: a}") == ("A", "a", "b")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{mayb: no}", "task.labels names 'mayb', which is no label; did you mean 'maybe'"),
        ("{YES: ja, yes: doch}", "task.labels names YES, yes, and no label is spelled 'YES'; keep one of them"),
        ("{yes: ''}", "task.labels gives 'yes' an empty name; null leaves its rows out"),
        ("[a, b]", "must be names with names, such as"),
        ("{a: [b]}", "must be names with names, such as"),
        ("{a: b", "must be names with names, such as"),
    ],
)
def test_a_wrong_renaming_is_refused(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asked("maybe", "no", "yes", task=Questions(labels=given))
    with pytest.raises(DataError, match="leaves out all 2 rows"):
        asked("a", "b", task=Questions(labels="{a: null, b: null}"))


def test_the_command_line_takes_names_in_braces_whatever_their_letters() -> None:
    assert readable(["task.labels={1: sí, true: não}"]) == ["task.labels='{1: sí, true: não}'"]
    assert Names.of("{1: sí, true: não}").given == {"1": "sí", "true": "não"}


def test_classes_that_a_split_lacks_are_named_or_left_out() -> None:
    labels = ["a", "b", "c"] * 20 + ["rare", "one"]
    folds = Folds(blocks=4)
    examples = Questions().examples(collection(*labels), folds)
    with pytest.raises(DataError, match=r"lacks \d of 5 classes: (one|one, rare|rare); .* task.rare=drop"):
        folds.check(examples, [0, 1])
    kept = without_rare(examples, folds, [0, 1])
    folds.check(kept, [0, 1])
    assert kept.names == ("a", "b", "c") and len(kept.samples) == len(kept.decisions) == 60
    assert {kept.names[int(d.label)] for d in kept.decisions if d.sample == kept.samples[1].uid} == {"b"}
    assert kept.skipped == ("task.rare=drop leaves out 2 rows of 2 classes that some split lacks: one, rare",)
    assert without_rare(kept, folds, [0, 1]) is kept
    with pytest.raises(ConfigError, match="task.rare=skip is unknown"):
        Questions(rare="skip")


def test_dropping_all_but_one_class_is_one_sentence() -> None:
    labels = ["a"] * 40 + [f"one of {i}" for i in range(12)]
    folds = Folds(blocks=4)
    with pytest.raises(
        DataError,
        match="task.rare=drop leaves 1 of 13 classes, because each other class is missing .* two are needed; add",
    ):
        without_rare(Questions().examples(collection(*labels), folds), folds, [0, 1])


@pytest.mark.parametrize("word", ["null", "nan", "None"])
def test_a_label_that_reads_as_nothing_is_kept_as_the_sentence_says(word: str) -> None:
    """By the very words of the message, through the command line's own reading of them."""
    rows = collection(*["yes", "no"] * 20, *[word] * 6)
    with pytest.raises(DataError, match="reads as a missing one") as raised:
        Questions(kind="classes").examples(rows, Folds(blocks=4))
    leave, keep = re.findall("'task.labels=({.*?})'", str(raised.value))
    kept = Questions(kind="classes", labels=keep).examples(rows, Folds(blocks=4))
    assert word in kept.names and len(kept.decisions) == 46
    assert len(Questions(kind="classes", labels=leave).examples(rows, Folds(blocks=4)).decisions) == 40
    assert Names.of('{a: "~", b: ~, c: "null", d: null}').given == {"a": "~", "b": None, "c": "null", "d": None}
    assert Names.of({word: word}).given == {word: word} and Names.of({word: None}).given == {word: None}


def test_the_matrix_counts_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(0)
    names, y = ("ant", "bee", "cat"), rng.integers(0, 3, 90)
    logits = rng.normal(size=(2, 90, 3)) + 1.5 * np.eye(3)[y]
    scored = Scored((), tuple(y.tolist()), (), (True,) * 90, "classes", names=names)
    found = Confusion.of("lm.01@last", scored, logits, "accuracy")
    assert found is not None and found.whole
    said = logits.argmax(-1)
    assert np.allclose(found.counts, np.mean([confusion_matrix(y, one) for one in said], axis=0))
    recall = np.mean([recall_score(y, one, average=None) for one in said], axis=0)
    assert np.allclose([one.recall for one in found.labels()], recall)
    precision = np.mean([precision_score(y, one, average=None) for one in said], axis=0)
    assert np.allclose([one.precision for one in found.labels()], precision)
    pooled = precision_score(np.tile(y, 2), said.ravel(), average=None)
    assert not np.allclose(precision, pooled), "a mean over seeds, as recall is"
    silent = np.stack([logits[0], np.where(np.arange(3) == 0, -9, logits[1])])
    half = Confusion.of("k", scored, silent, "accuracy")
    assert half is not None
    assert half.labels()[0].precision == precision_score(y, said[0], average=None)[0], "of the seed that says it"
    tied = Confusion.of(
        "k", replace(scored, kind="binary", names=("no", "yes"), labels=(1,) * 90), np.zeros((1, 90)), "accuracy"
    )
    assert tied is not None and tied.counts.tolist() == [[0, 0], [45, 45]]
    assert Confusion.of("k", replace(scored, names=()), logits, "accuracy") is None


def test_of_many_labels_the_commonest_and_the_worst_are_shown() -> None:
    y = np.repeat(np.arange(40), np.arange(40, 0, -1))
    logits = np.eye(40)[np.where(np.isin(y, (30, 35)), 0, y)][None]
    names = tuple(f"class {i}" for i in range(40))
    found = Confusion.of(
        "k", Scored((), tuple(y.tolist()), (), (True,) * len(y), "classes", names=names), logits, "accuracy"
    )
    assert found is not None and not found.whole
    shown = [one.name for one in found.labels()]
    assert len(shown) == 12 and shown[:6] == [f"class {i}" for i in range(6)] and shown[6:8] == ["class 30", "class 35"]
    assert found.labels()[6].taken == "class 0" and found.labels()[6].mistaken == 1


def test_equal_positions_are_told_apart_whatever_their_order() -> None:
    one, two = {"validation": 0.9, "site": "lm.02"}, {"validation": 0.9, "site": "lm.00"}
    assert leading({"chosen": {"mean_image": two, "last": one}}) == leading(
        {"chosen": {"last": one, "mean_image": two}}
    )


NAMES = ("<b>não</b>", "benign", '한국 "x"')


def test_names_reach_every_file_and_the_page(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    rows, rng = ["id,picture,text,label"], np.random.default_rng(0)
    for i in range(45):
        name = f"p{i:02d}.png"
        shades = rng.integers(0, 90, (8, 8, 3)) + 150 * (np.arange(3) == i % 3)
        Image.fromarray(shades.astype(np.uint8)).resize((32, 32), 0).save(tmp_path / name)
        label = NAMES[i % 3].upper() if i == 1 else NAMES[i % 3]
        rows.append(f'case {i},{name},What is this?,"{label.replace(chr(34), chr(34) * 2)}"')
    (tmp_path / "mine.csv").write_text("\n".join(rows), encoding="utf-8")
    settings = ("task=custom", f"dataset.root={tmp_path}", "dataset.file=mine.csv", "sweep.draws=50", "controls=none")
    code, _, err = probe(
        "run", *tiny(checkpoint), *settings, "layers.stride=2", "hydra.run.dir=run", "sweep.seeds=[0,1]"
    )
    assert code == 0, err
    assert "'BENIGN' (1) in the table counted as the label 'benign'" in err
    page = (tmp_path / "run" / "report.html").read_text()
    assert "&lt;b&gt;não&lt;/b&gt;" in page and "<b>não</b>" not in page and "Confusion matrix" in page
    scores = (tmp_path / "run" / "scores.csv").read_text()
    assert "label=benign" in scores and ",recall," in scores
    assert '"name": "benign"' in (tmp_path / "run" / "inspect.json").read_text()
    assert "benign" in (tmp_path / "run" / "summary.json").read_text()
