"""Prompts cut behind their last picture token: heads, which are computed once, and tails.

The cut is another one than that of packing, whose heads hold the first words of the statements, too. Needs a processor
and no weights. Letters in shapes: N prompts, G heads, A axes of positions (1, or 3 for pictures of rows and columns).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.prompts.collate import PER_TOKEN
from mllm_probe.models.prompts.picture_tags import POSITION_MASK
from mllm_probe.models.prompts.prompt import Layout
from mllm_probe.records.samples import Sample
from mllm_probe.records.spans import behind_from


@dataclass(frozen=True)
class CutPrompts:
    """N prompts about G pictures (or lists of pictures); neighbours in `layouts` have the same head.

    `heads` [G] are lengths, `owner` [N] which head each prompt has, `inputs` the processor's for the heads, `tails` the
    token ids and `positions` [A, length] behind them.
    """

    layouts: tuple[Layout, ...]
    owner: np.ndarray
    heads: tuple[int, ...]
    inputs: Mapping[str, Tensor]
    tails: tuple[tuple[int, ...], ...]
    positions: tuple[np.ndarray, ...]

    @cached_property
    def ends(self) -> np.ndarray:
        """The last token of each tail [N]."""
        return np.asarray([len(tail) - 1 for tail in self.tails])

    @cached_property
    def _padded(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids [N, S] and positions [A, N, S] of all tails; 0 behind their ends."""
        ids = np.zeros((len(self.tails), 1 + int(self.ends.max())), dtype=np.int64)
        where = np.zeros((self.positions[0].shape[0], *ids.shape), dtype=np.int64)
        for row, (tail, positions) in enumerate(zip(self.tails, self.positions, strict=True)):
            ids[row, : len(tail)] = tail
            where[:, row, : len(tail)] = positions
        return ids, where

    def taken(self, rows: np.ndarray, tokens: np.ndarray) -> dict[str, Tensor]:
        """Inputs of `tokens` [R, Q] of the tails of prompts `rows` [R]."""
        ids, where = self._padded
        return as_inputs(ids[rows[:, None], tokens], where[:, rows[:, None], tokens])

    def whole(self, rows: np.ndarray) -> np.ndarray:
        """The tokens of tails of `rows` [R], as many for each as the longest has: [R, Q]."""
        return np.tile(np.arange(1 + int(self.ends[rows].max())), (len(rows), 1))


def as_inputs(ids: np.ndarray, where: np.ndarray) -> dict[str, Tensor]:
    """Ids [R, S] and positions [A, R, S] as a model takes them, with a mask of four axes, which says that attention is
    somebody else's business."""
    positions = torch.from_numpy(where)
    return {
        "input_ids": torch.from_numpy(ids),
        "position_ids": positions[0] if len(where) == 1 else positions,
        "attention_mask": torch.ones(len(ids), 1, ids.shape[1], ids.shape[1], dtype=torch.bool).tril(),
    }


def cut_prompts(blueprint: Blueprint, samples: Sequence[Sample], rotary: Callable[[Any], np.ndarray]) -> CutPrompts:
    """`rotary`: inputs -> the model's own positions [A, N, L]. Raises SpanError, DataError, ModelError."""
    both = zip(samples, blueprint.prompter.tails(samples), strict=True)
    rows = [list(row) for _, row in groupby(both, key=lambda one: (one[0].digests, one[1].before))]
    first = [row[0][0] for row in rows]
    inputs = dict(blueprint.process(first))
    leading = blueprint.layouts(first, inputs)
    heads = [behind_from(layout) for layout in leading]
    real, rotated = inputs["attention_mask"].bool().numpy(), rotary(inputs)
    layouts, positions = [], []
    for g, (row, lead) in enumerate(zip(rows, leading, strict=True)):
        own = rotated[:, g, real[g]]
        delta = own[:, -1:] + 1 - own.shape[1]  # what pictures saved or added
        for sample, tail in row:
            layout = Layout(sample, lead.head, tail, lead.end, lead.image)
            blueprint.check_length(sample, len(layout.ids))
            layouts.append(layout)
            positions.append(np.arange(heads[g], len(layout.ids))[None] + delta)
    owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    tails = tuple(tuple(layout.ids[heads[g] :]) for g, layout in zip(owner, layouts, strict=True))
    pad = blueprint.processor.tokenizer.pad_token_id or 0
    made = _head_inputs(inputs, leading, heads, [rotated[:, g, real[g]] for g in range(len(rows))], pad)
    return CutPrompts(tuple(layouts), owner, tuple(heads), made, tails, tuple(positions))


def _head_inputs(
    inputs: Mapping[str, Any], leading: Sequence[Layout], heads: Sequence[int], rotated: Sequence[np.ndarray], pad: int
) -> dict[str, Tensor]:
    """What the processor made of the pictures, and the ids and positions of the heads alone, padded on the right."""
    length = max(heads)
    ids = np.full((len(heads), length), pad, dtype=np.int64)
    where = np.zeros((rotated[0].shape[0], len(heads), length), dtype=np.int64)
    pictured = np.zeros((len(heads), length), dtype=np.int64)
    for g, (layout, tokens) in enumerate(zip(leading, heads, strict=True)):
        ids[g, :tokens] = layout.ids[:tokens]
        where[:, g, :tokens] = rotated[g][:, :tokens]
        pictured[g, list(layout.image)] = 1
    more = {POSITION_MASK: torch.from_numpy(pictured)} if POSITION_MASK in inputs else {}
    kept = {name: value for name, value in inputs.items() if name not in PER_TOKEN}
    return kept | as_inputs(ids, where) | more
