"""One sample as the processor writes it, token by token, in words a person can read. Needs no weights.

Knows which tokens a position reads by the layout alone, which is what an extraction goes by. Read back from JSON it
needs no processor either, nor transformers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mllm_probe.models.prompts.prompt import Layout, Tail
from mllm_probe.records.samples import Sample

if TYPE_CHECKING:
    from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.prompts.templates import described

PART = "\ufffd"  # what a decoder writes for a part of a character
MOST_PARTS = 4  # tokens of one character: the bytes it has in UTF-8
PICTURE = "picture"  # what a picture's token is called where it has the id of a word


@dataclass(frozen=True)
class Rendering:
    """`pieces` [L] are the texts of the tokens; those at `special` are the tokenizer's signs, a picture's left out.

    `template` says how the prompt is wrapped. `bos` is how often the token that opens a text is there, `opening` what
    it looks like (empty: the tokenizer has none). `turn` is what the generation prompt adds. `pixels` is the shape of
    what the processor made of the pictures.
    """

    prompt: str
    layout: Layout
    pieces: tuple[str, ...]
    special: tuple[int, ...]
    opening: str
    bos: int
    templated: bool
    template: str
    turn: str
    pixels: tuple[int, ...]

    @classmethod
    def of(cls, blueprint: "Blueprint", sample: Sample) -> "Rendering":
        """Raises ModelError, SpanError, DataError as an extraction would."""
        inputs, prompter = blueprint.process([sample]), blueprint.prompter
        (layout,) = blueprint.layouts([sample], inputs)
        tokenizer, ids = prompter.tokenizer, layout.ids
        named = PICTURE if prompter.tag.image is None else tokenizer.convert_ids_to_tokens(prompter.tag.image)
        special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        image = set(layout.image)
        pieces = [named if place in image else piece for place, piece in enumerate(spelled(tokenizer, ids))]
        return cls(
            prompt=prompter.render(sample).text,
            layout=layout,
            pieces=tuple(pieces),
            special=tuple(place for place, number in enumerate(ids) if number in special and place not in image),
            opening=tokenizer.bos_token or "",
            bos=ids.count(tokenizer.bos_token_id),
            templated=prompter.templated,
            template=described(prompter.processor, prompter.settings),
            turn=prompter.turn(sample),
            pixels=tuple(inputs["pixel_values"].shape) if "pixel_values" in inputs else (),
        )

    def to_json(self) -> dict[str, Any]:
        """All but the sample, whose uid finds it again."""
        layout = self.layout
        parts = {"head": layout.head, "before": layout.tail.before, "tail": layout.tail.ids, "end": layout.end}
        places = {"offsets": layout.tail.offsets, "image": layout.image}
        return {**vars(self), "layout": {**parts, **places}}

    @classmethod
    def from_json(cls, sample: Sample, stored: Mapping[str, Any]) -> "Rendering":
        """Raises KeyError or TypeError for what `to_json` did not write."""
        parts = stored["layout"]
        offsets = tuple((start, stop) for start, stop in parts["offsets"])
        tail = Tail(parts["before"], tuple(parts["tail"]), offsets)
        layout = Layout(sample, tuple(parts["head"]), tail, tuple(parts["end"]), tuple(parts["image"]))
        lists = {name: tuple(stored[name]) for name in ("pieces", "special", "pixels")}
        return cls(**{**stored, **lists, "layout": layout})


def spelled(tokenizer: Any, ids: Sequence[int]) -> Iterator[str]:
    """What each token adds to the text of those before it: alone, many decoders drop the blank a word begins with.

    Of a character that several tokens make up, the last has it and the others are PART.
    """
    before: list[int] = []
    held: list[int] = []
    for number in ids:
        held.append(number)
        known, text = (tokenizer.decode(some, clean_up_tokenization_spaces=False) for some in (before, before + held))
        added = text[len(known) :] if text.startswith(known) else tokenizer.decode(held)
        if added.endswith(PART) and len(held) < MOST_PARTS:
            yield PART
            continue
        yield added
        before, held = [number], []
