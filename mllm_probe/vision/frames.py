"""A picture in a square: how it is drawn there, and where its points then lie. Knows no encoder."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from mllm_probe.errors import ConfigError, choices


@dataclass(frozen=True)
class Frame:
    """A picture of `size` (W, H) pixels in the middle of a square of side `side`, its shape kept.

    The released code of Yang et al. (arXiv 2408.16357) rounds so: scale = side / longer side, the shorter side rounded,
    the margin in front of it cut to a whole number.
    """

    size: tuple[int, int]
    side: int

    @property
    def scale(self) -> float:
        return self.side / max(self.size)

    @property
    def inner(self) -> tuple[int, int]:
        """The picture's own sides in the square, at least one pixel each."""
        longest = max(self.size)
        width, height = (max(1, round(self.side * side / longest)) for side in self.size)
        return width, height

    @property
    def margin(self) -> tuple[int, int]:
        """Pixels left of the picture and above it."""
        return (self.side - self.inner[0]) // 2, (self.side - self.inner[1]) // 2

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points [K, 2] of the picture, x and y in pixels -> the same in the square."""
        return points * self.scale + np.asarray(self.margin)


def letterbox(picture: Image.Image, side: int) -> Image.Image:
    """The picture in its Frame, black around it."""
    frame = Frame(picture.size, side)
    square = Image.new(picture.mode, (side, side))
    square.paste(picture.resize(frame.inner, Image.Resampling.BICUBIC), frame.margin)
    return square


def squash(picture: Image.Image, side: int) -> Image.Image:
    """The whole square filled, whatever becomes of the picture's shape."""
    return picture.resize((side, side), Image.Resampling.BICUBIC)


GEOMETRIES: dict[str, Callable[[Image.Image, int], Image.Image]] = {"letterbox": letterbox, "compat": squash}


def drawer(geometry: str) -> Callable[[Image.Image, int], Image.Image]:
    """How pictures are drawn into a square. Raises ConfigError.

    compat squashes them, as the released code does, which then looks for their keypoints in the letterboxed Frame: all
    but square pictures are misregistered. It is there to reproduce published numbers.
    """
    if geometry not in GEOMETRIES:
        raise ConfigError(f"score.geometry={geometry} is unknown; {choices(geometry, GEOMETRIES)}")
    return GEOMETRIES[geometry]
