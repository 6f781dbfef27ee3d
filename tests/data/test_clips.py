"""What is said of a clip is checked by a second reading of the words against the pixels of its pictures."""

from itertools import pairwise
from random import Random

import numpy as np
import pytest

from mllm_probe.data.clips import (
    DIRECTIONS,
    MAX_PICTURES,
    STEP,
    Clip,
    Event,
    draw_clip,
    false_event,
    random_clip,
    true_event,
)
from mllm_probe.data.drawing import COLOURS, PICTURE_SIZE, Scene, Shape
from mllm_probe.data.facts import Thing

WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def shown(clip: Clip, colour: str) -> list[tuple[float, float]]:
    """The middle of what has this colour, in each picture."""
    middles = []
    for picture in draw_clip(clip):
        rows, columns = np.nonzero((np.asarray(picture) == COLOURS[colour]).all(axis=2))
        middles.append((float(columns.mean()), float(rows.mean())))
    return middles


def steps_of(clip: Clip, colour: str) -> list[tuple[int, int]]:
    """Where what has this colour goes after each picture but the last: signs of right and down."""
    places = shown(clip, colour)
    return [(round((x2 - x1) / STEP), round((y2 - y1) / STEP)) for (x1, y1), (x2, y2) in pairwise(places)]


def reads_true(text: str, clip: Clip) -> bool:
    """The words, parsed from scratch; no two shapes of the clip share a colour."""
    there = {f"a {shape.colour} {shape.kind}": shape.colour for shape in clip.scenes[0].shapes}
    first, _, rest = text.partition(" moves ")
    if first not in there:
        return False
    steps = steps_of(clip, there[first])
    if rest in WAYS:
        return WAYS[rest] in steps
    second = rest.removeprefix("before ")
    if second not in there:
        return False
    moving = [at for at, step in enumerate(steps) if step != (0, 0)]
    later = [at for at, step in enumerate(steps_of(clip, there[second])) if step != (0, 0)]
    return bool(moving and later) and max(moving) < min(later)


def clip_of(seed: int, pictures: int) -> tuple[Clip, Random]:
    rng = Random(seed)
    while True:
        clip = random_clip(rng, pictures)
        colours = {shape.colour for shape in clip.scenes[0].shapes}
        if len(colours) == len(clip.scenes[0].shapes):
            return clip, rng


@pytest.mark.parametrize("seed", range(200))
def test_true_events_are_seen_in_the_pictures_and_false_ones_are_not(seed: int) -> None:
    clip, rng = clip_of(seed, 2 + seed % (MAX_PICTURES - 1))
    true, false = true_event(clip, rng), false_event(clip, rng)
    assert true.holds(clip) and reads_true(true.text(), clip), true.text()
    assert not false.holds(clip) and not reads_true(false.text(), clip), false.text()


def test_every_direction_and_both_orders_are_drawn() -> None:
    texts = " ".join(true_event(*clip_of(seed, 4)).text() for seed in range(200))
    assert all(f"moves {way}" in texts for way in DIRECTIONS) and "moves before" in texts


def test_shapes_stay_within_the_picture_and_apart() -> None:
    for seed in range(100):
        clip, _ = clip_of(seed, MAX_PICTURES)
        for scene in clip.scenes:
            assert all(min(shape.box) >= 0 and max(shape.box) < PICTURE_SIZE for shape in scene.shapes)
            assert len({shape.place for shape in scene.shapes}) == len(scene.shapes)


def test_shapes_that_move_at_once_come_in_no_order() -> None:
    def scene(at: int) -> Scene:
        return Scene((Shape("circle", "red", "small", at, 16), Shape("ring", "blue", "small", at, 80)), (0, 0, 0))

    clip = Clip((scene(16), scene(48), scene(80)))
    circle, ring = Thing("circle"), Thing("ring")
    assert not Event(circle, then=ring).holds(clip) and not Event(ring, then=circle).holds(clip)
    assert Event(circle, "right").holds(clip) and not Event(circle, "left").holds(clip)


def test_the_same_seed_gives_the_same_clip() -> None:
    assert random_clip(Random(5), 4) == random_clip(Random(5), 4) != random_clip(Random(6), 4)
