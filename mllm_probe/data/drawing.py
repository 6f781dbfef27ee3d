"""Scenes of coloured shapes: how they are made up and drawn, and the facts about them that captions tell.

The same random generator state always gives the same scene and, with one Pillow release, the same pixels. A fact is
checked against the shapes of a scene, never against its text, so a caption borrowed from another picture can be proven
false. Knows nothing of files or models.
"""

from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any

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
MAX_SHAPES = 4
RELATIONS = ("left of", "right of", "above", "below", "larger than", "smaller than")
NUMBERS = ("no", "one", "two", "three", "four")
MARGIN = 16  # pixels between centres from which "left of" is said


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


def random_scene(rng: Random, max_shapes: int = MAX_SHAPES) -> Scene:
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


@dataclass(frozen=True)
class Thing:
    """A noun phrase such as "small red circle"; None leaves that property open."""

    kind: str | None = None
    colour: str | None = None
    size: str | None = None
    place: str | None = None

    def matches(self, shape: Shape) -> bool:
        return all(wanted in (None, getattr(shape, name)) for name, wanted in vars(self).items())

    def noun(self, plural: bool = False) -> str:
        kind = self.kind or "shape"
        if plural:
            kind = "crosses" if kind == "cross" else kind + "s"
        noun = " ".join(word for word in (self.size, self.colour, kind) if word)
        return f"{noun} in the {self.place}" if self.place else noun


@dataclass(frozen=True)
class Fact:
    """`relation` None: these things are all there. With a number: exactly that many of the one thing."""

    things: tuple[Thing, ...]
    relation: str | None = None
    number: int | None = None

    def holds(self, scene: Scene, margin: int = MARGIN) -> bool:
        """Whether the fact is true of the scene; spatial relations need `margin` pixels between the centres."""
        if self.number is not None:
            return sum(map(self.things[0].matches, scene.shapes)) == self.number
        if self.relation is not None:
            first, second = self.things
            return any(
                first.matches(a) and second.matches(b) and _related(a, self.relation, b, margin)
                for a in scene.shapes
                for b in scene.shapes
                if a is not b
            )
        return _all_present(self.things, scene.shapes)

    def is_false_of(self, scene: Scene) -> bool:
        """False beyond doubt: it would not hold even if one pixel were enough for "left of"."""
        return not self.holds(scene, margin=1)

    def text(self) -> str:
        if self.number is not None:
            return f"there are {NUMBERS[self.number]} {self.things[0].noun(plural=True)}"
        nouns = ["a " + thing.noun() for thing in self.things]
        if self.relation is not None:
            return f"{nouns[0]} is {self.relation} {nouns[1]}"
        return nouns[0] if len(nouns) == 1 else ", ".join(nouns[:-1]) + " and " + nouns[-1]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Fact":
        return cls(tuple(Thing(**thing) for thing in record["things"]), record["relation"], record["number"])


def _related(a: Shape, relation: str, b: Shape, margin: int) -> bool:
    return {
        "left of": b.x - a.x >= margin,
        "right of": a.x - b.x >= margin,
        "above": b.y - a.y >= margin,
        "below": a.y - b.y >= margin,
        "larger than": a.radius > b.radius,
        "smaller than": a.radius < b.radius,
    }[relation]


def _all_present(things: tuple[Thing, ...], shapes: tuple[Shape, ...]) -> bool:
    """Whether every thing can be matched to a shape of its own (a bipartite matching; at most four of each)."""
    if not things:
        return True
    return any(
        things[0].matches(shape) and _all_present(things[1:], shapes[:i] + shapes[i + 1 :])
        for i, shape in enumerate(shapes)
    )


def true_fact(scene: Scene, rng: Random) -> Fact:
    """One fact that holds of the scene, of a random kind: presence, place, list, relation or number."""
    kind = rng.choice(("present", "place", "list", "relation", "relation", "number"))
    if kind == "relation" and len(scene.shapes) > 1:
        a, b = rng.sample(scene.shapes, 2)
        held = [r for r in RELATIONS if _related(a, r, b, MARGIN)]
        if held:
            relation = rng.choice(held)
            sized = relation in RELATIONS[4:]
            return Fact((_describe(a, rng, not sized), _describe(b, rng, not sized)), relation)
    if kind == "number" and len(scene.shapes) > 1:
        shape = rng.choice(scene.shapes)
        thing = rng.choice((Thing(), Thing(kind=shape.kind), Thing(colour=shape.colour)))
        number = sum(map(thing.matches, scene.shapes))
        if number > 1:
            return Fact((thing,), number=number)
    if kind == "place":
        shape = rng.choice(scene.shapes)
        return Fact((Thing(shape.kind, shape.colour, place=shape.place),))
    if kind == "list":
        shapes = rng.sample(scene.shapes, len(scene.shapes))
        return Fact(tuple(Thing(shape.kind, shape.colour) for shape in shapes))
    return Fact((_vague(rng.choice(scene.shapes), rng),))


def _describe(shape: Shape, rng: Random, may_name_size: bool) -> Thing:
    size = shape.size if may_name_size and rng.random() < 0.4 else None
    return Thing(shape.kind, shape.colour, size)


def _vague(shape: Shape, rng: Random) -> Thing:
    """The shape by one to three of its properties, so that one lone shape still has several captions."""
    named = rng.sample(("kind", "colour", "size"), rng.choice((1, 2, 2, 2, 3)))
    return Thing(**{name: getattr(shape, name) for name in named})


def false_fact(scene: Scene, rng: Random, tries: int = 50) -> Fact:
    """A fact that is false of the scene by one change (a property, the relation, the number)."""
    for _ in range(tries):
        fact = _changed(true_fact(scene, rng), rng)
        if fact.is_false_of(scene):
            return fact
    raise ValueError(f"no false fact found for {scene} in {tries} tries")


def _changed(fact: Fact, rng: Random) -> Fact:
    if fact.number is not None and rng.random() < 0.5:
        return replace(fact, number=rng.choice([n for n in (2, 3, 4) if n != fact.number]))
    if fact.relation is not None and rng.random() < 0.6:
        if rng.random() < 0.5:
            return replace(fact, things=fact.things[::-1])
        return replace(fact, relation=rng.choice([r for r in RELATIONS if r != fact.relation]))
    i = rng.randrange(len(fact.things))
    thing = fact.things[i]
    field = rng.choice([name for name, value in vars(thing).items() if value] or ["colour"])
    places = tuple(place for row in PLACES for place in row)
    allowed = {"kind": KINDS, "colour": tuple(COLOURS), "size": tuple(SIZES), "place": places}[field]
    other = replace(thing, **{field: rng.choice([v for v in allowed if v != getattr(thing, field)])})
    return replace(fact, things=(*fact.things[:i], other, *fact.things[i + 1 :]))
