"""Samples -> one Batch: the model's inputs, and which of their tokens each position reads. Needs no weights.

Plain batches give every sample a sequence of its own, as the processor makes it. Shared ones give every picture one:
the processor runs on the first of its statements, the others are tokenised behind the same head.
"""

from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch

from mllm_probe.batches import Batch, Reading
from mllm_probe.errors import SpanError
from mllm_probe.models.blueprint import Blueprint, check_whole
from mllm_probe.models.packing import pack
from mllm_probe.models.prompt import Layout
from mllm_probe.types import PICTURE_POSITIONS, Anatomy, Key, Sample, Site

PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "position_ids")
Owners = frozenset[str] | None


class Collator:
    """One thread's way to make batches.

    `grid` is (patch size, class tokens before the patches) of the vision tower, `rotary` the model's own positions
    of processed prompts: inputs -> [A, B, L].
    """

    def __init__(self, blueprint: Blueprint, grid: tuple[int, int], rotary: Callable[[Any], np.ndarray]) -> None:
        self._blueprint, self._grid, self._rotary = blueprint, grid, rotary

    def plain(self, samples: Sequence[Sample], keys: Sequence[Key], owners: Owners, anatomy: Anatomy) -> Batch:
        inputs = dict(self._blueprint.process(samples))
        layouts = self._blueprint.layouts(samples, inputs)
        real = inputs["attention_mask"].bool()
        first = real.int().argmax(dim=1).tolist()  # left padding moves every index
        places = [b * real.shape[1] + first[b] + np.arange(len(layout.ids)) for b, layout in enumerate(layouts)]
        shown, which = _distinct(samples, inputs)
        readings = self._readings(keys, layouts, places, real.numel(), which, inputs, owners, anatomy)
        pictures = np.concatenate(which) if shown else None
        return Batch(tuple(sample.uid for sample in samples), inputs, readings, pictures=pictures)

    def shared(self, samples: Sequence[Sample], keys: Sequence[Key], owners: Owners, anatomy: Anatomy) -> Batch:
        blueprint = self._blueprint
        both = zip(samples, blueprint.prompter.tails(samples), strict=True)
        rows = [list(row) for _, row in groupby(both, key=lambda one: (one[0].digests, one[1].before))]
        inputs = dict(blueprint.process([row[0][0] for row in rows]))
        heads = blueprint.layouts([row[0][0] for row in rows], inputs)
        layouts = [
            [Layout(sample, head.head, tail, head.end, head.image_id) for sample, tail in row]
            for row, head in zip(rows, heads, strict=True)
        ]
        real = inputs["attention_mask"].bool().numpy()
        rotary = self._rotary(inputs)
        positions = [rotary[:, r, real[r]] for r in range(len(rows))]
        ids = [[layout.ids for layout in row] for row in layouts]
        packed = pack(ids, positions, blueprint.processor.tokenizer.pad_token_id or 0)
        where = torch.from_numpy(packed.positions)
        inputs = {name: value for name, value in inputs.items() if name not in PER_TOKEN} | {
            "input_ids": torch.from_numpy(packed.ids),
            "position_ids": where[0] if len(where) == 1 else where,
            "attention_mask": torch.from_numpy(packed.mask),
        }
        flat = [layout for row in layouts for layout in row]
        readings = self._readings(
            keys,
            flat,
            [place for row in packed.places for place in row],
            packed.ids.size,
            _of_rows(rows),
            inputs,
            owners,
            anatomy,
        )
        return Batch(tuple(layout.sample.uid for layout in flat), inputs, readings, shared=packed.columns)

    def _readings(
        self,
        keys: Sequence[Key],
        layouts: Sequence[Layout],
        places: Sequence[np.ndarray],
        among: int,
        which: Sequence[np.ndarray],
        inputs: Any,
        owners: Owners,
        anatomy: Anatomy,
    ) -> dict[tuple[str, str], Reading]:
        """`places[b]` are the flat indices of a sample's tokens, `which[b]` its pictures among those in the inputs."""
        readings = {}
        for tower, position in dict.fromkeys((key.site.tower, key.position) for key in keys):
            once = anatomy.space(Key(Site(tower), position)) == "prefix"
            read = [owners is None or not once or layout.sample.uid in owners for layout in layouts]
            if tower == "lm":
                found = [
                    [place[segment] for segment in layout.rows(position)] if reads else []
                    for layout, place, reads in zip(layouts, places, read, strict=True)
                ]
            else:
                found, among_here = self._pictures(tower, position, layouts[0], which, read, inputs)
            readings[tower, position] = Reading.of(found, among if tower == "lm" else among_here)
        return readings

    def _pictures(
        self, tower: str, position: str, one: Layout, which: Sequence[np.ndarray], read: list[bool], inputs: Any
    ) -> tuple[list[list[np.ndarray]], int]:
        """Rows among [pictures * tokens per picture]; class tokens before the patches are never read."""
        if position not in PICTURE_POSITIONS:
            raise SpanError(
                f"position {position} does not exist in the {tower}; use one of: {', '.join(PICTURE_POSITIONS)}"
            )
        pixels = inputs["pixel_values"]
        check_whole(pixels, tower)
        per_picture, leading = one.head.count(one.image_id) // len(one.sample.images), 0
        if tower == "vision":
            patch, leading = self._grid
            per_picture = (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch) + leading
        rows = []
        for pictures, reads in zip(which, read, strict=True):
            spans = [np.arange(p * per_picture + leading, (p + 1) * per_picture) for p in pictures] if reads else []
            tokens = np.concatenate(spans) if spans else np.zeros(0, dtype=np.int64)
            rows.append(_cut(tokens, position) if reads else [])
        return rows, len(pixels) * per_picture


def _cut(tokens: np.ndarray, position: str) -> list[np.ndarray]:
    """The stored rows of a picture position."""
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


def _distinct(samples: Sequence[Sample], inputs: dict[str, Any]) -> tuple[bool, list[np.ndarray]]:
    """Keep equal pictures once where each is one tensor of its own: (were there any, the pictures of each sample)."""
    digests = [digest for sample in samples for digest in sample.digests]
    bounds = np.cumsum([0, *(len(sample.digests) for sample in samples)])
    number = {digest: i for i, digest in enumerate(dict.fromkeys(digests))}
    alone = set(inputs) - set(PER_TOKEN) == {"pixel_values"}
    pixels = inputs["pixel_values"]
    equal = alone and pixels.ndim == 4 and len(pixels) == len(digests) > len(number)
    order = np.asarray([number[digest] for digest in digests]) if equal else np.arange(len(digests))
    if equal:
        inputs["pixel_values"] = pixels[[digests.index(digest) for digest in number]]
    return equal, [order[start:stop] for start, stop in pairwise(bounds)]
