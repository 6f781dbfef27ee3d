"""Clips of moving shapes: up to four ordered pictures, and what is said of them: directions, and what moves first.

A statement is checked against the pictures of a clip, never against its text. Knows nothing of files or models.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random

from PIL import Image

from mllm_probe.data.drawing import CELLS, PICTURE_SIZE, Scene, Shape, draw, random_scene
from mllm_probe.data.facts import Thing

MAX_PICTURES = 4
STEP = PICTURE_SIZE // CELLS  # pixels that a shape moves between two pictures: one cell
DIRECTIONS = {"left": (-STEP, 0), "right": (STEP, 0), "up": (0, -STEP), "down": (0, STEP)}


@dataclass(frozen=True)
class Clip:
    """2 to MAX_PICTURES scenes with the same shapes in the same order, of which some have moved."""

    scenes: tuple[Scene, ...]

    def moves(self, i: int) -> list[tuple[int, str]]:
        """(number of the picture it moves from, direction) of every movement of a shape."""
        places = [(scene.shapes[i].x, scene.shapes[i].y) for scene in self.scenes]
        steps = [(x2 - x1, y2 - y1) for (x1, y1), (x2, y2) in pairwise(places)]
        return [(at, name) for at, step in enumerate(steps) for name, way in DIRECTIONS.items() if step == way]

    def named(self, thing: Thing) -> list[int]:
        """The shapes that a thing may be, by their numbers."""
        return [i for i, shape in enumerate(self.scenes[0].shapes) if thing.matches(shape)]


def draw_clip(clip: Clip) -> list[Image.Image]:
    return [draw(scene) for scene in clip.scenes]


@dataclass(frozen=True)
class Event:
    """A thing moves in a direction; with `then`, it moves before another thing does."""

    thing: Thing
    direction: str | None = None
    then: Thing | None = None

    def holds(self, clip: Clip) -> bool:
        """With `then`: the one has stopped before the other starts."""
        for i in clip.named(self.thing):
            moves = clip.moves(i)
            if self.then is None:
                if any(way == self.direction for _, way in moves):
                    return True
            elif any(moves and (later := clip.moves(j)) and moves[-1][0] < later[0][0] for j in clip.named(self.then)):
                return True
        return False

    def text(self) -> str:
        if self.then is None:
            return f"a {self.thing.noun()} moves {self.direction}"
        return f"a {self.thing.noun()} moves before a {self.then.noun()}"


def random_clip(rng: Random, pictures: int) -> Clip:
    """One to three shapes of which one or two move by one or two cells, if there is time the one after the other."""
    shapes = rng.choice((1, 2, 2, 3))
    movers = rng.sample(range(shapes), min(rng.choice((1, 2, 2)), shapes))
    while True:
        first = random_scene(rng, 3)
        times = _times(rng, pictures - 1, len(movers))
        ways = [rng.choice(tuple(DIRECTIONS.values())) for _ in movers]
        if len(first.shapes) == shapes and _distinct(first):
            scenes = _moved(first, list(zip(movers, ways, times, strict=True)), pictures)
            if all(map(_drawable, scenes)):
                return Clip(scenes)


def _moved(first: Scene, moves: list[tuple[int, tuple[int, int], range]], pictures: int) -> tuple[Scene, ...]:
    """The scenes of a clip that begins with this one; a move is a shape, its way and its steps."""
    scenes = [first]
    for at in range(pictures - 1):
        shapes = list(scenes[-1].shapes)
        for i, (x, y), steps in moves:
            if at in steps:
                shapes[i] = replace(shapes[i], x=shapes[i].x + x, y=shapes[i].y + y)
        scenes.append(replace(first, shapes=tuple(shapes)))
    return tuple(scenes)


def _times(rng: Random, steps: int, movers: int) -> list[range]:
    """For each mover the steps in which it moves, one or two in a row; two share none if there are steps enough."""
    if movers == 2 and steps > 1:
        cut = rng.randrange(1, steps)
        spans = [_span(rng, 0, cut), _span(rng, cut, steps)]
        return rng.sample(spans, 2)
    return [_span(rng, 0, steps) for _ in range(movers)]


def _span(rng: Random, start: int, stop: int) -> range:
    long = rng.randint(1, min(2, stop - start))
    at = rng.randint(start, stop - long)
    return range(at, at + long)


def _distinct(scene: Scene) -> bool:
    """No two shapes look alike, so that words can tell them apart."""
    return len({(shape.kind, shape.colour) for shape in scene.shapes}) == len(scene.shapes)


def _drawable(scene: Scene) -> bool:
    """Every shape within the picture and in a cell of its own."""
    if not all(_within(shape) for shape in scene.shapes):
        return False
    return len({shape.place for shape in scene.shapes}) == len(scene.shapes)


def _within(shape: Shape) -> bool:
    return min(shape.box) >= 0 and max(shape.box) < PICTURE_SIZE


def true_event(clip: Clip, rng: Random) -> Event:
    """What moves before what in every second call if anything does, else where something moves."""
    shapes = [Thing(shape.kind, shape.colour) for shape in clip.scenes[0].shapes]
    orders = [Event(a, then=b) for a in shapes for b in shapes if Event(a, then=b).holds(clip)]
    if orders and rng.random() < 0.5:
        return rng.choice(orders)
    return rng.choice([e for e in (Event(a, way) for a in shapes for way in DIRECTIONS) if e.holds(clip)])


def false_event(clip: Clip, rng: Random) -> Event:
    """A true statement with one change that makes it false: the order, the direction, or a word for a shape."""
    while True:
        event = true_event(clip, rng)
        if rng.random() < 0.25:
            shape = rng.choice(clip.scenes[0].shapes)
            event = replace(event, thing=Thing(shape.kind, random_scene(rng, 1).shapes[0].colour))
        elif event.then:
            event = Event(event.then, then=event.thing)
        else:
            event = replace(event, direction=rng.choice(tuple(DIRECTIONS)))
        if not event.holds(clip):
            return event
