"""What the mini model reads and learns about scenes and clips: captions in the base stage, then questions, too.

Knows scenes and words, no tokens and no tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from mllm_probe.data.clips import MAX_PICTURES, Clip, false_event, true_event
from mllm_probe.data.drawing import COLOURS, KINDS, MAX_SHAPES, PLACES, USUAL_SHAPES, Scene, random_scene
from mllm_probe.data.facts import FORMS, HARDER_FORMS, NUMBERS, Fact, Thing, false_fact, true_fact

ORDINALS = ("first", "second", "third", "fourth")
CAPTION_FORMS = ("{}", "{}", "{}.", "This image contains: {}.", "The image shows {}.")
STATEMENT_FORMS = (
    "This image contains: {}. Is this right?",
    "This image contains: {}. Is this right?",
    "Does the image show this: {}?",
    "Statement: {}. Is it true of the image?",
)


@dataclass(frozen=True)
class Material:
    """How hard what is learnt is: shapes in a scene, forms of facts, pictures in a prompt, clips of moving shapes."""

    shapes: int
    forms: tuple[str, ...]
    pictures: int
    clips: bool

    def scene(self, rng: Random) -> Scene:
        return random_scene(rng, self.shapes)

    def true(self, scene: Scene, rng: Random) -> Fact:
        return true_fact(scene, rng, self.forms)


MATERIALS = {
    "plain": Material(USUAL_SHAPES, FORMS, 2, clips=False),
    "harder": Material(MAX_SHAPES, HARDER_FORMS, MAX_PICTURES, clips=True),
}


@dataclass(frozen=True)
class Text:
    """One text behind a picture: `prompt` is read, `target` is learnt."""

    prompt: str
    target: str


def base_texts(scenes: list[Scene], rng: Random, material: Material) -> list[Text]:
    if len(scenes) == 1:
        captions = [Text("", rng.choice(CAPTION_FORMS).format(material.true(scenes[0], rng).text())) for _ in range(4)]
        return captions + [
            Text(f"In the {place} there is", f" {_content(scenes[0], place)}.") for place in _places(scenes[0], rng)
        ]
    texts = []
    for _ in range(5):
        i = rng.randrange(len(scenes))
        texts.append(Text(f"The {ORDINALS[i]} image contains:", f" {material.true(scenes[i], rng).text()}."))
    return texts


def base_clip_texts(clip: Clip, rng: Random, _: Material) -> list[Text]:
    """What moves, and which way; then what is where in which picture."""
    texts = [Text("In these pictures,", f" {true_event(clip, rng).text()}.") for _ in range(4)]
    for i in rng.sample(range(len(clip.scenes)), 2):
        place = _places(clip.scenes[i], rng)[0]
        texts.append(
            Text(f"In the {place} of the {ORDINALS[i]} image there is", f" {_content(clip.scenes[i], place)}.")
        )
    return texts + [Text(f"In these pictures, a {noun} moves", f" {way}.") for noun, way in _ways(clip) if way]


def tune_texts(scenes: list[Scene], rng: Random, material: Material) -> list[Text]:
    if len(scenes) > 1:
        return [_statement(scenes, rng.randrange(len(scenes)), rng, material) for _ in range(5)]
    scene = scenes[0]
    shape = rng.choice(scene.shapes)
    kind = Thing(kind=shape.kind) if rng.random() < 0.5 else Thing(colour=shape.colour)
    number = NUMBERS[sum(map(kind.matches, scene.shapes))]
    place = _places(scene, rng)[0]
    listed = "a picture of " + material.true(scene, rng).text()
    return [
        *(_statement(scenes, 0, rng, material) for _ in range(4)),
        _presence(scene, rng),
        _presence(scene, rng),
        Text(ask(f"How many {kind.noun(plural=True)} are there?"), f" {number}"),
        Text(ask(f"What is in the {place}?"), f" {_content(scene, place)}"),
        Text(ask("Describe the image."), f" {listed}"),
    ]


def tune_clip_texts(clip: Clip, rng: Random, material: Material) -> list[Text]:
    """Statements of events, half of them true, the ways of all shapes, one picture's content and one's statement."""
    i = rng.randrange(len(clip.scenes))
    place = _places(clip.scenes[i], rng)[0]
    asked = ask(f"What is in the {place} of the {ORDINALS[i]} image?")
    return [
        *(_event(clip, rng) for _ in range(4)),
        *(Text(ask(f"Which way does the {noun} move?"), f" {way or 'nowhere'}") for noun, way in _ways(clip)),
        Text(asked, f" {_content(clip.scenes[i], place)}"),
        _statement(list(clip.scenes), rng.randrange(len(clip.scenes)), rng, material),
    ]


def _event(clip: Clip, rng: Random) -> Text:
    true = rng.random() < 0.5
    event = true_event(clip, rng) if true else false_event(clip, rng)
    return Text(ask(f"In these pictures, {event.text()}. Is this right?"), " yes" if true else " no")


def _ways(clip: Clip) -> list[tuple[str, str | None]]:
    """Each shape's words and which way it moves, None for one that does not; no two of a clip look alike."""
    moves = [clip.moves(i) for i in range(len(clip.scenes[0].shapes))]
    nouns = [Thing(shape.kind, shape.colour).noun() for shape in clip.scenes[0].shapes]
    return [(noun, own[0][1] if own else None) for noun, own in zip(nouns, moves, strict=True)]


