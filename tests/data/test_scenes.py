"""Facts are checked against scenes by a second, naive reading of their words; pictures and files are reproducible."""

import csv
import json
from collections import Counter
from itertools import permutations
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from mllm_probe.data.coco import Selection
from mllm_probe.data.drawing import (
    COLOURS,
    KINDS,
    MAX_SHAPES,
    PICTURE_SIZE,
    SIZES,
    Scene,
    Shape,
    draw,
    mask_of,
    random_scene,
)
from mllm_probe.data.facts import FORMS, HARDER_FORMS, NUMBERS, Fact, Thing, false_fact, true_fact
from mllm_probe.data.scenes import Scenes
from mllm_probe.errors import DataError
from mllm_probe.files.digests import Digests
from mllm_probe.records.samples import Collection


def words_match(noun: str, shape: Shape) -> bool:
    """`small red circle in the top left` against a shape, word by word."""
    head, _, place = noun.partition(" in the ")
    own = {shape.size, shape.colour, shape.kind, "shape"}
    return all(word in own for word in head.split()) and place in ("", shape.place)


def reads_true(text: str, scene: Scene, doubt: bool = False) -> bool:
    """The caption's words, parsed from scratch; in doubt whatever may be meant counts."""
    if text.startswith("there is no "):
        return not any(words_match(text.removeprefix("there is no "), shape) for shape in scene.shapes)
    if text.startswith("there are "):
        number, noun = text.removeprefix("there are ").split(" ", 1)
        noun = (
            noun.replace("crosses", "cross").removesuffix("s")
            if not noun.endswith("crosses")
            else "cross".join(noun.rsplit("crosses", 1))
        )
        return sum(words_match(noun, shape) for shape in scene.shapes) == NUMBERS.index(number)
    if " that is " in text:
        head, tail = text.split(" that is ")
        middle = head.split(" a ")[-1]
        return any(
            reads_pair(head, a, b) and reads_pair(f"a {middle} is {tail}", b, c)
            for a in scene.shapes
            for b in scene.shapes
            for c in scene.shapes
            if a is not b and b is not c and (doubt or a is not c)
        )
    if " is not " in text:
        plain = text.replace(" is not ", " is ")
        first, second = (part.strip().removeprefix("a ") for part in plain.split(f" is {relation_in(plain)} "))
        there = [(a, b) for a, b in permutations(scene.shapes, 2) if words_match(first, a) and words_match(second, b)]
        said = [reads_pair(plain, a, b) for a, b in there]
        return not (said and all(said)) if doubt else bool(said) and not any(said)
    if relation_in(text):
        return any(reads_pair(text, a, b) for a, b in permutations(scene.shapes, 2))
    nouns = [noun.removeprefix("a ") for noun in text.replace(" and ", ", ").split(", ")]
    left = list(scene.shapes)
    for noun in sorted(nouns, key=len, reverse=True):
        found = next((shape for shape in left if words_match(noun, shape)), None)
        if found is None:
            return False
        left.remove(found)
    return True


def relation_in(text: str) -> str:
    """The relation that two things are said to stand in, or nothing."""
    words = ("left of", "right of", "above", "below", "larger than", "smaller than")
    return next((each for each in words if f" is {each} " in text), "")


def reads_pair(text: str, a: Shape, b: Shape) -> bool:
    """`a red ring is above a cross` of these two shapes."""
    words = relation_in(text)
    first, second = (part.strip().removeprefix("a ") for part in text.split(f" is {words} "))
    return words_match(first, a) and words_match(second, b) and reads_related(a, words, b)


def reads_related(a: Shape, words: str, b: Shape) -> bool:
    order = {"small": 0, "large": 1}
    match words:
        case "left of":
            return a.x < b.x
        case "right of":
            return a.x > b.x
        case "above":
            return a.y < b.y
        case "below":
            return a.y > b.y
        case "larger than":
            return order[a.size] > order[b.size]
    return order[a.size] < order[b.size]


@pytest.mark.parametrize("forms", [FORMS, HARDER_FORMS])
@pytest.mark.parametrize("seed", range(300))
def test_true_facts_hold_and_false_ones_do_not(seed: int, forms: tuple[str, ...]) -> None:
    rng = Random(seed)
    scene = random_scene(rng, MAX_SHAPES)
    true, false = true_fact(scene, rng, forms), false_fact(scene, rng, forms)
    assert true.holds(scene) and not true.is_false_of(scene) and reads_true(true.text(), scene)
    assert false.is_false_of(scene) and not false.holds(scene) and not reads_true(false.text(), scene, doubt=True)
    assert Fact.from_json(json.loads(json.dumps(true.to_json()))) == true


def test_two_alike_things_need_two_shapes() -> None:
    scene = Scene((Shape("circle", "red", "small", 16, 16), Shape("ring", "blue", "large", 80, 80)), (0, 0, 0))
    assert not Fact((Thing("circle"), Thing("circle"))).holds(scene)
    assert Fact((Thing(), Thing("circle"))).holds(scene), "the open thing must leave the circle to the other"


def scene_of(*shapes: tuple[str, int, int]) -> Scene:
    return Scene(tuple(Shape(kind, "red", "small", x, y) for kind, x, y in shapes), (0, 0, 0))


