"""Samples -> one Batch: the model's inputs, and which of their tokens each position reads. Needs no weights.

Plain batches give every sample a sequence of its own, as the processor makes it. Shared ones give every picture one:
the processor runs on the first of its statements, the others are tokenised behind the same head.

Packed behind that head, they are one sequence:

    columns   0 ........ P | P ..................... P + S
    row r     head, pad    | tail of statement 1, of 2, ..., pad

A tail sees its row's head and itself up to the present token, nothing of its neighbours, and its positions continue
where the head's end: every token computes what it would compute in a prompt of its own. The head is the longest common
beginning of the row's token ids, so it usually holds the first words of the statements, too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch

from mllm_probe.errors import SpanError
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.prompts.picture_slots import Scale, find_slots
from mllm_probe.models.prompts.picture_tags import POSITION_MASK
from mllm_probe.models.prompts.prompt import Layout, Tail
from mllm_probe.records.batches import Batch, Reading, common_head
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import PICKED, PICTURE_POSITIONS, Anatomy, Key, Site, of_picture

PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "position_ids", "labels")
Owners = frozenset[str] | None
Rows = Callable[[], list[np.ndarray]]


@dataclass(frozen=True)
class Packed:
    """R rows of P + S columns. `places[r][k][i]` is the flat index of token i of statement k of row r."""

    ids: np.ndarray  # [R, P + S] int64
    positions: np.ndarray  # [A, R, P + S] int64; A = 1, or 3 axes where pictures have rows and columns (M-RoPE)
    mask: np.ndarray  # [R, 1, S, P + S] bool, what each tail token sees
    columns: int  # P
    places: list[list[np.ndarray]]


def pack(rows: Sequence[Sequence[Sequence[int]]], positions: Sequence[np.ndarray], pad: int) -> Packed:
    """Pack `rows[r][k]`, the token ids of statement k of row r.

    `positions[r]` [A, L] are those of the first statement of the row; text continues them one by one.
    """
    heads = [common_head(row) for row in rows]
    columns = max(heads)
    tails = max(sum(len(ids) - head for ids in row) for row, head in zip(rows, heads, strict=True))
    width = columns + tails
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    where = np.zeros((positions[0].shape[0], len(rows), width), dtype=np.int64)
    owner = np.full((len(rows), tails), -1)
    places: list[list[np.ndarray]] = []
    for r, (row, head) in enumerate(zip(rows, heads, strict=True)):
        ids[r, :head] = row[0][:head]
        where[:, r, :head] = positions[r][:, :head]
        start, found = columns, []
        for k, tokens in enumerate(row):
            stop = start + len(tokens) - head
            ids[r, start:stop] = tokens[head:]
            where[:, r, start:stop] = _continued(positions[r], head, len(tokens))
            owner[r, start - columns : stop - columns] = k
            found.append(r * width + np.concatenate([np.arange(head), np.arange(start, stop)]))
            start = stop
        places.append(found)
    return Packed(ids, where, _mask(np.asarray(heads), owner, columns), columns, places)


def _continued(first: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Positions [A, stop - start] of text tokens: index plus what the pictures saved or added (the rope delta)."""
    delta = first[:, -1:] + 1 - first.shape[1]
    return np.arange(start, stop)[None] + delta


def _mask(heads: np.ndarray, owner: np.ndarray, columns: int) -> np.ndarray:
    """[R, 1, S, P + S]; pads see themselves, because a softmax over nothing is not a number."""
    rows, tails = owner.shape
    seen = np.zeros((rows, 1, tails, columns + tails), dtype=bool)
    seen[:, 0, :, :columns] = np.arange(columns)[None, None] < heads[:, None, None]
    seen[:, 0, :, columns:] = (owner[:, :, None] == owner[:, None, :]) & np.tri(tails, dtype=bool)
    return seen