def _places(scene: Scene, rng: Random) -> list[str]:
    """Up to three places that hold a shape, and one of any kind."""
    held = [shape.place for shape in scene.shapes]
    return [*rng.sample(held, min(3, len(held))), rng.choice([place for row in PLACES for place in row])]


def _content(scene: Scene, place: str) -> str:
    """The shape in a place; no cell holds two."""
    found = [shape for shape in scene.shapes if shape.place == place]
    return f"a {found[0].colour} {found[0].kind}" if found else "nothing"


def ask(question: str) -> str:
    return f"{question} ASSISTANT:"


def _statement(scenes: list[Scene], i: int, rng: Random, material: Material) -> Text:
    """A true caption, a hard false one (one change) or a caption of another scene, half of them true."""
    scene, true = scenes[i], rng.random() < 0.5
    fact = material.true(scene, rng) if true else _other_fact(scene, rng, material)
    form = rng.choice(STATEMENT_FORMS)
    if len(scenes) > 1:
        form = f"The {ORDINALS[i]} image contains: {{}}. Is this right?"
    return Text(ask(form.format(fact.text())), " yes" if true else " no")


def _other_fact(scene: Scene, rng: Random, material: Material) -> Fact:
    """False here: half by one change, half of another scene, if one is found.

    Where some form is seldom false of another scene ("not", "no"), the form is drawn first, and that scene has as many
    shapes: so the words of a form are as often false as true.
    """
    forms, shapes = material.forms, 1
    if forms != FORMS:
        forms, shapes = (rng.choice(forms),), len(scene.shapes)
    if rng.random() >= 0.5:
        for _ in range(40):
            other = material.scene(rng)
            fact = true_fact(other, rng, forms)
            if len(other.shapes) >= shapes and fact.is_false_of(scene):
                return fact
    return false_fact(scene, rng, forms)


def _presence(scene: Scene, rng: Random) -> Text:
    there = {(s.colour, s.kind) for s in scene.shapes}
    if rng.random() < 0.5:
        colour, kind = rng.choice(sorted(there))
        answer = " yes"
    else:
        absent = [(c, k) for c in COLOURS for k in KINDS if (c, k) not in there]
        near = [(c, k) for c, k in absent if any(c == tc or k == tk for tc, tk in there)]
        colour, kind = rng.choice(near if rng.random() < 0.5 else absent)
        answer = " no"
    return Text(ask(f"Is there a {colour} {kind} in this image?"), answer)


STAGES: dict[str, Callable[[list[Scene], Random, Material], list[Text]]] = {"base": base_texts, "tune": tune_texts}
CLIP_STAGES: dict[str, Callable[[Clip, Random, Material], list[Text]]] = {
    "base": base_clip_texts,
    "tune": tune_clip_texts,
}
