"""Labels cannot be guessed from the text or the picture alone, in whatever split a seed draws."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from mllm_probe.errors import ConfigError, DataError
from mllm_probe.records.samples import Collection, Examples, Picture, Sample
from mllm_probe.tasks.candidates import Candidate
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.tasks.matching import exchange
from mllm_probe.tasks.objects import Objects
from mllm_probe.tasks.splits import TEST, Folds
from tests.support.questions import balance

FOLDS = Folds(blocks=4)


@pytest.mark.parametrize("seed", range(6))
def test_entailment_is_matched_in_every_split(entailment: Examples, seed: int) -> None:
    split = FOLDS.splits(entailment.folds, seed)
    assert set(split.values()) == {"train", "val", "test"}
    for by in ("text", "picture"):
        for place, labels in balance(entailment, split, by).items():
            assert labels[0] == labels[1], place


def test_no_negative_is_true(scenes: Collection, entailment: Examples) -> None:
    """Checked against the scene, not against the list of captions."""
    pictures = {picture.digest: picture for picture in scenes.pictures}
    samples = {sample.uid: sample for sample in entailment.samples}
    for decision in entailment.decisions:
        sample = samples[decision.sample]
        start, stop = sample.marks["caption"]
        false = scenes.contradicts(pictures[decision.group], sample.text[start:stop])
        assert false == (decision.label == 0)


@pytest.mark.parametrize("seed", range(6))
def test_objects_are_balanced_within_category_and_split(scenes: Collection, seed: int) -> None:
    examples = Objects().examples(scenes, FOLDS)
    cells = balance(examples, FOLDS.splits(examples.folds, seed), "category")
    assert cells and all(labels[0] == labels[1] > 0 for labels in cells.values())
    truth = {picture.digest: picture.categories for picture in scenes.pictures}
    for decision in examples.decisions:
        assert (decision.strata["category"] in truth[decision.group]) == (decision.label == 1)


def test_objects_marks_and_articles(scenes: Collection) -> None:
    sample = next(iter(Objects().examples(scenes, FOLDS).samples))
    start, stop = sample.marks["object"]
    assert sample.text == f"Is there a {sample.text[start:stop]} in this image?"
    task, apple = Objects(template="{category}: is it here?"), Candidate(scenes.pictures[0], "apple", 1)
    assert task._sample(apple, []).text == "apple: is it here?"
    assert Objects()._sample(apple, []).text == "Is there an apple in this image?"


def test_exchange_gives_only_false_texts_and_a_permutation() -> None:
    """Texts are numbers; a text is false of a picture unless it shares its last digit."""
    pictures = [Picture(str(i), Path(), str(i)) for i in range(60)]
    claims = [(picture, str(int(picture.id) % 3)) for picture in pictures]

    def contradicts(picture: Picture, text: str) -> bool:
        return int(picture.id) % 3 != int(text)

    swapped = exchange(claims, contradicts, Random(0))
    kept = [i for i, claim in enumerate(swapped) if claim]
    assert len(kept) == 60, "a perfect exchange exists, so nothing is lost"
    assert all(contradicts(*claim) for claim in swapped if claim)
    assert Counter(swapped[i][1] for i in kept) == Counter(claims[i][1] for i in kept)


def test_exchange_gives_up_cleanly_where_texts_are_true_of_all() -> None:
    claims = [(Picture(str(i), Path(), str(i)), "sky" if i < 8 else f"thing {i}") for i in range(12)]

    def contradicts(picture: Picture, text: str) -> bool:
        return text != "sky" and text != f"thing {picture.id}"

    swapped = exchange(claims, contradicts, Random(0))
    kept = [i for i, claim in enumerate(swapped) if claim]
    assert Counter(swapped[i][1] for i in kept) == Counter(claims[i][1] for i in kept)
    assert all(contradicts(*claim) for claim in swapped if claim)
    assert all(claims[i][1] != "sky" for i in kept)


def test_folds_fix_the_test_pictures_and_redraw_the_rest(scenes: Collection) -> None:
    folds = FOLDS.assign(scenes.pictures)
    drawn = [FOLDS.splits(folds, seed) for seed in range(8)]
    tests = {frozenset(g for g, name in split.items() if name == "test") for split in drawn}
    assert len(tests) == 1 and len(next(iter(tests))) == round(0.25 * len(scenes.pictures))
    assert len({frozenset(g for g, name in split.items() if name == "val") for split in drawn}) > 1
    assert tests == {frozenset(g for g, fold in folds.items() if fold == TEST)}


def test_equal_pictures_share_a_fold() -> None:
    pictures = [Picture(str(i), Path(), digest=str(i // 2)) for i in range(40)]
    folds = FOLDS.assign(pictures)
    assert len(folds) == 20


def test_bad_settings_are_one_sentence(scenes: Collection) -> None:
    with pytest.raises(ConfigError, match="must hold {caption} exactly once"):
        Entailment(template="nothing")
    with pytest.raises(
        ConfigError, match="task.negatives=hard is unknown; choose one of: object_swap, random, similar"
    ):
        Entailment(negatives="hard")
    with pytest.raises(ConfigError, match="must hold {a_category} or {category}"):
        Objects(template="x")
    with pytest.raises(ConfigError, match="shares must be between 0 and 1"):
        Folds(test=1.5)
    with pytest.raises(DataError, match="3 different pictures cannot fill a test set"):
        FOLDS.assign(scenes.pictures[:3])


def test_half_a_character_in_a_text_is_refused() -> None:
    picture = Picture("7", Path("7.png"), "d7")
    assert Sample.of([picture], "a \U0001f436 on a chair", {}).text == "a \U0001f436 on a chair"
    with pytest.raises(DataError, match=r"picture 7: the text 'a \\ud83d dog' holds half a character"):
        Sample.of([picture], "a \ud83d dog", {})
