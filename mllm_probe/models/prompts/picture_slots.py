"""Where each picture of a batch is in the picture towers: cut into tiles, packed into patches, or one tensor each.

A tower sees a row of slots (a tile, a patch), each of as many tokens; which slots are a picture's is said by the
processor's inputs, and how many tokens a slot has in a tower is measured on the loaded model (`Scale`). The hook then
counts the tokens that really came.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from mllm_probe.errors import ModelError


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
    """Tokens of a slot in each picture tower (text left out); class tokens before its patches in the vision tower."""

    tokens: Mapping[str, Fraction]
    leading: int = 0

    def rows(self, tower: str, slots: Slots) -> tuple[list[np.ndarray], int]:
        """For each picture its tokens among all of the tower, class tokens and padding left out."""
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
