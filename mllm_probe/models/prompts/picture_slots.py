"""Where each picture of a batch is in the picture towers: cut into tiles, packed into patches, or one tensor each.

A tower sees a row of slots (a tile, a patch), each of as many tokens; which slots are a picture's is said by the
processor's inputs, and how many tokens a slot has in a tower is measured on the loaded model (`Scale`). The hook then
counts the tokens that really came.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from mllm_probe.errors import ModelError


class Enough(Exception):
    """Raised inside a pass that has shown what it was for."""


@dataclass(frozen=True)
class Slots:
    """`which[p]` are the slots of picture p among `total`; `patches` is how many of its tokens a slot has as patches in
    the vision tower (0: the slot is the patch), `text` how many tokens of text go with a slot into a Q-Former."""

    which: tuple[np.ndarray, ...]
    total: int
    patches: int = 0
    text: int = 0


@dataclass(frozen=True)
class Scale:
    """Tokens of a slot in each picture tower (text left out); `leading` of them (class, registers) stand before its
    patches in the vision tower."""

    tokens: Mapping[str, Fraction]
    leading: int = 0

    def rows(self, tower: str, slots: Slots) -> tuple[list[np.ndarray], int]:
        """For each picture its tokens among all of the tower, those before and behind its patches left out."""
        each = self.tokens[tower] + (slots.text if tower == "qformer" else 0)
        among = int(slots.total * each)
        if tower == "qformer" or (tower == "vision" and slots.patches):
            first, count = (0, int(self.tokens[tower])) if tower == "qformer" else (self.leading, slots.patches)
            own = np.arange(first, first + count)
            return [(which[:, None] * int(each) + own).ravel() for which in slots.which], among
        ends = [(int(int(which[0]) * each), int((int(which[-1]) + 1) * each)) for which in slots.which]
        return [np.arange(start, stop) for start, stop in ends], among


def find_slots(inputs: Mapping[str, Any], pictures: int, tokens: Sequence[int] | None, patch: int) -> Slots:
    """From the processor's `inputs` for P `pictures` of `tokens` [P] each in the prompts (None: not known one by one).

    `patch` is the side of a patch in pixels. Raises ModelError where the inputs do not say.
    """
    if "pixel_values" not in inputs:
        raise ModelError(f"the processor gives {', '.join(inputs)} and no pixel values; use layers.towers=[lm]")
    pixels = inputs["pixel_values"]
    if "image_grid_thw" in inputs:  # Qwen: patches of all pictures in one row
        return _row([int(grid.prod()) for grid in inputs["image_grid_thw"]])
    if pixels.ndim == 4 and "image_sizes" in inputs:  # Pixtral: the same, of pictures padded to one size
        return _row([int(h) // patch * (int(w) // patch) for h, w in inputs["image_sizes"]])
    sides = (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch)
    if pixels.ndim == 4 and len(pixels) == pictures:
        told = inputs.get("qformer_input_ids")
        return replace(_row([1] * pictures, sides), text=0 if told is None else told.shape[1])
    if pixels.ndim == 6:  # Mllama: the same number of tiles each, the rest of them empty
        tiles = inputs["aspect_ratio_mask"].reshape(pictures, -1).sum(dim=1).tolist()
        most = pixels.shape[2]
        return Slots(tuple(p * most + np.arange(n) for p, n in enumerate(tiles)), pictures * most, sides)
    if pixels.ndim == 5 and len(pixels) == pictures:  # tiles filled up with empty ones, which the model drops
        return _row(pixels.flatten(2).any(dim=2).sum(dim=1).tolist(), sides)
    total = int(pixels.flatten(2).any(dim=2).sum()) if pixels.ndim == 5 else len(pixels)
    return _row(_shares(total, tokens, pixels), sides)


def first_states(blocks: nn.Module, forward: Callable[[], object]) -> torch.Tensor:
    """[..., L, D]: what the first block of a tower is given in a pass, which ends there. On the meta device, too."""
    seen: list[torch.Tensor] = []

    def look(_block: nn.Module, args: Any, more: Any) -> None:
        seen.append(args[0] if args else more["hidden_states"])
        raise Enough

    handle = next(blocks.children()).register_forward_pre_hook(look, with_kwargs=True)
    try:
        with torch.inference_mode(), suppress(Enough):
            forward()
    finally:
        handle.remove()
    return seen[0]


def leading_tokens(
    pixels: torch.Tensor, patch: int, slots: Slots, states: Callable[[torch.Tensor], torch.Tensor]
) -> int:
    """How many tokens of a slot (class, registers) stand before its patches. No name tells it: noise in the second and
    in the last patch of the first slot must change two tokens of `states`, as far apart, and no other.

    `pixels` [..., 3, H, W] are of at least one slot. Raises ModelError.
    """
    columns, before, found = pixels.shape[-1] // patch, states(pixels).flatten(0, -2), []
    places = sorted({min(1, slots.patches - 1), slots.patches - 1})
    for place in places:
        row, column = (patch * number for number in divmod(place, columns))
        noise = torch.randn(pixels.shape[-3], patch, patch, generator=torch.Generator().manual_seed(0))
        other = pixels.clone()
        other.reshape(-1, *pixels.shape[-3:])[0, :, row : row + patch, column : column + patch] += noise
        change = (states(other).flatten(0, -2) - before).abs().amax(dim=1)
        found.append((change > 1e-3 * change.max()).nonzero()[:, 0].tolist())
    leading = found[0][0] - places[0] if found[0] else -1
    if leading < 0 or found != [[leading + place] for place in places]:
        raise ModelError(f"its {len(before)} tokens do not hold {slots.patches} patches a tile, row by row")
    return leading


def _row(counts: Sequence[int], patches: int = 0) -> Slots:
    ends = np.cumsum([0, *counts])
    return Slots(tuple(np.arange(a, b) for a, b in pairwise(ends)), int(ends[-1]), patches)


def _shares(total: int, tokens: Sequence[int] | None, pixels: torch.Tensor) -> list[int]:
    """Tiles shared out by the pictures' tokens, as many a tile."""
    each = sum(tokens or ()) / total if total else 0
    if not tokens or not each or any(count % each for count in tokens):
        raise ModelError(
            f"pixel values of shape {tuple(pixels.shape)} for pictures of {list(tokens or ()) or 'unknown'} tokens: "
            "the tiles of each picture are unknown; use layers.towers=[lm], or one picture a prompt"
        )
    return [int(count / each) for count in tokens]
