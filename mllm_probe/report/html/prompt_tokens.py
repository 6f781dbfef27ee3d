"""What is shown of one sample: its prompt token by token, where each position reads, and its labels.

Places come from the layout that an extraction goes by; nothing is tokenised and no position is found here.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.data.pictures import size_of
from mllm_probe.records.samples import Decision, label_said
from mllm_probe.records.sites import Anatomy, Site
from mllm_probe.report.figures.style import of_positions

if TYPE_CHECKING:
    from mllm_probe.models.prompts.rendering import Rendering

POSITION, MARK = "position", "mark"
BLANKS = {" ": "␣", "\n": "↵", "\t": "⇥"}
PLAIN = {" ": " ", "\n": "↵\n"}  # of whole texts
HINT = "counted from 0; ␣ blank, ↵ new line"
INKS = {"#0072B2": "#ffffff"}  # black on the other colours
MOST_RUNS = 3  # of tokens, spelled out


@dataclass(frozen=True)
class Shown:
    """A picture file and its size in pixels."""

    path: str
    width: int
    height: int


@dataclass(frozen=True)
class Spot:
    """A position or a mark. `rows` are the stored rows, each as the token indices it averages; of a mark its tokens.

    `sign` stands for it at the tokens: a letter for a position, a number for a mark.
    """

    sign: str
    kind: str
    name: str
    rows: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> frozenset[int]:
        return frozenset(token for row in self.rows for token in row)

    @property
    def title(self) -> str:
        return f"mark {self.name}" if self.kind == MARK else self.name

    @property
    def said(self) -> str:
        """Where it is, and how several tokens become one row."""
        tokens = sorted(self.tokens)
        if not tokens:
            return "not in the language model; read in the picture towers"
        where = f"token{'s' * (len(tokens) > 1)} {_runs(tokens)}"
        if self.kind == MARK:
            return where
        if len(self.rows) > 1:
            return f"{len(self.rows)} rows: {where}"
        return where if len(tokens) == 1 else f"mean of {len(tokens)} {where}"


@dataclass(frozen=True)
class Piece:
    """One token, or `count` neighbours that stand for a picture and are read by the same spots; `index` is the first.

    `signs` are those of the spots that read it; `starts` those of which a stored row begins here.
    """

    index: int
    count: int
    id: int
    text: str
    special: bool
    signs: tuple[str, ...]
    starts: tuple[str, ...]


@dataclass(frozen=True)
class Label:
    """A decision, what its label is called, and its split with the first of the run's seeds."""

    target: str
    label: int | float
    name: str
    split: str
    mark: str | None
    head: str | None
    strata: Mapping[str, str]
    template: str
    given: bool


@dataclass(frozen=True)
class Inspection:
    """`template` says how the text is wrapped, `bos` how often `opening`, the token that opens a text, is there; `turn`
    is what the generation prompt adds;
    `pixels` is the shape of what the processor makes of the pictures, all of them together."""

    uid: str
    pictures: tuple[Shown, ...]
    text: str
    prompt: str
    templated: bool
    template: str
    turn: str
    opening: str
    bos: int
    pixels: tuple[int, ...]
    tokens: int
    pieces: tuple[Piece, ...]
    spots: tuple[Spot, ...]
    labels: tuple[Label, ...]

    @property
    def framing(self) -> str:
        """How the text became a prompt."""
        if not self.templated:
            return self.template
        said = f"it ends with the generation prompt {self.turn!r}" if self.turn else "no generation prompt"
        return f"{self.template}; {said}"

    @property
    def beginning(self) -> str:
        if not self.opening:
            return "this tokenizer has no token for the beginning"
        times = {0: "is not there", 1: "is there once"}.get(self.bos, f"is there {self.bos} times")
        return f"{self.opening} {times}"

    @property
    def warning(self) -> str:
        """Empty where nothing looks wrong: in ChatML the same token opens a prompt and each of its turns."""
        if not self.opening:
            return ""
        if self.opening in self.text:
            return f"the text holds {self.opening}, which opens a prompt; remove it from the text"
        added = self.opening if self.bos > self.prompt.count(self.opening) else ""
        first, *rest = (added + self.prompt).split(self.opening)
        if first or len(rest) < 2 or rest[0].strip():
            return ""
        return (
            f"the prompt begins with {self.opening} twice; set prompt.chat=off, or fix the checkpoint's chat template"
        )


def inspection(
    rendering: "Rendering",
    decisions: Sequence[Decision],
    split: Mapping[str, str],
    positions: Sequence[str],
    anatomy: Anatomy,
    names: Sequence[str] = (),
) -> Inspection:
    """`decisions` are those about the sample, whose labels have `names`; `split` names that of each group. Raises
    SpanError."""
    sample, layout = rendering.layout.sample, rendering.layout
    spots = _spots(rendering, positions, anatomy)
    return Inspection(
        uid=sample.uid,
        pictures=tuple(_shown(path) for path in sample.images),
        text=sample.text,
        prompt=rendering.prompt,
        templated=rendering.templated,
        template=rendering.template,
        turn=rendering.turn,
        opening=rendering.opening,
        bos=rendering.bos,
        pixels=rendering.pixels,
        tokens=len(layout.ids),
        pieces=_pieces(rendering, spots),
        spots=spots,
        labels=tuple(
            Label(d.target, d.label, said, split[d.group], d.mark, d.head, dict(d.strata), d.template, d.given)
            for d in decisions
            for said in [label_said(names, d.label)]
        ),
    )