@pytest.mark.parametrize(
    ("shapes", "verdict"),
    [
        ([("ring", 16, 16), ("cross", 80, 16)], False),
        ([("ring", 80, 16), ("cross", 16, 16)], True),
        ([("ring", 16, 16), ("cross", 16, 80)], True),
        ([("ring", 16, 16), ("cross", 26, 80)], None),  # ten pixels are too few for "left of", and not none
        ([("ring", 16, 16), ("cross", 80, 16), ("ring", 80, 80), ("cross", 48, 48)], None),  # some of them are
        ([("ring", 16, 16), ("ring", 48, 16), ("cross", 80, 16)], False),
        ([("ring", 16, 16)], None),
    ],
)
def test_what_is_denied_is_so_of_all_or_in_doubt(shapes: list[tuple[str, int, int]], verdict: bool | None) -> None:
    fact, scene = Fact((Thing("ring"), Thing("cross")), "left of", denied=True), scene_of(*shapes)
    assert (fact.holds(scene), fact.is_false_of(scene)) == (verdict is True, verdict is False)


def test_the_third_thing_of_two_relations_is_another_or_in_doubt() -> None:
    fact = Fact((Thing("ring"), Thing("cross"), Thing("ring")), "left of", then="right of")
    two, three = [("ring", 16, 16), ("cross", 80, 16)], [("ring", 16, 16), ("cross", 80, 16), ("ring", 48, 80)]
    assert fact.holds(scene_of(*three)) and not fact.is_false_of(scene_of(*three))
    assert not fact.holds(scene_of(*two)) and not fact.is_false_of(scene_of(*two))
    assert fact.is_false_of(scene_of(("ring", 80, 16), ("cross", 16, 16), ("ring", 48, 80)))


def test_shapes_are_drawn_where_they_are_said_to_be() -> None:
    for seed in range(40):
        scene = random_scene(Random(seed))
        pixels = np.asarray(draw(scene)).astype(int)
        assert pixels.shape == (PICTURE_SIZE, PICTURE_SIZE, 3)
        inked = np.zeros(pixels.shape[:2], dtype=bool)
        for shape in scene.shapes:
            left, top, right, bottom = shape.box
            assert left >= 0 and top >= 0 and right < PICTURE_SIZE and bottom < PICTURE_SIZE
            window = pixels[top : bottom + 1, left : right + 1]
            assert (window == COLOURS[shape.colour]).all(axis=2).any()
            inked[top : bottom + 1, left : right + 1] = True
        assert (pixels[~inked] == scene.background).all()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    def files(root: Path) -> dict[str, bytes]:
        Scenes(pictures=5, seed=3).load(root, Selection(), Digests(root / "digests.json"))
        folder = next((root / "datasets").iterdir())
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert not list((tmp_path / "a" / "datasets").glob(".*")), "nothing half-written is left"


def test_pictures_have_five_true_captions_and_all_their_categories(scenes: Collection) -> None:
    assert len({picture.digest for picture in scenes.pictures}) == len(scenes.pictures)
    for picture in scenes.pictures:
        assert len(set(picture.captions)) == 5
        assert not any(scenes.contradicts(picture, caption) for caption in picture.captions)
        assert picture.categories and picture.categories <= set(scenes.categories)


def test_some_borrowed_captions_are_true_and_known_to_be(scenes: Collection) -> None:
    first, *others = scenes.pictures
    verdicts = {scenes.contradicts(first, caption) for other in others for caption in other.captions}
    assert verdicts == {True, False}


def test_masks_are_the_pixels_that_are_not_background(scenes: Collection) -> None:
    kinds: set[str] = set()
    for picture in scenes.pictures:
        pixels = np.asarray(Image.open(picture.path))
        assert scenes.masks
        masks = scenes.masks(picture)
        assert masks and masks.keys() == picture.categories
        np.testing.assert_array_equal(
            np.sum(list(masks.values()), axis=0), (pixels != pixels[0, 0]).any(axis=2)
        )  # no shape is in a corner
        for name, mask in masks.items():
            colour, kind = name.split()
            assert mask.dtype == bool and (pixels[mask] == COLOURS[colour]).all()
            kinds.add(kind)
    assert kinds == set(KINDS)


@pytest.mark.parametrize("size", SIZES)
def test_a_ring_has_a_hole_and_a_cross_has_four(size: str) -> None:
    ring, cross = (Shape(kind, "red", size, 40, 50) for kind in ("ring", "cross"))
    for shape in (ring, cross):
        drawn = np.asarray(draw(Scene((shape,), (9, 9, 9)))) != 9
        np.testing.assert_array_equal(mask_of(shape), drawn.any(axis=2))
    left, top, _, _ = ring.box
    assert not mask_of(ring)[50, 40] and mask_of(ring)[50, left]
    assert mask_of(cross)[50, 40] and not mask_of(cross)[top, left] and mask_of(cross)[top, 40]


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="dataset.pictures=0"):
        Scenes(pictures=0)


def test_a_table_of_questions_lies_beside_the_pictures(tmp_path: Path) -> None:
    """True of each picture, and a name says little about the answer; a folder of an older release gets it, too."""
    spec = Scenes(pictures=60)
    scenes = spec.load(tmp_path, Selection(), Digests(tmp_path / "digests.json"))
    (path,) = (tmp_path / "datasets").glob("*/questions.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    shown = {picture.path.name: picture.categories or frozenset() for picture in scenes.pictures}
    asked: Counter[str] = Counter()
    for row in rows:
        name = row["text"].removeprefix("Is there a ").removesuffix("?")
        assert (name in shown[row["picture"]]) == (row["label"] == "yes"), row
        asked[name] += 1 if row["label"] == "yes" else -1
    assert len(rows) == 120 and max(map(abs, asked.values())) <= 3
    first = path.read_bytes()
    path.unlink()
    spec.load(tmp_path, Selection(), Digests(tmp_path / "digests.json"))
    assert path.read_bytes() == first
