"""A sample's text as the prompt the model reads, and where each position is in it. Needs the processor alone.

Positions are counted in the *expanded* ids, where one image tag has become hundreds of tokens. An expanded prompt is a
head (everything up to the end of the pictures, which the processor alone knows how to write), the text behind the last
tag, tokenised by hand with its character offsets, and an end that some processors add. That the processor's ids hold
the hand's ids proves the offsets; prompts about the same pictures share the head.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mllm_probe.config.model import AUTO, PLAIN, PromptSettings
from mllm_probe.errors import ConfigError, DataError, SpanError, choices, in_brief
from mllm_probe.models.prompts.picture_tags import Tag
from mllm_probe.models.prompts.templates import OPENED, STAND_IN, Wrapping, find_template
from mllm_probe.records.batches import Survey, packed
from mllm_probe.records.samples import Sample, digest
from mllm_probe.records.sites import ANSWER, PICKED

PLAIN_POSITIONS = ("last", "last_image", "mean_image", "mean_text", "mean_all")
MARK_POSITIONS = ("mark", "before")
TOKEN_SPANS = ("text", "image", "all")
SHOWN, SPREAD = 3, 16  # prompts that a plan shows, and that are rendered whole before a template is trusted
AT_ONCE = 1_024  # samples that are tokenised together: Python's lists of ids are large
CASES = (str.strip, str.lower, str.capitalize)  # of an answer, each with and without a blank before it


def check_position(position: str) -> None:
    """Raises ConfigError for a position that no prompt can have."""
    kind, _, name = position.partition(":")
    of_marks = kind in (*MARK_POSITIONS, "tokens") and name and not position.startswith(PICKED)
    if position not in PLAIN_POSITIONS and not of_marks:
        tokens = (f"tokens:{span}" for span in (*TOKEN_SPANS, "NAME"))
        allowed = [*PLAIN_POSITIONS, *(f"{kind}:NAME" for kind in MARK_POSITIONS), *tokens]
        raise ConfigError(f"position '{position}' is unknown; {choices(position, allowed)}")


@dataclass(frozen=True)
class Prompt:
    """`text` with its chat wrapping; the sample's own text stands at `start`; `tag_end` closes the last image tag."""

    text: str
    start: int
    tag_end: int


