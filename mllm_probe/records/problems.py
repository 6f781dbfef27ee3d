"""What a probe is given: the rows of a layer, labels and a split."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch


class Rows(Protocol):
    """Vectors [T, D] in storage dtype, in memory (a tensor is one) or read from the cache where they are asked for."""

    @property
    def shape(self) -> Any: ...

    def __getitem__(self, rows: slice) -> "torch.Tensor": ...


def content(*parts: Any) -> str:
    """A digest of arrays, by their types, shapes and bytes, and of other values, by their text."""
    found = blake2b(digest_size=16)
    for part in parts:
        array = isinstance(part, np.ndarray)
        found.update(f"{part.dtype.str}{part.shape};".encode() if array else f"{part!r};".encode())
        if array:
            found.update(part.tobytes())
    return found.hexdigest()


KINDS = ("binary", "classes", "labels", "number")


@dataclass(frozen=True)
class Problem:
    """One fit to make: what is predicted, and who trains and who validates ([N] bool each).

    `kind` says what `y` is: "binary" [N] of 0 and 1, "classes" [N] of 0 to C - 1, "labels" [N, C] of 0 and 1 of which
    the cells in `mask` [N, C] count, "number" [N] floats. Rows outside both splits hold no label (0) that a probe
    could learn from. `seed` starts whatever is random in a probe.
    """

    y: np.ndarray
    train: np.ndarray
    val: np.ndarray
    kind: str = "binary"
    mask: np.ndarray | None = None
    seed: int = 0


@dataclass(frozen=True)
class Compute:
    """Where a probe is fitted, and how many bytes of features it may hold at once; more are read chunk by chunk."""

    device: str = "cpu"
    memory: int = 4 << 30


@dataclass(frozen=True)
class LayerData:
    """The rows of one key, ready for probes: no label, no split.

    `rows` [T, D] slices into tensors of the storage dtype. `bounds` [N + 1] cuts them into decisions where a position
    has a row for every token; without it T = N. `pairs` [N] numbers the contrast pairs (-1: none), and `sides` [N]
    tells their halves apart (1, -1).
    """

    rows: "Rows"
    bounds: np.ndarray | None = None
    pairs: np.ndarray | None = None
    sides: np.ndarray | None = None
    name: str = ""
    compute: Compute = Compute()

    def __len__(self) -> int:
        return self.rows.shape[0] if self.bounds is None else len(self.bounds) - 1

    @property
    def width(self) -> int:
        return self.rows.shape[1]
