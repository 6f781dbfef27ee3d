"""Which place each picture token of a prompt stands for, as Grid has it: measured in three steps, for any family.

Pixels: the processor is shown pictures whose colours are coordinates, see `pixels`. Tower: noise in some patches
changes their tokens before the first block; as many choices of patches as their number has binary digits tell them
apart. Connector: noise in the states of all patches up to a line, and behind it, changes the picture tokens that begin
before it, and end behind it; so for every line, column and look at the picture.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from mllm_probe.errors import MllmProbeError, ModelError, first_line
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.grids.looks import Looks
from mllm_probe.models.grids.pixels import Cut, cut, patched
from mllm_probe.models.grids.skeleton import Skeleton
from mllm_probe.models.prompts.picture_tags import pictured
from mllm_probe.records.grids import Grid

CHANGED = 1e-3  # of the largest change in a pass


@dataclass(frozen=True)
class Followed:
    """`tokens` [V] of the vision tower are patches, and `patch` [V] says which; `made_of` holds for each picture token
    of the prompt the patches that it is made of, as numbers among `tokens`, none where it stands for no place."""

    tokens: np.ndarray
    patch: np.ndarray
    made_of: tuple[np.ndarray, ...]


class Grids:
    """The grids of one model, one for each size of a picture. Raises ModelError for a model without any."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._blueprint, self._name = blueprint, blueprint.model_class.__name__
        self._refuse()
        self._skeleton: Skeleton | None = None
        self._by_size: dict[tuple[int, int], Grid] = {}
        self._by_form: dict[Any, Followed] = {}

    def _refuse(self) -> None:
        anatomy = self._blueprint.anatomy
        if anatomy.crossed:
            raise ModelError(f"{self._name} attends to pictures and holds no token of theirs, so no token has a place")
        if "qformer" in anatomy.towers:
            raise ModelError(
                f"the picture tokens of {self._name} are queries of a Q-Former, each of which reads the whole picture, "
                "so none has a place in it"
            )
        if "vision" not in anatomy.blocks:
            raise ModelError(
                f"the vision tower of {self._name} has no blocks of attention by which its tokens could be followed, "
                "so the places of its picture tokens are unknown"
            )

    def of(self, size: tuple[int, int]) -> Grid:
        """Of a picture of (W, H) pixels alone in a prompt. Raises ModelError."""
        if size not in self._by_size:
            try:
                self._by_size[size] = self._grid(size)
            except MllmProbeError:
                raise
            except Exception as error:  # transformers raises anything here
                raise ModelError(
                    f"the places of the picture tokens of {self._name} cannot be measured "
                    f"({type(error).__name__}: {first_line(error)})"
                ) from error
        return self._by_size[size]

    def _grid(self, size: tuple[int, int]) -> Grid:
        patches, inputs = cut(self._process, size, self._blueprint.patch)
        looks = Looks.of(patches)
        told = [inputs["input_ids"].shape, inputs["pixel_values"].shape]
        told += [str(inputs.get(name)) for name in ("image_grid_thw", "image_sizes")]
        form = (*told, patches.at.tobytes(), looks.places.tobytes())
        if form not in self._by_form:
            self._by_form[form] = self._followed(inputs, patches, looks)
        return _joined(patches, looks, self._by_form[form])

    def _process(self, picture: Image.Image) -> Mapping[str, Any]:
        return dict(self._blueprint.example(picture)[0])

    def _followed(self, inputs: Mapping[str, Any], patches: Cut, looks: Looks) -> Followed:
        self._skeleton = self._skeleton or Skeleton(self._blueprint)
        tokens, patch = self._through_tower(self._skeleton, inputs, patches)
        return Followed(tokens, patch, self._through_connector(self._skeleton, inputs, tokens, looks.places[patch]))

    def _through_tower(
        self, skeleton: Skeleton, inputs: Mapping[str, Any], patches: Cut
    ) -> tuple[np.ndarray, np.ndarray]:
        """The tower's tokens [V] that are patches, and which patch [V] each is. Raises ModelError."""
        side, before = self._blueprint.patch, skeleton.patches(inputs).flatten(0, -2)
        numbers = np.arange(1, len(patches.at) + 1)
        shape = patched(inputs, side).shape[3:]
        noise = torch.randn(len(numbers), *shape, generator=torch.Generator().manual_seed(0))
        codes = np.zeros(len(before), dtype=int)
        for bit in range(len(numbers).bit_length()):
            chosen = np.flatnonzero(numbers >> bit & 1)
            other = {**inputs, "pixel_values": inputs["pixel_values"].clone()}
            patched(other, side)[tuple(map(torch.from_numpy, patches.at[chosen].T))] += noise[chosen]
            codes += _changed(before, skeleton.patches(other).flatten(0, -2)).astype(int) << bit
        tokens = np.flatnonzero(codes)
        if sorted(codes[tokens]) != numbers.tolist():
            raise ModelError(
                f"the vision tower of {self._name} mixes patches before its first block, so none of its tokens has a "
                "place of its own"
            )
        return tokens, codes[tokens] - 1

    def _through_connector(
        self, skeleton: Skeleton, inputs: Mapping[str, Any], tokens: np.ndarray, places: np.ndarray
    ) -> tuple[np.ndarray, ...]:
        """What each picture token is made of; `places` [V, 3] are the look, line and column of the tower's tokens.
        Raises ModelError."""
        image = torch.from_numpy(np.flatnonzero(pictured(inputs, self._blueprint.prompter.tag.image)[0]))
        noisy = _Noise(torch.from_numpy(tokens))

        def states(chosen: np.ndarray) -> torch.Tensor:
            return skeleton.pictured(inputs, lambda given: noisy(given, torch.from_numpy(chosen)))[image]

        before = states(np.zeros(len(tokens), dtype=bool))
        every = _changed(before, states(np.ones(len(tokens), dtype=bool)))
        within = np.broadcast_to(every[:, None], (len(image), len(tokens)))
        for values in places.T:
            low, high = _ends(values, lambda chosen: _changed(before, states(chosen)), len(image))
            within = within & (low[:, None] <= values) & (values <= high[:, None])
        if len(tokens) > 1 and (within.all(axis=1) | ~every).all():
            raise ModelError(f"each picture token of {self._name} reads the whole picture, so none has a place in it")
        return tuple(np.flatnonzero(own) for own in within)