class Prompter:
    """Wraps samples for one processor, which is told of pictures by `tag`."""

    def __init__(self, processor: Any, settings: PromptSettings, tag: Tag) -> None:
        self.processor, self.settings, self.tag = processor, settings, tag
        self.tokenizer = processor.tokenizer
        image = "" if tag.image is None else self.tokenizer.convert_ids_to_tokens(tag.image)
        reserved = {getattr(processor, "video_token", None): "video", tag.text: "image", image: "image"}
        self._reserved = [(sign, kind) for sign, kind in reserved.items() if sign]
        self._frames: dict[int, tuple[str, str]] = {}

    @cached_property
    def _wrapping(self) -> Wrapping | None:
        """By a chat template; a base model has none."""
        template = find_template(self.processor) if self.settings.chat == AUTO else None
        return Wrapping(self.processor, template, self.settings, self.tag.text) if template else None

    @property
    def templated(self) -> bool:
        """Whether a chat template wraps the text."""
        return self._wrapping is not None

    def render(self, sample: Sample) -> Prompt:
        """The rendered prompt of a sample. Raises DataError where the text holds a tag."""
        self.refuse_tags(sample)
        text, tag = self._wrapped(len(sample.images), sample.text), self.tag.text
        if tag and text.count(tag) != len(sample.images):
            raise SpanError(
                f"the prompt holds {text.count(tag)} image tags for {len(sample.images)} pictures: {in_brief(text)}"
            )
        before, after = self._frame(len(sample.images))
        start, tag_end = len(before), text.rfind(tag) + len(tag) if sample.images and tag else 0
        if text != before + sample.text + after or start < tag_end:
            raise SpanError(
                f"the text {in_brief(sample.text)} must stay unchanged after the picture, but the chat template made "
                f"{in_brief(text)}"
            )
        return Prompt(text, start, tag_end)

    def refuse_tags(self, sample: Sample) -> None:
        """Raises DataError where the text holds what stands for a picture."""
        for tag, kind in self._reserved:
            if tag in sample.text:
                raise DataError(
                    f"sample {sample.uid} ({sample.name}): the text {in_brief(sample.text)} contains the {kind} tag "
                    f"{tag}; remove it from the caption"
                )

    def _frame(self, pictures: int) -> tuple[str, str]:
        """What stands before and behind the sample's text, seen where a stand-in takes its place."""
        if pictures not in self._frames:
            before, _, after = self._wrapped(pictures, STAND_IN).partition(STAND_IN)
            self._frames[pictures] = before, after
        return self._frames[pictures]

    def _wrapped(self, pictures: int, text: str) -> str:
        wrapped, added = self._templated(pictures, text), self._added
        return wrapped.removeprefix(added) if added else wrapped

    @cached_property
    def _added(self) -> str:
        """What the tokenizer writes before a text; a template that writes it too would double it."""
        bos = self.tokenizer.bos_token
        return bos if bos and self.tokenizer("x").input_ids[:1] == [self.tokenizer.bos_token_id] else ""

    def _templated(self, pictures: int, text: str) -> str:
        if self.settings.chat == PLAIN:
            return self.tag.text * pictures + text
        if self._wrapping is None:
            return f"{self.tag.text}\n" * pictures + text if self.tag.text else text
        return self._wrapping(pictures, text)

    def turn(self, sample: Sample) -> str:
        """What the generation prompt writes behind a sample's prompt, where the template has one."""
        bare = Prompter(self.processor, replace(self.settings, generation_prompt=False), self.tag)
        text, without = self.render(sample).text, bare.render(sample).text
        return text.removeprefix(without) if text.startswith(without) else ""

    def survey(self, samples: Sequence[Sample]) -> Survey:
        """Render and tokenise all once. The pictures' own tokens are not known yet and count as none."""
        if self._wrapping:
            for sample in samples[:: 1 + len(samples) // SPREAD]:
                self._wrapping.check(len(sample.images), [sample.text])
        number: dict[tuple[tuple[str, ...], str], int] = {}
        prefix, lengths, ids, tokenised = array("I"), array("i"), array("i"), self._tokenised
        for start in range(0, len(samples), AT_ONCE):
            some = samples[start : start + AT_ONCE]
            prompts = [self.render(sample) for sample in some]
            texts = list({prompt.text: None for prompt in prompts})
            rows = tokenised(texts)
            if start == 0 and len(samples) > AT_ONCE and self._without_places(texts) == rows:
                tokenised = self._without_places  # a third faster
            ids_of = dict(zip(texts, rows, strict=True))
            for sample, prompt in zip(some, prompts, strict=True):
                row = ids_of[prompt.text]
                head = sample.digests, prompt.text[: prompt.tag_end]
                prefix.append(number.setdefault(head, len(number)))
                lengths.append(len(row))
                ids.extend(row)
        return Survey(
            uids=packed([sample.uid for sample in samples]),
            prefix=np.asarray(prefix),
            prefixes=packed([digest(*head) for head in number]),
            flat=np.asarray(ids),
            bounds=np.cumsum([0, *lengths]),
            picture_tokens=0,
            prompts=tuple(self.render(sample).text for sample in samples[:SHOWN]),
        )

    def _tokenised(self, texts: list[str]) -> list[list[int]]:
        found = self.tokenizer(texts, padding=False, return_attention_mask=False, return_token_type_ids=False)
        return list(found["input_ids"])

    def _without_places(self, texts: list[str]) -> list[list[int]]:
        """By the tokenizer's backend as it is set, which does not note then where in a text each token stands; none
        where it has no backend."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return [one.ids for one in backend.encode_batch_fast(texts)] if backend else []

    def tails(self, samples: Sequence[Sample]) -> list["Tail"]:
        """What stands behind the last image tag, tokenised by hand; of a prompt without a tag, all of it."""
        prompts = [self.render(sample) for sample in samples]
        leads = [(self.tag.text or self.tag.lead) if sample.images else "" for sample in samples]
        texts = [lead + prompt.text[prompt.tag_end :] for lead, prompt in zip(leads, prompts, strict=True)]
        found = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, padding=False)
        tails = []
        rows = zip(prompts, leads, found["input_ids"], found["offset_mapping"], strict=True)
        for prompt, lead, ids, offsets in rows:
            first = ids.index(self.tag.id) + 1 if lead and self.tag.text else 0
            shift = prompt.start - prompt.tag_end + len(lead)
            spans = tuple((start - shift, stop - shift) for start, stop in offsets[first:])
            tails.append(Tail(prompt.text[: prompt.tag_end], tuple(ids[first:]), spans))
        return tails

    def layout(self, sample: Sample, tail: "Tail", ids: Sequence[int], image: Sequence[int]) -> "Layout":
        """Find the hand's tail in the processor's ids [L, padding left out], behind the picture tokens `image`.

        Raises SpanError.
        """
        row, length = tuple(ids), len(tail.ids)
        behind = image[-1] if len(image) else -1
        for start in range(len(row) - length, behind, -1):
            if row[start : start + length] == tail.ids:
                return Layout(sample, row[:start], tail, row[start + length :], tuple(image))
        raise SpanError(
            f"sample {sample.uid}: the processor's ids do not contain those of the text after "
            f"{self.tag.text or 'the picture'}, so no text position can be trusted for this model"
        )

    def answers(self, words: Sequence[str]) -> list[list[int]]:
        """For each word the ids that may begin it, whatever its case. Raises ConfigError where words begin alike, and
        where no answer begins behind the prompt."""
        if opened := OPENED.search(self._wrapped(0, STAND_IN)):
            raise ConfigError(
                f"extract.answers={list(words)}: the chat template ends in {opened[0].strip()}, so the model thinks "
                "first and its answer does not begin there; set extract.answers=null, or prompt.chat=off"
            )
        spelled = [[blank + case(word) for case in CASES for blank in ("", " ")] for word in words]
        found = [{self.tokenizer.encode(text, add_special_tokens=False)[0] for text in one} for one in spelled]
        alike = set.intersection(*found) | {self.tokenizer.unk_token_id}
        own = [sorted(ids - alike) for ids in found]
        if not all(own):
            raise ConfigError(
                f"extract.answers={list(words)}: the words begin with the same token, so the model's answers cannot "
                "be distinguished; choose two that differ, or null"
            )
        return own

    def layouts(
        self, samples: Sequence[Sample], ids: Sequence[Sequence[int]], images: Sequence[Sequence[int]]
    ) -> Iterator["Layout"]:
        """One layout a sample, each proven against the processor's own ids [B][L], of which `images` [B] are the places
        of picture tokens. Raises SpanError."""
        for sample, tail, row, image in zip(samples, self.tails(samples), ids, images, strict=True):
            yield self.layout(sample, tail, row, image)


@dataclass(frozen=True)
class Tail:
    """Token ids behind the pictures and their character offsets, counted in the sample's own text; `before` is the
    prompt up to there, with one tag for each picture."""

    before: str
    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Layout:
    """One expanded prompt: the head with the pictures, the tail with the sample's text, the processor's end. `image`
    are the picture tokens in the head."""

    sample: Sample
    head: tuple[int, ...]
    tail: Tail
    end: tuple[int, ...]
    image: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return self.head + self.tail.ids + self.end

    def rows(self, position: str) -> list[list[int]]:
        """The stored rows of a position, each as the token indices it averages. Raises SpanError."""
        kind, _, name = position.partition(":")
        if position.startswith(PICKED):
            return [[self.image[token]] for token in self.sample.picked.tokens]
        if kind == "tokens":
            return [[token] for token in self._tokens(name)]
        if kind in MARK_POSITIONS:
            spans = [self.span(mark) for mark in self._family(name)]
            return [[span[-1] if kind == "mark" else span[0] - 1] for span in spans]
        length = len(self.head) + len(self.tail.ids) + len(self.end)
        if position == "last" or kind == ANSWER:
            return [[length - 1]]
        if position == "last_image":
            return [self._tokens("image")[-1:]]
        return [self._tokens(position.removeprefix("mean_"))]

    def _tokens(self, span: str) -> list[int]:
        """Tokens of a named span: `text` (the sample's own), `image`, `all`, or the marks of one name."""
        if span == "text":
            return self._span(0, len(self.sample.text))
        if span == "all":
            return list(range(len(self.ids)))
        if span == "image":
            return list(self.image)
        return [token for mark in self._family(span) for token in self.span(mark)]

    def span(self, mark: str) -> list[int]:
        """The tokens of one mark. Raises SpanError."""
        return self._span(*self.sample.marks[mark])

    def _family(self, name: str) -> list[str]:
        """Marks named `name` or `name:anything`, in the order of the sample."""
        found = [mark for mark in self.sample.marks if mark.partition(":")[0] == name]
        if not found:
            raise SpanError(f"position mark '{name}' is not in this task's text; {choices(name, self.sample.marks)}")
        return found

    def _span(self, start: int, stop: int) -> list[int]:
        """Tokens that overlap the characters [start, stop) of the sample's own text."""
        first = len(self.head)
        spans = enumerate(self.tail.offsets, first)
        tokens = [i for i, (s, e) in spans if s < stop and e > start and e > s]
        if not tokens:
            raise SpanError(f"sample {self.sample.uid}: no token covers {self.sample.text[start:stop]!r}")
        return tokens
