"""Rows of one key from all shards, read when they are sliced. Knows no uid and no key."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StoredRows:
    """T rows [D]: row t is row `row[t]` of `parts[part[t]]`. Parts are mapped from their files, not loaded."""

    parts: "tuple[torch.Tensor, ...]"
    part: np.ndarray
    row: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.row), self.parts[0].shape[1]

    def __getitem__(self, rows: slice) -> "torch.Tensor":
        import torch

        part, row = self.part[rows], torch.from_numpy(self.row[rows])
        if len(self.parts) == 1:
            return self.parts[0][row]
        out = torch.empty(len(row), self.shape[1], dtype=self.parts[0].dtype)
        for number in np.unique(part):
            here = torch.from_numpy(part == number)
            out[here] = self.parts[number][row[here]]
        return out

    def take(self, index: np.ndarray) -> "StoredRows":
        """Row `index[t]` at place t; rows may occur several times."""
        return StoredRows(self.parts, self.part[index], self.row[index])
