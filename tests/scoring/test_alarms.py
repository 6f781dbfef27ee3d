"""Each guard speaks where its fault was made by hand, and is silent on the nearest harmless case."""

import numpy as np
import pytest

from mllm_probe.records.samples import Examples
from mllm_probe.scoring.alarms import constant_predictions, identical_vectors, question_decides
from mllm_probe.tasks.splits import Folds

WHERE = "lm.03@last"


def test_constant_predictions_are_named_by_their_seeds() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 50))
    assert constant_predictions(logits, WHERE) is None
    assert constant_predictions(logits - 9, WHERE) is None, "one class throughout is weak, not constant"
    logits[1] = 0.7 + rng.standard_normal(50) * 1e-9
    assert constant_predictions(logits, WHERE).startswith("lm.03@last: the probes of 1 of 3 seeds give all 50 rows")
    assert "2 of 2 seeds" in constant_predictions(np.zeros((2, 5)), WHERE)


def test_a_small_spread_is_not_constant_and_classes_are_compared_one_by_one() -> None:
    logits = 1e-4 * np.random.default_rng(0).standard_normal((1, 40))
    assert constant_predictions(logits, WHERE) is None
    assert constant_predictions(0.5 + logits, WHERE) is None
    classes = np.tile([0.1, 0.2, -3.0], (2, 40, 1))
    assert "2 of 2 seeds" in constant_predictions(classes, WHERE)
    classes[0, 3, 2] = 1.0
    assert "1 of 2 seeds" in constant_predictions(classes, WHERE)
    assert constant_predictions(np.zeros((3, 1)), WHERE) is None
    for value in (np.nan, np.inf):
        assert constant_predictions(np.full((1, 4), value), WHERE) is None, "non-finite is another check's"


def vectors() -> tuple[np.ndarray, list[int], list[str], list[str]]:
    rows = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    return rows, [0, 1, 0, 1, 0, 1], ["p", "p", "p", "q", "q", "q"], ["a", "b", "c", "d", "e", "f"]


def test_equal_vectors_of_other_labels_are_named() -> None:
    rows, labels, groups, samples = vectors()
    assert identical_vectors(rows, labels, groups, samples, WHERE) is None
    rows[4] = rows[3]
    found = identical_vectors(rows, labels, groups, samples, WHERE)
    assert found.startswith("lm.03@last: 2 of 6 rows equal another") and "picture q, samples d and e" in found


@pytest.mark.parametrize("i,j,change", [(0, 2, None), (1, 5, None), (0, 1, "sample"), (0, 1, "nearly")])
def test_equal_vectors_for_a_reason_are_not(i: int, j: int, change: str | None) -> None:
    """The same label, another picture, one sample that is scored twice, and vectors that are merely close."""
    rows, labels, groups, samples = vectors()
    rows[j] = rows[i]
    if change == "sample":
        samples[j] = samples[i]
    if change == "nearly":
        rows[j, 0] = np.nextafter(rows[i, 0], np.float32(9))
    assert identical_vectors(rows, labels, groups, samples, WHERE) is None


def test_three_rows_that_are_alike_in_pairs_only_are_found() -> None:
    rows = np.ones((3, 2))
    found = identical_vectors(rows, [0, 1, 1], ["p"] * 3, ["a", "a", "b"], WHERE)
    assert "3 of 3 rows" in found and "samples a and b" in found
    with pytest.raises(ValueError, match="3 rows, 2 labels"):
        identical_vectors(rows, [0, 1], ["p"] * 3, ["a"] * 3, WHERE)


HALVES = np.arange(80) < 40, np.arange(80) >= 40


def test_a_question_that_decides_is_counted() -> None:
    words = [f"Is there object {i % 8}?" for i in range(80)]
    labels = [int(i % 8 < 4) for i in range(80)]
    found = question_decides(words, labels, *HALVES)
    assert found.startswith("the question decides the label: 40 of 40 test rows are right") and "(40 of them" in found
    other = [word.upper().replace(" ", "  ") + "\n" if i >= 40 else word for i, word in enumerate(words)]
    assert question_decides(other, labels, *HALVES) == found
    assert "39 of 40" in question_decides(
        words, [1 - labels[0] if i == 40 else y for i, y in enumerate(labels)], *HALVES
    )


def test_texts_that_are_new_mixed_or_wrong_decide_nothing() -> None:
    labels = [int(i % 8 < 4) for i in range(80)]
    words = [f"Is there object {i % 8}?" for i in range(80)]
    unseen = [f"{word} {i}" if i >= 59 else word for i, word in enumerate(words)]
    assert question_decides(unseen, labels, *HALVES) is None, "fewer than half of the test rows are seen"
    assert question_decides(["How many?"] * 80, labels, *HALVES) is None
    wrong = [1 - y if 40 <= i < 43 else y for i, y in enumerate(labels)]
    assert question_decides(words, wrong, *HALVES) is None, "37 of 40 is less than 95 %"
    assert question_decides(words, [1] * 80, *HALVES) is None, "the commonest label does as well"
    few = np.arange(80) < 40, (np.arange(80) >= 40) & (np.arange(80) < 49)
    assert question_decides(words, labels, *few) is None, "nine rows may be right by chance"
    assert question_decides(words, labels, HALVES[0], np.zeros(80, bool)) is None


@pytest.mark.parametrize("seed", range(3))
def test_matched_captions_do_not_trigger(entailment: Examples, seed: int) -> None:
    split = Folds(blocks=4).splits(entailment.folds, seed)
    words = {sample.uid: sample.text for sample in entailment.samples}
    texts = [words[d.sample] for d in entailment.decisions]
    side = np.array([split[d.group] for d in entailment.decisions])
    labels = [d.label for d in entailment.decisions]
    assert question_decides(texts, labels, side == "train", side == "test") is None
    true_only = [text + (" indeed" if y else "") for text, y in zip(texts, labels, strict=True)]
    caught = ["indeed" if "indeed" in text else "no" for text in true_only]
    assert question_decides(caught, labels, side == "train", side == "test") is not None
