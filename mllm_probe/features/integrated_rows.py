"""Rows of several layers as the rows of one feature, made where they are sliced. Knows no key and no label.

Letters in shapes: T stored rows, D width, N decisions, G groups of a recipe.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mllm_probe.features.recipes import STI, Recipe, integrate
from mllm_probe.records.problems import Rows

if TYPE_CHECKING:
    import torch


def pooled(states: "Mapping[int, torch.Tensor]", recipe: Recipe) -> "torch.Tensor":
    """Vectors [T, D] by layer, each the mean over a picture's tokens -> [T, recipe.width x D] float32.

    Channel integration commutes with that mean. The mean over STI's tokens is a mere weighted sum of the layers, here
    with the weights of a number of tokens that `recipe.pooled` divides: 0.8, 0.1 and 0.1 for two layers and 8 tokens.
    """
    vectors = {layer: x.float() for layer, x in states.items()}
    if recipe.kind != STI:
        return integrate({layer: x[:, None] for layer, x in vectors.items()}, recipe)[:, 0]
    total = recipe.pooled * vectors[recipe.final]
    for (layer,) in recipe.groups:
        total = total + vectors[layer]
    return total / (recipe.pooled + len(recipe.groups))


@dataclass(frozen=True)
class Pooled:
    """Row t is the feature of row t of every layer: a mean over tokens, or one token of several that keep their places.

    What is in memory is one slice of every layer.
    """

    recipe: Recipe
    layers: Mapping[int, Rows]

    @property
    def shape(self) -> tuple[int, int]:
        rows, width = self.layers[self.recipe.final].shape
        return rows, width * self.recipe.width

    def __getitem__(self, rows: slice) -> "torch.Tensor":
        return pooled({layer: own[rows] for layer, own in self.layers.items()}, self.recipe)


@dataclass(frozen=True)
class Strung:
    """STI of ragged rows: decision by decision the tokens of the final layer, then the averaged ones of the others.

    `inner` [N + 1] cuts the rows of a layer into decisions, `bounds` [N + 1] these.
    """

    recipe: Recipe
    layers: Mapping[int, Rows]
    inner: np.ndarray

    @cached_property
    def bounds(self) -> np.ndarray:
        return np.cumsum([0, *(self.recipe.tokens(int(own)) for own in np.diff(self.inner))])

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.bounds[-1]), self.layers[self.recipe.final].shape[1]

    def __getitem__(self, rows: slice) -> "torch.Tensor":
        """Whole decisions are strung, then cut to what was asked for."""
        import torch

        start, stop, _ = rows.indices(self.shape[0])
        if stop <= start:
            return torch.zeros(0, self.shape[1])
        first, last = np.searchsorted(self.bounds, [start, stop - 1], side="right") - 1
        strung = torch.cat([self._decision(i) for i in range(first, last + 1)])
        return strung[start - self.bounds[first] : stop - self.bounds[first]]

    def _decision(self, number: int) -> "torch.Tensor":
        span = slice(int(self.inner[number]), int(self.inner[number + 1]))
        return integrate({layer: own[span].float()[None] for layer, own in self.layers.items()}, self.recipe)[0]
