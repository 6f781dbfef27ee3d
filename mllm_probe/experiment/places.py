"""Pictures on a model's token grid: where their tokens are, and what of each an object covers."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from mllm_probe.data.cells import covered
from mllm_probe.data.pictures import size_of
from mllm_probe.errors import DataError
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.grids.tracing import Grids
from mllm_probe.records.grids import HALF, Grid
from mllm_probe.records.samples import Collection, Picture


class Places:
    """The pictures of a collection on the grid of one model. Raises ModelError for a model without places."""

    def __init__(self, collection: Collection, blueprint: Blueprint) -> None:
        self._collection, self._blueprint = collection, blueprint
        self._grid_of: dict[str, Grid] = {}
        self._shares: dict[str, dict[str, np.ndarray]] = {}

    @cached_property
    def _grids(self) -> Grids:
        return Grids(self._blueprint)

    @cached_property
    def pictures(self) -> Mapping[str, Picture]:
        """{digest: picture}."""
        return {picture.digest: picture for picture in self._collection.pictures}

    def grid(self, picture: Picture) -> Grid:
        if picture.digest not in self._grid_of:  # a file is opened for its size
            self._grid_of[picture.digest] = self._grids.of(size_of(picture.path))
        return self._grid_of[picture.digest]

    def shares(self, picture: Picture) -> dict[str, np.ndarray]:
        """{category in the picture: how much of each picture token's cell its mask covers, [T] float32, nan where a
        token has no place}. Raises DataError."""
        if picture.digest not in self._shares:
            if self._collection.masks is None:
                raise DataError(f"dataset {self._collection.name} has no masks of its objects")
            cells = self.grid(picture).cells
            masks = self._collection.masks(picture)
            self._shares[picture.digest] = {
                name: covered(mask, cells).astype(np.float32) for name, mask in masks.items()
            }
        return self._shares[picture.digest]

    def on_objects(self, picture: Picture) -> np.ndarray:
        """[T] bool: tokens of which some object covers half."""
        found = np.zeros(len(self.grid(picture).cells), dtype=bool)
        for shares in self.shares(picture).values():
            found |= shares >= HALF
        return found
