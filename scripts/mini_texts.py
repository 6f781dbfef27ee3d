"""What the mini model reads and learns about a scene: captions in the base stage, then questions and statements too.

Knows scenes and words, no tokens and no tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from mllm_probe.data.drawing import (
    COLOURS,
    KINDS,
    NUMBERS,
    PLACES,
    Fact,
    Scene,
    Thing,
    false_fact,
    random_scene,
    true_fact,
)

CAPTION_FORMS = ("{}", "{}", "{}.", "This image contains: {}.", "The image shows {}.")
STATEMENT_FORMS = (
    "This image contains: {}. Is this right?",
    "This image contains: {}. Is this right?",
    "Does the image show this: {}?",
    "Statement: {}. Is it true of the image?",
)


@dataclass(frozen=True)
class Text:
    """One text behind a picture: `prompt` is read, `target` is learnt."""

    prompt: str
    target: str


def base_texts(scenes: list[Scene], rng: Random) -> list[Text]:
    if len(scenes) == 1:
        captions = [Text("", rng.choice(CAPTION_FORMS).format(true_fact(scenes[0], rng).text())) for _ in range(4)]
        return captions + [
            Text(f"In the {place} there is", f" {_content(scenes[0], place)}.") for place in _places(scenes[0], rng)
        ]
    texts = []
    for _ in range(5):
        i = rng.randrange(2)
        texts.append(Text(f"The {('first', 'second')[i]} image contains:", f" {true_fact(scenes[i], rng).text()}."))
    return texts


def tune_texts(scenes: list[Scene], rng: Random) -> list[Text]:
    if len(scenes) == 2:
        return [_statement(scenes, rng.randrange(2), rng) for _ in range(5)]
    scene = scenes[0]
    shape = rng.choice(scene.shapes)
    kind = Thing(kind=shape.kind) if rng.random() < 0.5 else Thing(colour=shape.colour)
    number = NUMBERS[sum(map(kind.matches, scene.shapes))]
    place = _places(scene, rng)[0]
    listed = "a picture of " + true_fact(scene, rng).text()
    return [
        *(_statement(scenes, 0, rng) for _ in range(4)),
        _presence(scene, rng),
        _presence(scene, rng),
        Text(ask(f"How many {kind.noun(plural=True)} are there?"), f" {number}"),
        Text(ask(f"What is in the {place}?"), f" {_content(scene, place)}"),
        Text(ask("Describe the image."), f" {listed}"),
    ]


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


def _statement(scenes: list[Scene], i: int, rng: Random) -> Text:
    """A true caption, a hard false one (one change) or a caption of another scene, half of them true."""
    scene, true = scenes[i], rng.random() < 0.5
    fact = true_fact(scene, rng) if true else _other_fact(scene, rng)
    form = rng.choice(STATEMENT_FORMS)
    if len(scenes) == 2:
        form = f"The {('first', 'second')[i]} image contains: {{}}. Is this right?"
    return Text(ask(form.format(fact.text())), " yes" if true else " no")


def _other_fact(scene: Scene, rng: Random) -> Fact:
    if rng.random() < 0.5:
        return false_fact(scene, rng)
    while not (fact := true_fact(random_scene(rng), rng)).is_false_of(scene):
        pass
    return fact


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


STAGES: dict[str, Callable[[list[Scene], Random], list[Text]]] = {"base": base_texts, "tune": tune_texts}