def _shown(path: Path) -> Shown:
    return Shown(str(path), *size_of(path))


def _spots(rendering: "Rendering", positions: Sequence[str], anatomy: Anatomy) -> tuple[Spot, ...]:
    """The positions in the order of the config, then the marks in that of the text."""
    layout, text = rendering.layout, Site("lm")
    spots = []
    for i, position in enumerate(dict.fromkeys(positions)):
        rows = layout.rows(position) if anatomy.has(text, position) else []
        spots.append(Spot(_letters(i), POSITION, position, tuple(map(tuple, rows))))
    for i, mark in enumerate(layout.sample.marks, 1):
        spots.append(Spot(str(i), MARK, mark, (tuple(layout.span(mark)),)))
    return tuple(spots)


def _letters(number: int) -> str:
    """A to Z, then AA: 26 positions are more than anybody reads."""
    return "A" * (number // 26) + chr(ord("A") + number % 26)


def _pieces(rendering: "Rendering", spots: Sequence[Spot]) -> tuple[Piece, ...]:
    """Neighbouring tokens of a picture become one piece where the same spots read them."""
    layout, image, special = rendering.layout, set(rendering.layout.image), set(rendering.special)
    reading = {spot.sign: spot.tokens for spot in spots}
    opening = {spot.sign: {row[0] for row in spot.rows if row} for spot in spots}

    def alike(index: int) -> tuple[tuple[str, ...], int | None]:
        signs = tuple(sign for sign, tokens in reading.items() if index in tokens)
        return signs, None if index in image else index

    pieces = []
    for (signs, _), group in groupby(range(len(layout.ids)), key=alike):
        run = list(group)
        first = run[0]
        starts = tuple(sign for sign in signs if opening[sign].intersection(run))
        text = rendering.pieces[first]
        pieces.append(Piece(first, len(run), layout.ids[first], text, first in special, signs, starts))
    return tuple(pieces)


def _runs(tokens: Sequence[int]) -> str:
    """`3-38, 41`; of many runs the ends alone."""
    starts = [i for i, token in enumerate(tokens) if i == 0 or tokens[i - 1] + 1 != token]
    if len(starts) > MOST_RUNS:
        return f"{tokens[0]} to {tokens[-1]}, not all"
    runs = [(tokens[a], tokens[b - 1]) for a, b in zip(starts, [*starts[1:], len(tokens)], strict=True)]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def colours(spots: Sequence[Spot]) -> dict[str, tuple[str, str]]:
    """{sign: (ink, colour)}."""
    own = of_positions([spot.title for spot in spots])
    found = {spot.sign: own[spot.title] for spot in spots}
    return {sign: (INKS.get(colour, "#000000"), colour) for sign, colour in found.items()}


def facts(one: Inspection) -> Iterator[tuple[str, str]]:
    """What is said of a sample beside its tokens, each with its name; nothing hides in it, see `visible`."""
    for picture in one.pictures:
        yield "picture", visible(f"{picture.path}, {picture.width} x {picture.height} px", PLAIN)
    if one.pixels:
        yield "pixels", f"{' x '.join(map(str, one.pixels))}, after the processor"
    yield "text", visible(one.text, PLAIN)
    yield "prompt", visible(one.prompt, PLAIN)
    yield "chat", one.framing
    yield "begins", visible(one.beginning, PLAIN)
    for label, times in Counter(map(_words, one.labels)).items():
        yield "label", visible(label, PLAIN) + (f"; {times} decisions" if times > 1 else "")


def _words(label: Label) -> str:
    """A decision in a line."""
    named = ", ".join(f"{name}={value}" for name, value in sorted(label.strata.items()))
    more = [f"other wording: {label.template}"] if label.template else []
    more += ["the prompt contains the label"] if label.given else []
    more += [f"read at {label.mark}"] if label.mark else []
    return "; ".join([f"{label.target}: {label.name}, {label.split}", *filter(None, [named]), *more])


def lanes(spots: Sequence[Spot]) -> list[list[Spot]]:
    """As few lines as hold all spots without two of them at one token, in their order."""
    found: list[list[Spot]] = []
    for spot in spots:
        free = (lane for lane in found if not any(spot.tokens & other.tokens for other in lane))
        lane = next(free, None)
        if lane is None:
            found.append(lane := [])
        lane.append(spot)
    return found


def visible(text: str, blanks: Mapping[str, str] = BLANKS) -> str:
    """A text in which nothing hides: blanks have signs, and what no printer shows stands as its code."""
    return "".join(blanks.get(c, c if c.isprintable() else ascii(c)[1:-1]) for c in text)
