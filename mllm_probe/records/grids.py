"""Where the tokens of a picture are in it. Imports no torch."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

HALF = 0.5  # of a token's cell: what covers so much of it lies on the token


@dataclass(frozen=True)
class Grid:
    """The places of one picture's tokens, T in the prompt and P in the vision tower (class tokens left out).

    `cells` [T, 4] and `patches` [P, 4] are left, top, right, bottom in shares of the picture's width and height, nan
    for a token that stands for no place (a line's end, padding). `views` [T] numbers the looks at the picture that a
    token belongs to: a thumbnail and tiles are two; -1 without a place. `rows` and `columns` [T] are where it stands
    in its view. `read` holds for each token [T] the vision tower's tokens that it is made of, as `tokens:image` has
    them.
    """

    cells: np.ndarray  # [T, 4] float64
    views: np.ndarray  # [T] int64
    rows: np.ndarray  # [T] int64
    columns: np.ndarray  # [T] int64
    patches: np.ndarray  # [P, 4] float64
    read: tuple[np.ndarray, ...]

    @cached_property
    def placed(self) -> np.ndarray:
        """The tokens [K] that have a place, in the prompt's order."""
        return np.flatnonzero(self.views >= 0)
