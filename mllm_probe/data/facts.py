"""What captions tell of a scene: what is there and what is not, where, how many, how two or three things stand.

A fact is checked against the shapes of a scene, never against its text, so a caption borrowed from another picture can
be proven false. Knows nothing of files or models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from random import Random
from typing import Any

from mllm_probe.data.drawing import COLOURS, KINDS, PLACES, SIZES, USUAL_SHAPES, Scene, Shape

RELATIONS = ("left of", "right of", "above", "below", "larger than", "smaller than")
NUMBERS = ("no", "one", "two", "three", "four", "five")
MARGIN = 16  # pixels between centres from which "left of" is said
# what a true fact is about; who is listed twice is drawn twice as often
FORMS = ("present", "place", "list", "relation", "relation", "number")
HARDER_FORMS = (*FORMS, "place", "absent", "denied", "chain")


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
    """`relation` None: these things are all there. With a number: exactly that many of the one thing.

    With `then`, the first of three things stands so to the second, and the second in the relation `then` to the third.
    `denied`: both things are there, and none of the one stands so to any of the other.
    """

    things: tuple[Thing, ...]
    relation: str | None = None
    number: int | None = None
    then: str | None = None
    denied: bool = False

    def holds(self, scene: Scene) -> bool:
        """True beyond doubt: "left of" needs MARGIN pixels between the centres, "not left of" the lack of any."""
        if self.denied:
            pairs = list(self._pairs(scene))
            return bool(pairs) and not any(_related(a, self.relation, b, 1) for a, b in pairs)
        return self._affirmed(scene, MARGIN)

    def is_false_of(self, scene: Scene) -> bool:
        """False beyond doubt: one pixel would be enough for "left of"; what is denied of two things must be so of all
        of them by MARGIN pixels, and of things that are not there nothing is denied wrongly."""
        if self.denied:
            pairs = list(self._pairs(scene))
            return bool(pairs) and all(_related(a, self.relation, b, MARGIN) for a, b in pairs)
        return not self._affirmed(scene, 1)

    def _affirmed(self, scene: Scene, margin: int) -> bool:
        if self.number is not None:
            return sum(map(self.things[0].matches, scene.shapes)) == self.number
        if self.then is not None:
            third = self.things[2]
            return any(
                _related(a, self.relation, b, margin) and third.matches(c) and _related(b, self.then, c, margin)
                for a, b in self._pairs(scene)
                for c in scene.shapes
                if c is not b and (c is not a or margin < MARGIN)  # in doubt, "a circle" may be the first one again
            )
        if self.relation is not None:
            return any(_related(a, self.relation, b, margin) for a, b in self._pairs(scene))
        return _all_present(self.things, scene.shapes)

    def _pairs(self, scene: Scene) -> Iterator[tuple[Shape, Shape]]:
        """Every two shapes that the first two things may be."""
        first, second = self.things[:2]
        return ((a, b) for a, b in permutations(scene.shapes, 2) if first.matches(a) and second.matches(b))

    def text(self) -> str:
        if self.number == 0:
            return f"there is no {self.things[0].noun()}"
        if self.number is not None:
            return f"there are {NUMBERS[self.number]} {self.things[0].noun(plural=True)}"
        nouns = ["a " + thing.noun() for thing in self.things]
        if self.relation is not None:
            said = f"{nouns[0]} is {'not ' if self.denied else ''}{self.relation} {nouns[1]}"
            return f"{said} that is {self.then} {nouns[2]}" if self.then else said
        return nouns[0] if len(nouns) == 1 else ", ".join(nouns[:-1]) + " and " + nouns[-1]

    def to_json(self) -> dict[str, Any]:
        """What a fact of FORMS has not is left out, so that its record does not change with HARDER_FORMS."""
        return {name: value for name, value in asdict(self).items() if value or name not in ("then", "denied")}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Fact":
        return cls(**{**record, "things": tuple(Thing(**thing) for thing in record["things"])})


def _related(a: Shape, relation: str | None, b: Shape, margin: int) -> bool:
    return {
        "left of": b.x - a.x >= margin,
        "right of": a.x - b.x >= margin,
        "above": b.y - a.y >= margin,
        "below": a.y - b.y >= margin,
        "larger than": a.radius > b.radius,
        "smaller than": a.radius < b.radius,
    }[relation or ""]


def _all_present(things: tuple[Thing, ...], shapes: tuple[Shape, ...]) -> bool:
    """Whether every thing can be matched to a shape of its own (a bipartite matching; at most five of each)."""
    if not things:
        return True
    return any(
        things[0].matches(shape) and _all_present(things[1:], shapes[:i] + shapes[i + 1 :])
        for i, shape in enumerate(shapes)
    )


def true_fact(scene: Scene, rng: Random, forms: Sequence[str] = FORMS) -> Fact:
    """One fact that holds of the scene, of one of these forms; where it has none of that, that a shape is there."""
    form = rng.choice(forms)
    makers = {
        "place": _place, "list": _list, "relation": _relation, "number": _number,
        "absent": _absent, "denied": _denied, "chain": _chain,
    }  # fmt: skip
    fact = makers[form](scene, rng) if form in makers else None
    return fact or Fact((_vague(rng.choice(scene.shapes), rng),))


def _place(scene: Scene, rng: Random) -> Fact:
    shape = rng.choice(scene.shapes)
    return Fact((Thing(shape.kind, shape.colour, place=shape.place),))


def _list(scene: Scene, rng: Random) -> Fact:
    shapes = rng.sample(scene.shapes, len(scene.shapes))
    return Fact(tuple(Thing(shape.kind, shape.colour) for shape in shapes))


def _relation(scene: Scene, rng: Random) -> Fact | None:
    if len(scene.shapes) < 2:
        return None
    a, b = rng.sample(scene.shapes, 2)
    held = [r for r in RELATIONS if _related(a, r, b, MARGIN)]
    if not held:
        return None
    relation = rng.choice(held)
    sized = relation in RELATIONS[4:]
    return Fact((_describe(a, rng, not sized), _describe(b, rng, not sized)), relation)


def _number(scene: Scene, rng: Random) -> Fact | None:
    if len(scene.shapes) < 2:
        return None
    shape = rng.choice(scene.shapes)
    thing = rng.choice((Thing(), Thing(kind=shape.kind), Thing(colour=shape.colour)))
    number = sum(map(thing.matches, scene.shapes))
    return Fact((thing,), number=number) if number > 1 else None


def _absent(scene: Scene, rng: Random) -> Fact | None:
    kind, colour = rng.choice(((True, False), (False, True), (True, True)))
    things = [Thing(a, b) for a in (KINDS if kind else (None,)) for b in (tuple(COLOURS) if colour else (None,))]
    missing = [thing for thing in things if not any(map(thing.matches, scene.shapes))]
    return Fact((rng.choice(missing),), number=0) if missing else None


def _denied(scene: Scene, rng: Random) -> Fact | None:
    pairs = list(permutations(scene.shapes, 2))
    for a, b in rng.sample(pairs, len(pairs)):
        things = _plain(a, rng), _plain(b, rng)
        denied = [fact for r in RELATIONS if (fact := Fact(things, r, denied=True)).holds(scene)]
        if denied:
            return rng.choice(denied)
    return None


def _chain(scene: Scene, rng: Random) -> Fact | None:
    if len(scene.shapes) < 3:
        return None
    a, b, c = rng.sample(scene.shapes, 3)
    first = [r for r in RELATIONS if _related(a, r, b, MARGIN)]
    then = [r for r in RELATIONS if _related(b, r, c, MARGIN)]
    if not first or not then:
        return None
    return Fact((_plain(a, rng), _plain(b, rng), _plain(c, rng)), rng.choice(first), then=rng.choice(then))


def _plain(shape: Shape, rng: Random) -> Thing:
    """The shape by its kind, its colour or both."""
    named = rng.choice((("kind",), ("colour",), ("kind", "colour")))
    return Thing(**{name: getattr(shape, name) for name in named})


def _describe(shape: Shape, rng: Random, may_name_size: bool) -> Thing:
    size = shape.size if may_name_size and rng.random() < 0.4 else None
    return Thing(shape.kind, shape.colour, size)


def _vague(shape: Shape, rng: Random) -> Thing:
    """The shape by one to three of its properties, so that one lone shape still has several captions."""
    named = rng.sample(("kind", "colour", "size"), rng.choice((1, 2, 2, 2, 3)))
    return Thing(**{name: getattr(shape, name) for name in named})


def false_fact(scene: Scene, rng: Random, forms: Sequence[str] = FORMS, tries: int = 50) -> Fact:
    """A fact that is false of the scene by one change (a property, a relation, the number, what is absent).

    Of two shapes that look alike nothing can be denied wrongly, so after `tries` any of FORMS will do.
    """
    for at in range(2 * tries):
        fact = _changed(true_fact(scene, rng, forms if at < tries else FORMS), scene, rng)
        if fact.is_false_of(scene):
            return fact
    raise ValueError(f"no false fact found for {scene} in {2 * tries} tries")


def _changed(fact: Fact, scene: Scene, rng: Random) -> Fact:
    if fact.number == 0:
        shape = rng.choice(scene.shapes)
        named = [name for name, value in vars(fact.things[0]).items() if value]
        return replace(fact, things=(Thing(**{name: getattr(shape, name) for name in named}),))
    if fact.number is not None and rng.random() < 0.5:
        return replace(fact, number=rng.choice([n for n in _numbers(scene) if n != fact.number]))
    if fact.relation is not None and rng.random() < 0.6:
        return _turned(fact, rng)
    i = rng.randrange(len(fact.things))
    thing = fact.things[i]
    field = rng.choice([name for name, value in vars(thing).items() if value] or ["colour"])
    places = tuple(place for row in PLACES for place in row)
    allowed = {"kind": KINDS, "colour": tuple(COLOURS), "size": tuple(SIZES), "place": places}[field]
    other = replace(thing, **{field: rng.choice([v for v in allowed if v != getattr(thing, field)])})
    return replace(fact, things=(*fact.things[:i], other, *fact.things[i + 1 :]))


def _numbers(scene: Scene) -> range:
    """The numbers that a caption may name: 2 to 4, and 5 where there are as many shapes."""
    return range(2, max(USUAL_SHAPES, len(scene.shapes)) + 1)


def _turned(fact: Fact, rng: Random) -> Fact:
    """The things the other way round, or another relation."""
    if rng.random() < 0.5:
        return replace(fact, things=fact.things[::-1])
    if fact.then and rng.random() < 0.5:
        return replace(fact, then=rng.choice([r for r in RELATIONS if r != fact.then]))
    return replace(fact, relation=rng.choice([r for r in RELATIONS if r != fact.relation]))
