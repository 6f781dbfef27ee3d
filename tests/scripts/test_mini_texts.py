"""What the mini model learns is so: words of clips against their pixels, and no form of words that gives it away."""

import re
from collections import Counter
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from mini_texts import CLIP_STAGES, MATERIALS, ORDINALS, tune_texts

from mllm_probe.data.clips import STEP, Clip, draw_clip, random_clip
from mllm_probe.data.drawing import COLOURS, PLACES

WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def places_of(clip: Clip, colour: str) -> list[tuple[float, float]]:
    """The middle of what has this colour, in each picture."""
    inked = [np.nonzero((np.asarray(picture) == COLOURS[colour]).all(axis=2)) for picture in draw_clip(clip)]
    return [(float(columns.mean()), float(rows.mean())) for rows, columns in inked]


def ways_of(clip: Clip, colour: str) -> set[tuple[int, int]]:
    places = places_of(clip, colour)
    steps = {(round((x2 - x1) / STEP), round((y2 - y1) / STEP)) for (x1, y1), (x2, y2) in pairwise(places)}
    return steps - {(0, 0)}


def clip_of(seed: int) -> tuple[Clip, Random]:
    """A clip of which no two shapes share a colour."""
    rng = Random(seed)
    while True:
        clip = random_clip(rng, 2 + seed % 3)
        if len({shape.colour for shape in clip.scenes[0].shapes}) == len(clip.scenes[0].shapes):
            return clip, rng


@pytest.mark.parametrize("stage", CLIP_STAGES)
def test_what_is_said_of_a_clip_is_in_its_pixels(stage: str) -> None:
    asked: Counter[str] = Counter()
    for seed in range(60):
        clip, rng = clip_of(seed)
        for text in CLIP_STAGES[stage](clip, rng, MATERIALS["harder"]):
            words, said = text.prompt, text.target.strip(" .")
            if way := re.search(r"Which way does the (\w+) \w+ move|In these pictures, a (\w+) \w+ moves$", words):
                found = ways_of(clip, way[1] or way[2])
                assert found == ({WAYS[said]} if said in WAYS else set()), (words, said)
                asked["way"] += 1
            elif place := re.search(r"n the ([\w ]+) of the (\w+) image", words):
                row, column = next((r, c) for r in range(3) for c in range(3) if PLACES[r][c] == place[1])
                window = np.asarray(draw_clip(clip)[ORDINALS.index(place[2])])[32 * row :, 32 * column :][:32, :32]
                inked = {c for c in COLOURS if (window == COLOURS[c]).all(axis=2).any()}
                assert inked == (set() if said == "nothing" else {said.split()[1]}), (words, said)
                asked["place"] += 1
    assert asked["way"] >= 60 and asked["place"] >= 60


def test_a_form_of_words_is_as_often_false_as_true() -> None:
    harder = MATERIALS["harder"]
    rng, told = Random(0), Counter[tuple[str, str]]()
    for _ in range(1200):
        for text in tune_texts([harder.scene(rng)], rng, harder)[:4]:
            for form in (" is not ", "there is no ", " that is ", "there are ", " is left of ", " and ", " in the "):
                if form in text.prompt:
                    told[form, text.target] += 1
    forms = {form for form, _ in told}
    assert len(forms) == 7
    for form in forms:
        yes, no = told[form, " yes"], told[form, " no"]
        assert 0.33 < yes / (yes + no) < 0.67, (form, yes, no)


def test_harder_scenes_hold_up_to_five_shapes() -> None:
    for name, most in (("plain", 4), ("harder", 5)):
        scenes = [MATERIALS[name].scene(Random(seed)) for seed in range(200)]
        assert {len(scene.shapes) for scene in scenes} == set(range(1, most + 1))