class _Noise:
    """The same noise in the states of chosen tokens of the vision tower, whatever is asked."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self._tokens = tokens
        self._noise: torch.Tensor | None = None

    def __call__(self, given: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """States [..., L, D] with noise in the tokens that are chosen [V] bool."""
        if self._noise is None:
            drawn = torch.randn(len(self._tokens), given.shape[-1], generator=torch.Generator().manual_seed(0))
            self._noise = given.std() * drawn
        flat = given.clone().flatten(0, -2)
        flat[self._tokens[chosen]] += self._noise[chosen]
        return flat.view_as(given)


def _ends(values: np.ndarray, changed: Callable[[np.ndarray], np.ndarray], n: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of n picture tokens the least and the greatest of `values` [V] of the tower's tokens that change it."""
    levels = np.unique(values)
    below, above = np.zeros(n, dtype=int), np.zeros(n, dtype=int)
    for level in levels[:-1]:
        below += changed(values <= level)
        above += changed(values > level)
    return levels[len(levels) - 1 - below], levels[above]


def _changed(before: torch.Tensor, after: torch.Tensor) -> np.ndarray:
    """[L] bool."""
    change = (after - before).abs().amax(dim=1)
    return ((change > CHANGED * change.max()) & (change.max() > 0)).numpy()


def _joined(patches: Cut, looks: Looks, followed: Followed) -> Grid:
    """Picture tokens with the places of what they are made of; one made mostly of padding has none."""
    cells, places = np.full((len(followed.made_of), 4), np.nan), np.full((len(followed.made_of), 3), -1)
    clipped, inside = patches.cells[followed.patch].clip(0, 1), patches.inside[followed.patch]
    for token, own in enumerate(followed.made_of):
        if (there := own[inside[own]]).size and 2 * len(there) >= len(own):
            cells[token] = *clipped[own, :2].min(axis=0), *clipped[own, 2:].max(axis=0)
            places[token] = looks.places[followed.patch[own]].min(axis=0)
    views, rows, columns = _ranked(places).T
    return Grid(cells, views, rows, columns, clipped, followed.made_of)


def _ranked(places: np.ndarray) -> np.ndarray:
    """Looks, lines and columns [T, 3] counted in tokens: of each look from 0, in steps of one."""
    found = np.full_like(places, -1)
    for look in np.unique(places[places[:, 0] >= 0, 0]):
        own = places[:, 0] == look
        found[own, 0] = look
        for axis in (1, 2):
            found[own, axis] = np.unique(places[own, axis], return_inverse=True)[1]
    return found