@dataclass(frozen=True)
class Laid:
    """Prompts as they lie in one batch of `among` tokens, padding counted.

    `places[b]` are the flat indices of sample b's tokens, `which[b]` its pictures among those in `inputs`.
    """

    layouts: Sequence[Layout]
    places: Sequence[np.ndarray]
    which: Sequence[np.ndarray]
    among: int
    inputs: Mapping[str, Any]

    @property
    def pictures(self) -> int:
        return 1 + max(int(max(pictures)) for pictures in self.which)

    def tokens(self) -> list[int] | None:
        """Of each picture in the prompts [P]; None where a prompt holds several, whose tokens cannot be told apart."""
        if any(len(pictures) != 1 for pictures in self.which):
            return None
        counts = {int(p[0]): len(one.image) for one, p in zip(self.layouts, self.which, strict=True)}
        return [counts[picture] for picture in range(self.pictures)]


class Collator:
    """One thread's way to make batches.

    `scale` tells the tokens of the picture towers apart, `rotary` gives the model's own positions of processed prompts:
    inputs -> [A, B, L]. Prompts longer than the sliding `window` are not packed, for the mask of packed ones knows no
    window.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        scale: Callable[[], Scale],
        rotary: Callable[[Any], np.ndarray],
        window: int | None,
    ) -> None:
        self._blueprint, self._scale, self._rotary, self._window = blueprint, scale, rotary, window

    def plain(self, samples: Sequence[Sample], keys: Sequence[Key], owners: Owners, anatomy: Anatomy) -> Batch:
        inputs = dict(self._blueprint.process(samples))
        layouts = self._blueprint.layouts(samples, inputs)
        real = inputs["attention_mask"].bool()
        places = [b * real.shape[1] + mask.nonzero()[0] for b, mask in enumerate(real.numpy())]  # padding moves indices
        repeated, which = _distinct(samples, inputs, "connector" in anatomy.towers)
        laid = Laid(layouts, places, which, real.numel(), inputs)
        pictures = np.concatenate(which) if repeated else None
        uids = tuple(sample.uid for sample in samples)
        names = tuple(sample.name for sample in samples)
        return Batch(uids, inputs, self._readings(keys, laid, owners, anatomy), pictures=pictures, names=names)

    def shared(self, samples: Sequence[Sample], keys: Sequence[Key], owners: Owners, anatomy: Anatomy) -> Batch:
        rows = self._rows(samples)
        first = [row[0][0] for row in rows]
        inputs = dict(self._blueprint.process(first))
        heads = self._blueprint.layouts(first, inputs)
        layouts = [
            [Layout(sample, head.head, tail, head.end, head.image) for sample, tail in row]
            for row, head in zip(rows, heads, strict=True)
        ]
        flat = [layout for row in layouts for layout in row]
        for layout in flat:
            self._blueprint.check_length(layout.sample, len(layout.ids))
        if self._window and max(len(layout.ids) for layout in flat) > self._window:
            return self.plain(samples, keys, owners, anatomy)
        real, rotary = inputs["attention_mask"].bool().numpy(), self._rotary(inputs)
        positions = [rotary[:, r, real[r]] for r in range(len(rows))]
        pad = self._blueprint.processor.tokenizer.pad_token_id or 0
        packed = pack([[layout.ids for layout in row] for row in layouts], positions, pad)
        places = [place for row in packed.places for place in row]
        laid = Laid(flat, places, _of_rows(rows), packed.ids.size, inputs)
        masked = {POSITION_MASK: _pictured(flat, places, packed.ids.shape)} if POSITION_MASK in inputs else {}
        inputs = {name: value for name, value in inputs.items() if name not in PER_TOKEN} | _tensors(packed) | masked
        uids = tuple(layout.sample.uid for layout in flat)
        names = tuple(layout.sample.name for layout in flat)
        return Batch(uids, inputs, self._readings(keys, laid, owners, anatomy), shared=packed.columns, names=names)

    def _rows(self, samples: Sequence[Sample]) -> list[list[tuple[Sample, Tail]]]:
        """Neighbours with the same pictures and the same prompt before them."""
        both = zip(samples, self._blueprint.prompter.tails(samples), strict=True)
        return [list(row) for _, row in groupby(both, key=lambda one: (one[0].digests, one[1].before))]

    def _readings(
        self, keys: Sequence[Key], laid: Laid, owners: Owners, anatomy: Anatomy
    ) -> dict[tuple[str, str], Reading]:
        readings = {}
        for tower, position in dict.fromkeys((key.site.tower, key.position) for key in keys):
            once = owners is not None and anatomy.space(Key(Site(tower), position)) == "prefix"
            read = [not once or layout.sample.uid in (owners or ()) for layout in laid.layouts]
            rows, among = self._text(position, laid) if tower == "lm" else self._pictures(tower, position, laid)
            kept = [row() if reads else [] for row, reads in zip(rows, read, strict=True)]
            readings[tower, position] = Reading.of(kept, among)
        return readings

    def _text(self, position: str, laid: Laid) -> tuple[list[Rows], int]:
        """For each sample what it reads among the tokens of the language model, once it is asked."""

        def rows(layout: Layout, place: np.ndarray) -> Rows:
            return lambda: [place[segment] for segment in layout.rows(position)]

        return [rows(*one) for one in zip(laid.layouts, laid.places, strict=True)], laid.among

    def _pictures(self, tower: str, position: str, laid: Laid) -> tuple[list[Rows], int]:
        """The same among all tokens of a picture tower; class tokens before the patches are never read."""
        if not of_picture(position):
            raise SpanError(
                f"position {position} does not exist in the {tower}; use one of: {', '.join(PICTURE_POSITIONS)}"
            )
        slots = find_slots(laid.inputs, laid.pictures, laid.tokens(), self._blueprint.patch)
        spans, among = self._scale().rows(tower, slots)

        def rows(layout: Layout, pictures: np.ndarray) -> Rows:
            return lambda: _cut(np.concatenate([spans[picture] for picture in pictures]), position, layout.sample)

        return [rows(*one) for one in zip(laid.layouts, laid.which, strict=True)], among


def _pictured(layouts: Sequence[Layout], places: Sequence[np.ndarray], shape: tuple[int, ...]) -> torch.Tensor:
    """Kosmos-2's mask of picture tokens, for packed prompts."""
    mask = np.zeros(int(np.prod(shape)), dtype=np.int64)
    for layout, place in zip(layouts, places, strict=True):
        mask[place[list(layout.image)]] = 1
    return torch.from_numpy(mask.reshape(shape))


