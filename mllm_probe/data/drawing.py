"""Scenes of coloured shapes: how they are made up and drawn.

The same random generator state always gives the same scene and, with one Pillow release, the same pixels. Knows nothing
of what is said of them (`facts`), of files or of models.
"""

from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageDraw

PICTURE_SIZE = 96  # pixels, both sides
CELLS = 3  # the canvas is a grid of CELLS x CELLS; each cell holds at most one shape, so nothing overlaps
SIZES = {"small": 8, "large": 14}  # radius in pixels
COLOURS = {
    "red": (220, 50, 47),
    "green": (60, 170, 75),
    "blue": (50, 110, 220),
    "yellow": (240, 200, 40),
    "purple": (160, 70, 200),
    "white": (240, 240, 240),
}
PLACES = (
    ("top left", "top centre", "top right"),
    ("middle left", "middle centre", "middle right"),
    ("bottom left", "bottom centre", "bottom right"),
)  # by row, then column, of the cell
KINDS = ("circle", "square", "triangle", "cross", "ring")
USUAL_SHAPES, MAX_SHAPES = 4, 5


@dataclass(frozen=True)
class Shape:
    """One drawn thing; x and y are its centre in pixels, the origin at the top left."""

    kind: str
    colour: str
    size: str
    x: int
    y: int

    @property
    def radius(self) -> int:
        return SIZES[self.size]

    @property
    def place(self) -> str:
        """The cell of the canvas that holds the centre."""
        cell = PICTURE_SIZE // CELLS
        return PLACES[self.y // cell][self.x // cell]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in pixels."""
        return self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius


@dataclass(frozen=True)
class Scene:
    shapes: tuple[Shape, ...]
    background: tuple[int, int, int]


def random_scene(rng: Random, max_shapes: int = USUAL_SHAPES) -> Scene:
    """1 to `max_shapes` shapes in distinct cells of the canvas, each moved a little off its cell's centre."""
    cell = PICTURE_SIZE // CELLS
    places = rng.sample(range(CELLS * CELLS), rng.randint(1, max_shapes))
    shapes = []
    for place in places:
        size = rng.choice(tuple(SIZES))
        play = cell // 2 - SIZES[size] - 1
        x = (place % CELLS) * cell + cell // 2 + rng.randint(-play, play)
        y = (place // CELLS) * cell + cell // 2 + rng.randint(-play, play)
        shapes.append(Shape(rng.choice(KINDS), rng.choice(tuple(COLOURS)), size, x, y))
    grey = rng.randint(0, 60)
    return Scene(tuple(shapes), (grey, grey, grey))


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of PICTURE_SIZE x PICTURE_SIZE pixels."""
    image = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), scene.background)
    pen = ImageDraw.Draw(image)
    for shape in scene.shapes:
        _draw_shape(pen, shape)
    return image


def mask_of(shape: Shape) -> np.ndarray:
    """[PICTURE_SIZE, PICTURE_SIZE] bool: the pixels that the shape colours; of a ring the ring alone."""
    image = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE))  # black, which no shape is
    _draw_shape(ImageDraw.Draw(image), shape)
    return np.asarray(image).max(axis=2) > 0


def _draw_shape(pen: ImageDraw.ImageDraw, shape: Shape) -> None:
    left, top, right, bottom = shape.box
    colour = COLOURS[shape.colour]
    arm = shape.radius // 3
    match shape.kind:
        case "circle":
            pen.ellipse(shape.box, fill=colour)
        case "square":
            pen.rectangle(shape.box, fill=colour)
        case "triangle":
            pen.polygon([(shape.x, top), (right, bottom), (left, bottom)], fill=colour)
        case "ring":
            pen.ellipse(shape.box, outline=colour, width=max(3, arm))
        case "cross":
            pen.rectangle((shape.x - arm, top, shape.x + arm, bottom), fill=colour)
            pen.rectangle((left, shape.y - arm, right, shape.y + arm), fill=colour)
