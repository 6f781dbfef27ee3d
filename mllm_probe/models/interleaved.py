"""Interleaved documents as a language model reads them: the place of each slice, and which tokens are predicted.

A document is written as its slices, one a line, and an end of sequence, without a chat template: those of many families
put all pictures first. The processor alone knows how a picture's tag expands, so the same text is tokenised by hand
with one token a picture; that the processor's ids hold the hand's, found alike from both ends, proves the spans.
Knows a processor, no weights and no training. B documents, L tokens, W width, P slice ends.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from mllm_probe.config.model import PLAIN
from mllm_probe.data.documents import Document
from mllm_probe.data.pictures import open_rgb
from mllm_probe.errors import ModelError, SpanError
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.caption_loss import IGNORED, LabelledBatch
from mllm_probe.models.prompts.picture_tags import pictured
from mllm_probe.records.samples import Sample

READOUTS = MEAN, LAST = "mean", "last"
Span = tuple[int, ...]


@dataclass(frozen=True)
class Rendered(LabelledBatch):
    """Documents as such a batch. `spans[b][i]` are the tokens, padding counted, of slice i of document b: a picture's
    or those of a sentence."""

    documents: tuple[Document, ...]
    spans: tuple[tuple[Span, ...], ...]

    def ends(self, states: Tensor, which: Sequence[Sequence[int]], image: str) -> Tensor:
        """States [B, L, W] -> what slices i of `which[b]` of each document b end with: [P, W] float32.

        A sentence gives the state of its last token, a picture the mean over its tokens, or its last with `image` last.
        """
        rows = []
        for b, i in ((b, i) for b, slices in enumerate(which) for i in slices):
            mean = image == MEAN and self.documents[b].slices[i].text is None
            span = self.spans[b][i] if mean else self.spans[b][i][-1:]
            rows.append(states[b, list(span)].float().mean(dim=0))
        return torch.stack(rows)


def rendered(blueprint: Blueprint, documents: Sequence[Document]) -> Rendered:
    """Raises ModelError, SpanError, DataError for documents that the model cannot read as they are."""
    processor, tag = blueprint.processor, blueprint.prompter.tag
    if tag.id is None:
        raise ModelError(
            f"{type(processor).__name__} puts the picture before the text and has no tag for it, so pictures and "
            "sentences cannot alternate; choose another model"
        )
    texts, places = zip(*(_written(blueprint, document) for document in documents), strict=True)
    pictures = [[open_rgb(picture.path) for picture in document.pictures] for document in documents]
    inputs = dict(processor(text=list(texts), images=pictures, padding=True, return_tensors="pt"))
    labels, spans = torch.full_like(inputs["input_ids"], IGNORED), []
    real, image = inputs["attention_mask"].bool(), torch.from_numpy(pictured(inputs, tag.image))
    for b, document in enumerate(documents):
        where, ids = real[b].nonzero()[:, 0], inputs["input_ids"][b]
        blueprint.check_length(_named(document), len(where))
        hand = processor.tokenizer(texts[b], return_offsets_mapping=True)
        found = _expanded(hand["input_ids"], ids[where].tolist(), image[b, where].tolist(), tag.id, document)
        covered = [_covered(hand["offset_mapping"], *place) for place in places[b]]
        spans.append(tuple(tuple(where[t].item() for h in own for t in found[h]) for own in covered))
        learnt = [where[found[h]].item() for h in _learnt(hand["input_ids"], covered, document, tag.id)]
        labels[b, learnt] = ids[learnt]
    return Rendered(inputs, labels, tuple(documents), tuple(spans))


def _written(blueprint: Blueprint, document: Document) -> tuple[str, list[tuple[int, int]]]:
    """The text with a tag for each picture, and the characters of each slice in it."""
    between = "" if blueprint.prompter.settings.chat == PLAIN else "\n"
    text, places = "", []
    for one in document.slices:
        if one.text is not None:
            blueprint.prompter.refuse_tags(Sample.of([one.picture], one.text, {}))
        text += between * bool(text)
        places.append((len(text), len(text) + len(one.text or blueprint.prompter.tag.text)))
        text += one.text or blueprint.prompter.tag.text
    return text + (blueprint.processor.tokenizer.eos_token or ""), places


def _named(document: Document) -> Sample:
    """What messages call a document."""
    return Sample(document.uid, tuple(picture.path for picture in document.pictures), (), "", {})


def _covered(offsets: Sequence[tuple[int, int]], start: int, stop: int) -> list[int]:
    """The hand's tokens that overlap the characters [start, stop)."""
    return [h for h, (s, e) in enumerate(offsets) if s < stop and e > start and e > s]


def _learnt(hand: Sequence[int], covered: Sequence[Sequence[int]], document: Document, tag: int) -> Iterator[int]:
    """The hand's tokens to predict: a sentence's, and what stands behind it up to the next picture."""
    begins = {own[0] for own, one in zip(covered, document.slices, strict=True) if one.text is not None}
    told = False
    for h, token in enumerate(hand):
        told = token != tag and (told or h in begins)
        if told:
            yield h


def _expanded(
    hand: Sequence[int], ids: Sequence[int], image: Sequence[bool], tag: int, document: Document
) -> list[list[int]]:
    """Of each token of the hand its places among the processor's ids: one, or all picture tokens. Raises SpanError."""
    found = _walk(hand, ids, image, tag)
    mirrored = _walk(hand[::-1], ids[::-1], image[::-1], tag)
    if found is None or mirrored is None or found != [[len(ids) - 1 - t for t in m[::-1]] for m in mirrored[::-1]]:
        raise SpanError(
            f"document {document.uid}: the processor's ids do not hold those of its sentences between the pictures, "
            "or not at one place only, so no slice can be trusted for this model"
        )
    return found


def _walk(hand: Sequence[int], ids: Sequence[int], image: Sequence[bool], tag: int) -> list[list[int]] | None:
    """From the left: what stands behind a tag is looked for behind a picture token, and taken where it is first."""
    found: list[list[int]] = []
    at = 0
    tags = [h for h, token in enumerate(hand) if token == tag]
    for before, stop in pairwise([-1, *tags, len(hand)]):
        text = hand[before + 1 : stop]
        first = at if before < 0 else _behind_picture(text, ids, image, at, stop == len(hand))
        if first is None or ids[first : first + len(text)] != text:
            return None
        found += [[t for t in range(at, first) if image[t]]] * (before >= 0)
        found += [[t] for t in range(first, first + len(text))]
        at = first + len(text)
    return found


def _behind_picture(text: Sequence[int], ids: Sequence[int], image: Sequence[bool], at: int, last: bool) -> int | None:
    """Where `text`, of which no token is a picture's, first stands behind a picture token that is at `at` or later; the
    last one at the end."""
    shown = next((t for t in range(at, len(ids)) if image[t]), len(ids))
    end = len(ids) - len(text)
    starts = range(max(end, shown + 1) if last else shown + 1, end + 1)
    return next((q for q in starts if ids[q : q + len(text)] == text and not any(image[q : q + len(text)])), None)
