"""A sample's text as the prompt the model reads, and where each position lies in it. Needs the processor alone.

Positions are counted in the *expanded* ids, where one image tag has become hundreds of tokens. The character spans
come from tokenising the expanded text once more by hand; it must give the processor's very ids, which proves them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mllm_probe.errors import ConfigError, DataError, SpanError, choices
from mllm_probe.settings import PromptSettings
from mllm_probe.types import PICTURE_POSITIONS, Sample, digest

PLAIN_POSITIONS = ("last", *PICTURE_POSITIONS, "mean_text", "mean_all")
MARK_POSITIONS = ("mark", "before")


def check_position(position: str) -> None:
    """Raises ConfigError for a position that no prompt can have."""
    kind, _, name = position.partition(":")
    if position not in PLAIN_POSITIONS and (kind not in MARK_POSITIONS or not name):
        allowed = [*PLAIN_POSITIONS, *(f"{kind}:NAME" for kind in MARK_POSITIONS)]
        raise ConfigError(f"position '{position}' is unknown; {choices(position, allowed)}")


@dataclass(frozen=True)
class Prompt:
    """`text` with its chat wrapping; the sample's own text stands at `start`; `tag_end` closes the last image tag."""

    text: str
    start: int
    tag_end: int


class Prompter:
    """Wraps samples for one processor. `image_id` is the token that pictures are expanded to."""

    def __init__(self, processor: Any, settings: PromptSettings, image_id: int) -> None:
        self.processor, self.settings, self.image_id = processor, settings, image_id
        self.tokenizer = processor.tokenizer
        self.tag = self.tokenizer.convert_ids_to_tokens(image_id)

    def render(self, sample: Sample) -> Prompt:
        """The rendered prompt of a sample. Raises DataError where the text holds the image tag."""
        if self.tag in sample.text:
            raise DataError(
                f"sample {sample.uid} ({sample.images[0].name}): the text {sample.text!r} contains the image tag "
                f"{self.tag}; remove it from the caption"
            )
        text = self._wrapped(sample)
        bos = self.tokenizer.bos_token
        if bos and text.startswith(bos) and self.tokenizer("x").input_ids[0] == self.tokenizer.bos_token_id:
            text = text.removeprefix(bos)  # the tokenizer adds it: a template that writes it too would double it
        if text.count(self.tag) != len(sample.images):
            raise SpanError(
                f"the prompt holds {text.count(self.tag)} image tags for {len(sample.images)} pictures: {text!r}"
            )
        start = text.rfind(sample.text)
        if start < 0:
            raise SpanError(f"the chat template changed the sample's text {sample.text!r} into {text!r}")
        return Prompt(text, start, text.rfind(self.tag) + len(self.tag))

    def _wrapped(self, sample: Sample) -> str:
        if self.settings.chat == "off" or not getattr(self.processor, "chat_template", None):
            return f"{self.tag}\n" * len(sample.images) + sample.text
        content = [*({"type": "image"} for _ in sample.images), {"type": "text", "text": sample.text}]
        messages = [{"role": "user", "content": content}]
        if self.settings.system:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": self.settings.system}]})
        return self.processor.apply_chat_template(messages, add_generation_prompt=self.settings.generation_prompt)

    def prefix(self, sample: Sample) -> str:
        """Digest of the pictures and the prompt up to the last image tag: what image states can depend on."""
        prompt = self.render(sample)
        return digest(sample.digests, prompt.text[: prompt.tag_end])

    def layouts(self, samples: Sequence[Sample], ids: Sequence[Sequence[int]]) -> Iterator["Layout"]:
        """One layout a sample, from the processor's expanded ids [B][L without padding]. Raises SpanError."""
        prompts = [self.render(sample) for sample in samples]
        expanded = [self._expanded(prompt.text, list(row)) for prompt, row in zip(prompts, ids, strict=True)]
        again = self.tokenizer(expanded, return_offsets_mapping=True, padding=False)
        for i, sample in enumerate(samples):
            if list(again["input_ids"][i]) != list(ids[i]):
                raise SpanError(
                    f"sample {sample.uid}: the processor's ids are not those of the prompt with {self.tag} repeated, "
                    "so no text position can be trusted for this model"
                )
            shift = len(expanded[i]) - len(prompts[i].text)
            start = prompts[i].start + (shift if prompts[i].start >= prompts[i].tag_end else 0)
            yield Layout(sample, tuple(ids[i]), tuple(again["offset_mapping"][i]), start, self.image_id)

    def _expanded(self, text: str, ids: list[int]) -> str:
        """The text with every image tag repeated as often as the processor did. Equal shares unless tiled."""
        tags, tokens = text.count(self.tag), ids.count(self.image_id)
        if tokens % tags:
            raise SpanError(f"{tokens} picture tokens cannot be shared equally by {tags} pictures")
        return text.replace(self.tag, self.tag * (tokens // tags))


@dataclass(frozen=True)
class Layout:
    """One expanded prompt: token ids [L], character offsets [L], and where the sample's own text starts."""

    sample: Sample
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    start: int
    image_id: int

    def rows(self, position: str) -> list[list[int]]:
        """The stored rows of a position, each as the token indices it averages. Raises SpanError."""
        kind, _, name = position.partition(":")
        if kind in MARK_POSITIONS:
            tokens = [self._span(*self.sample.marks[mark]) for mark in self._family(name)]
            return [[span[-1] if kind == "mark" else span[0] - 1] for span in tokens]
        if position == "last":
            return [[len(self.ids) - 1]]
        if position == "mean_all":
            return [list(range(len(self.ids)))]
        if position == "mean_text":
            return [self._span(0, len(self.sample.text))]
        image = [i for i, token in enumerate(self.ids) if token == self.image_id]
        return [image] if position == "mean_image" else [image[-1:]]

    def _family(self, name: str) -> list[str]:
        """Marks named `name` or `name:anything`, in the order of the sample."""
        found = [mark for mark in self.sample.marks if mark.partition(":")[0] == name]
        if not found:
            raise SpanError(f"position mark '{name}' is not in this task's text; {choices(name, self.sample.marks)}")
        return found

    def _span(self, start: int, stop: int) -> list[int]:
        """Tokens that overlap the characters [start, stop) of the sample's own text."""
        a, b = self.start + start, self.start + stop
        tokens = [i for i, (s, e) in enumerate(self.offsets) if s < b and e > a and e > s]
        if not tokens:
            raise SpanError(f"sample {self.sample.uid}: no token covers {self.sample.text[start:stop]!r}")
        return tokens
