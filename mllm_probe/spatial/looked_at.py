"""Which test pictures are kept to be looked at, token by token, and what a layer's probe says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mllm_probe.experiment.experiment import Experiment
from mllm_probe.records.samples import Picture
from mllm_probe.results.examples import Seen
from mllm_probe.scoring.summary import below, folder_of
from mllm_probe.spatial.field import Field
from mllm_probe.spatial.grid_file import SAID, PictureGrid, RegionGrids, as_bytes

PICTURES, CATEGORIES, ABSENT = 8, 4, 2  # of a page; of a picture, in it and not in it
BYTES = 500_000  # about so many numbers, over all sites
SURE = 0.95  # of the tokens lie below what is drawn as surest


@dataclass(frozen=True)
class LookedAt:
    """Whole test pictures with the most categories, while `sites` of them take little room."""

    experiment: Experiment
    field: Field
    sites: int

    @cached_property
    def numbers(self) -> list[int]:
        """Of the pictures."""
        whole = np.unique(self.field.pictures[self.field.whole]).tolist()
        shown = {one: int(self._on(one).any(axis=0).sum()) for one in whole}
        ordered = sorted((one for one in whole if shown[one]), key=lambda one: (-shown[one], one))
        found: list[int] = []
        for one in ordered[:PICTURES]:
            if sum(self._size(other) for other in (*found, one)) * self.sites <= BYTES or not found:
                found.append(one)
        return found

    @property
    def tokens(self) -> np.ndarray:
        """Of all of these pictures [n], among those of the field."""
        return np.flatnonzero(np.isin(self.field.pictures, self.numbers))

    def _on(self, number: int) -> np.ndarray:
        """[tokens of the picture, C] bool."""
        found: np.ndarray = self.field.inside[self.field.pictures == number]
        return found

    def _size(self, number: int) -> int:
        return len(self._on(number)) * len(self._categories(number))

    def _categories(self, number: int) -> list[int]:
        """Those that cover the most of its tokens, then those of most other pictures that are nowhere in it."""
        covered = self._on(number).sum(axis=0)
        there = [c for c in np.argsort(-covered, kind="stable").tolist() if covered[c]][:CATEGORIES]
        own = self.field.present[self.field.pictures == number][0]
        absent = [c for c in np.argsort(-self._often, kind="stable").tolist() if self._often[c] and not own[c]]
        return [*there, *absent[:ABSENT]]

    @cached_property
    def _often(self) -> np.ndarray:
        """In how many pictures each category is [C]."""
        first = np.unique(self.field.pictures, return_index=True)[1]
        found: np.ndarray = self.field.present[first].sum(axis=0)
        return found

    def said(self, margins: np.ndarray) -> list[list[str]]:
        """Of margins [n, C] at `tokens` for each picture and each of its categories the bytes that PictureGrid has."""
        scale = np.maximum(np.quantile(np.abs(margins), SURE, axis=0), 1e-12)
        steps = np.floor(SAID + (SAID - 1) * np.clip(margins / scale, -1, 1))
        own = self.field.pictures[self.tokens]
        return [[as_bytes(steps[own == one, c]) for c in self._categories(one)] for one in self.numbers]

    def grids(self, said: Mapping[str, Sequence[Sequence[str]]], run: Path) -> RegionGrids:
        """`said` {site: what `said` gives}, for the folder `run`."""
        samples, places = self.experiment.examples.samples, self.experiment.places
        folder, pictures = folder_of(samples), []
        for place, number in enumerate(self.numbers):
            picture = places.pictures[samples[number].digests[0]]
            each = {
                self.field.categories[c]: tuple(found[place][i] for found in said.values())
                for i, c in enumerate(self._categories(number))
            }
            pictures.append(self._picture(number, picture, folder, each))
        return RegionGrids(tuple(said), below(run, folder), tuple(pictures))

    def _picture(self, number: int, picture: Picture, folder: Path, said: Mapping[str, tuple[str, ...]]) -> PictureGrid:
        own, grid = self.field.pictures == number, self.experiment.places.grid(picture)
        tokens = self.experiment.examples.samples[number].picked.tokens
        shares = {self.field.categories[c]: np.round(255 * self.field.shares[own, c]) for c in self._categories(number)}
        return PictureGrid(
            Seen(below(folder, picture.path), picture.digest, picture.licence),
            tuple(tuple(cell) for cell in np.round(grid.cells[list(tokens)], 4).tolist()),  # type: ignore[misc]
            tuple(grid.views[list(tokens)].tolist()),
            {name: as_bytes(values) for name, values in shares.items()},
            said,
        )
