"""Pictures of square objects on a grid of tokens, and states of tokens that know what is planted in them."""

import numpy as np
import torch

from mllm_probe.probes.ridge import Ridge
from mllm_probe.records.problems import LayerData
from mllm_probe.records.protocols import Probe
from mllm_probe.results.regions import Region
from mllm_probe.spatial.answers import answers
from mllm_probe.spatial.field import Field
from mllm_probe.spatial.locality import Locality
from mllm_probe.spatial.region_scores import RegionScoring

BLANK = Region("run", "cache", "model", "", "nf4", "drawn", "lm.01", "lm", 1, "block", 0.5, "tokens:image", "ridge")


def field(pictures: int = 120, side: int = 8, categories: int = 4, seed: int = 0) -> Field:
    """Each picture shows each category with probability 0.4, as 2 x 2 tokens anywhere; one view, a group a picture."""
    rng = np.random.default_rng(seed)
    shares = np.zeros((pictures, side, side, categories), np.float32)
    for grid in shares:
        for c in np.flatnonzero(rng.random(categories) < 0.4):
            row, column = rng.integers(0, side - 1, 2)
            grid[row : row + 2, column : column + 2, c] = 1
    places = np.asarray([(row, column) for row in range(side) for column in range(side)])
    shares = shares.reshape(pictures, side * side, categories)
    number = np.repeat(np.arange(pictures), side * side)
    inside = shares >= 0.5
    return Field(
        categories=tuple(f"thing{c}" for c in range(categories)),
        shares=shares.reshape(-1, categories),
        present=np.repeat(inside.any(1), side * side, axis=0),
        away=np.concatenate([distances(own, places) for own in inside]),
        objects=inside.any(2).ravel(),
        groups=number,
        pictures=number,
        views=np.zeros(len(number), int),
        places=np.tile(places, (pictures, 1)),
        colours=rng.random((len(number), 3)),
        whole=np.ones(len(number), bool),
    )


def distances(inside: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Steps of a king from each place [T, 2] to the nearest one inside [T, C] bool; inf where there is none."""
    found = np.full(inside.shape, np.inf, np.float32)
    for c, own in enumerate(inside.T):
        if own.any():
            found[:, c] = np.abs(places[:, None] - places[None, own]).max(2).min(1)
    return found


def splits(field: Field, seeds: int = 2) -> dict[int, np.ndarray]:
    """A third of the groups tests; the others are drawn anew for each seed."""
    groups, number = np.unique(field.groups, return_inverse=True)
    found = {}
    for seed in range(seeds):
        own = np.where(np.arange(len(groups)) % 3 == 0, "test", "train")
        rest = np.random.default_rng(seed).permutation(np.flatnonzero(own == "train"))
        own[rest[: len(rest) // 3]] = "val"
        found[seed] = own[number]
    return found


def layer(states: np.ndarray, noise: float = 0.05, seed: int = 1) -> LayerData:
    """States [T, D] and as many columns of nothing, all with noise."""
    x = np.hstack([states, np.zeros_like(states, float)])
    x += noise * np.random.default_rng(seed).normal(size=x.shape)
    return LayerData(torch.from_numpy(x.astype(np.float32)), name="lm.01@tokens:image")


def scores(asking: RegionScoring | Locality, data: LayerData, probe: Probe | None = None) -> list[Region]:
    """What ridge, or another probe, gives a key."""
    (logits,) = answers(probe or Ridge(), data, asking.problems)
    return asking.scores(logits, BLANK)


def value(rows: list[Region], metric: str, **cells: str) -> Region:
    """The one row of a metric over all seeds, of real labels and all pictures unless said."""
    wanted = {"control": "", "training": "all", "view": "", "distance": "", "seed": "all"} | cells
    (found,) = [row for row in rows if row.metric == metric and all(getattr(row, k) == v for k, v in wanted.items())]
    return found