def _tensors(packed: Packed) -> dict[str, torch.Tensor]:
    """As a model takes them."""
    where = torch.from_numpy(packed.positions)
    return {
        "input_ids": torch.from_numpy(packed.ids),
        "position_ids": where[0] if len(where) == 1 else where,
        "attention_mask": torch.from_numpy(packed.mask),
    }


def _cut(tokens: np.ndarray, position: str, sample: Sample) -> list[np.ndarray]:
    """The stored rows of a picture position."""
    if position.startswith(PICKED):
        return [tokens[list(patches)] for patches in sample.picked.patches]
    if position == "tokens:image":
        return list(tokens[:, None])
    return [tokens if position == "mean_image" else tokens[-1:]]


def _of_rows(rows: Sequence[Sequence[tuple[Sample, Any]]]) -> list[np.ndarray]:
    """For each sample the numbers of its pictures, which it has in common with its row."""
    found, first = [], 0
    for row in rows:
        pictures = first + np.arange(len(row[0][0].images))
        found += [pictures] * len(row)
        first += len(pictures)
    return found


def _distinct(samples: Sequence[Sample], inputs: dict[str, Any], connected: bool) -> tuple[bool, list[np.ndarray]]:
    """Keep equal pictures once where each is one tensor of its own, which a connector can hand out again: (were there
    any, the pictures of each sample)."""
    digests = [digest for sample in samples for digest in sample.digests]
    bounds = np.cumsum([0, *(len(sample.digests) for sample in samples)])
    number = {digest: i for i, digest in enumerate(dict.fromkeys(digests))}
    pixels = inputs.get("pixel_values") if set(inputs) - set(PER_TOKEN) == {"pixel_values"} else None
    equal = connected and pixels is not None and pixels.ndim == 4 and len(pixels) == len(digests) > len(number)
    order = np.asarray([number[digest] for digest in digests]) if equal else np.arange(len(digests))
    if pixels is not None and equal:
        inputs["pixel_values"] = pixels[[digests.index(digest) for digest in number]]
    return equal, [order[start:stop] for start, stop in pairwise(bounds)]
