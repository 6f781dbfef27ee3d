"""Where the patches that a processor cuts lie in the picture: seen on pictures whose colours are coordinates.

Of a picture whose red rises from left to right and whose green rises from top to bottom, every pixel of the
processor's tensors tells where it comes from, whatever was resized, cropped, padded or cut into tiles. Knows no family.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from mllm_probe.errors import ModelError

Process = Callable[[Image.Image], Mapping[str, Any]]
CONTENT = 1e-3  # of the largest difference between black and white: less is padding


@dataclass(frozen=True)
class Cut:
    """The patches of one picture [P]: `at` [P, 3] is where each is in `patched(pixels)` (tile, row, column), `cells`
    [P, 4] are left, top, right, bottom in shares of the picture, also below 0 and above 1 where it is padding; nan
    where nothing tells."""

    at: np.ndarray
    cells: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """[P] bool: whose middle is in the picture."""
        x, y = (self.cells[:, :2] + self.cells[:, 2:]).T / 2
        return (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1)


def patched(inputs: Mapping[str, Any], patch: int) -> torch.Tensor:
    """[tiles, rows, columns, 3, ...]: the pixel values as patches of `patch` pixels a side, sharing their memory; a
    tower that is given patches one by one has as many tiles of one. Raises ModelError."""
    pixels = inputs["pixel_values"]
    if "image_grid_thw" in inputs:  # Qwen: a row holds the colours of one patch, of every frame
        return pixels.view(len(pixels), 1, 1, 3, -1, patch, patch)
    if pixels.ndim < 4 or pixels.shape[-3] != 3:
        raise ModelError(f"pixel values of shape {tuple(pixels.shape)} do not show where a patch lies in the picture")
    height, width = pixels.shape[-2:]
    rows, columns = height // patch, width // patch
    tiles = pixels.view(-1, 3, height, width)[:, :, : rows * patch, : columns * patch]
    return tiles.unflatten(3, (columns, patch)).unflatten(2, (rows, patch)).permute(0, 2, 4, 1, 3, 5)


def coordinates(size: tuple[int, int]) -> Image.Image:
    """A picture (W, H) whose red and green are x and y from 0 to 255."""
    across, down = (np.round(255 * (np.arange(side) + 0.5) / side).astype(np.uint8) for side in size)
    shape = (size[1], size[0])
    blue = np.zeros(shape, np.uint8)
    return Image.fromarray(np.stack([np.broadcast_to(across, shape), np.broadcast_to(down[:, None], shape), blue], -1))


def cut(process: Process, size: tuple[int, int], patch: int) -> tuple[Cut, Mapping[str, Any]]:
    """The patches of a picture of `size` (W, H), and the inputs that were seen. Raises ModelError."""
    black, white = (patched(process(Image.new("RGB", size, (grey,) * 3)), patch) for grey in (0, 255))
    inputs = process(coordinates(size))
    seen, span = patched(inputs, patch), white - black
    shares = torch.where(span.abs() > CONTENT * span.abs().max(), (seen - black) / span, torch.nan)
    real = _real(inputs, white, patch)
    sides = [_lines(_profile(shares, channel), patch) for channel in (0, 1)]
    at = real.nonzero().numpy()
    tile, row, column = at.T
    left, right = _edges(sides[0], tile, column, patch)
    top, bottom = _edges(sides[1], tile, row, patch)
    return Cut(at, np.stack([left, top, right, bottom], axis=1)), inputs


def _real(inputs: Mapping[str, Any], white: torch.Tensor, patch: int) -> torch.Tensor:
    """[tiles, rows, columns] bool: patches that the tower is given; tiles may be empty, pictures filled up."""
    real = white.flatten(1).any(dim=1)[:, None, None].expand(white.shape[:3]).clone()
    if "image_sizes" in inputs and inputs["pixel_values"].ndim == 4:  # Pixtral
        height, width = (int(side) // patch for side in inputs["image_sizes"][0])
        real[:, height:], real[:, :, width:] = False, False
    return real


def _profile(shares: torch.Tensor, channel: int) -> np.ndarray:
    """[tiles, pixels]: of every column (channel 0) or line (1) of pixels of a tile, the mean coordinate."""
    one = shares[:, :, :, channel]
    if one.ndim == 6:  # frames of one patch
        one = one.mean(dim=3)
    whole = one.permute(0, 1, 3, 2, 4).flatten(3).flatten(1, 2)  # [tiles, lines, columns] of pixels
    return whole.nanmean(dim=1 if channel == 0 else 2).double().numpy()


def _lines(profile: np.ndarray, patch: int) -> np.ndarray:
    """[tiles, 2]: where the first pixel begins, and how far it is from one to the next; nan without two pixels of the
    picture. Tiles of a single patch, which tell little, share what lies between two pixels. Raises ModelError."""
    at, found = np.arange(profile.shape[1]) + 0.5, []
    for values in profile:
        there = np.isfinite(values)
        step, start = np.polyfit(at[there], values[there], 1) if there.sum() > 1 else (np.nan, np.nan)
        found.append((start, step, values[there].mean() if there.any() else np.nan, at[there].mean()))
        if there.sum() > 1 and np.abs(start + step * at[there] - values[there]).max() > 0.02:
            raise ModelError("the processor moves the pixels of a picture otherwise than by scaling and cutting it")
    starts, steps, means, middles = np.asarray(found).T
    if profile.shape[1] == patch:
        steps = np.full(len(steps), np.nanmedian(steps))
        starts = means - steps * middles
    return np.stack([starts, steps], axis=1)


def _edges(lines: np.ndarray, tile: np.ndarray, place: np.ndarray, patch: int) -> tuple[np.ndarray, np.ndarray]:
    start, step = lines[tile].T
    return start + step * place * patch, start + step * (place + 1) * patch
