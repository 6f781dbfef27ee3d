"""What lies on the picked tokens of an experiment: its pictures' masks on the model's grid, as one Field."""

from collections.abc import Sequence

import numpy as np

from mllm_probe.data.pictures import open_rgb
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.experiment.places import Places
from mllm_probe.records.grids import Grid
from mllm_probe.records.samples import Picture
from mllm_probe.spatial.field import Field


def field_of(experiment: Experiment) -> Field:
    """The tokens in the order in which the cache gives them: sample by sample, as each picks them."""
    places, samples = experiment.places, experiment.examples.samples
    categories = tuple(sorted(getattr(experiment.task, "categories", None) or experiment.collection.categories))
    group_of = {decision.sample: decision.group for decision in experiment.examples.decisions}
    parts = []
    for number, sample in enumerate(samples):
        tokens = np.asarray(sample.picked.tokens, dtype=int)
        parts.append(columns_of(number, tokens, places.pictures[sample.digests[0]], places, categories))
    names = np.unique([group_of[sample.uid] for sample in samples], return_inverse=True)[1]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Field(categories=categories, groups=names[whole["pictures"]], **whole)


def columns_of(
    number: int, tokens: np.ndarray, picture: Picture, places: Places, categories: Sequence[str]
) -> dict[str, np.ndarray]:
    """The columns of Field for some tokens [n] of the picture of this number."""
    grid, found, objects = places.grid(picture), places.shares(picture), places.on_objects(picture)
    shares = np.zeros((len(tokens), len(categories)), np.float32)
    away = np.full(shares.shape, np.inf, np.float32)
    present = np.asarray([name in (picture.categories or ()) for name in categories])
    for column, name in enumerate(categories):
        if name in found:
            every = np.nan_to_num(found[name])
            shares[:, column] = every[tokens]
            away[:, column] = _away(grid, tokens, every > 0)
    return {
        "shares": shares,
        "present": np.broadcast_to(present, shares.shape).copy(),
        "away": away,
        "objects": objects[tokens],
        "pictures": np.full(len(tokens), number),
        "views": grid.views[tokens],
        "places": np.stack([grid.rows[tokens], grid.columns[tokens]], axis=1),
        "colours": _colours(picture, grid.cells[tokens]),
        "whole": np.full(len(tokens), len(tokens) == len(grid.placed)),
        "weights": _weights(objects[tokens], objects[grid.placed]),
    }


def _weights(picked: np.ndarray, every: np.ndarray) -> np.ndarray:
    """[n]: for how many tokens of the picture each picked one stands, on objects and beside apart."""
    on = every.sum() / max(picked.sum(), 1), (~every).sum() / max((~picked).sum(), 1)
    return np.where(picked, *on)


def _away(grid: Grid, tokens: np.ndarray, touched: np.ndarray) -> np.ndarray:
    """[n]: tokens from each to the nearest one of its view that the mask touches, 0 where it does itself; nan where the
    mask touches none of the view, for then its place is not seen there."""
    found = np.full(len(tokens), np.nan, np.float32)
    for view in np.unique(grid.views[tokens]):
        own = np.flatnonzero(grid.views[tokens] == view)
        near = np.flatnonzero(touched & (grid.views == view))
        if len(near):
            rows = np.abs(grid.rows[tokens[own], None] - grid.rows[near])
            columns = np.abs(grid.columns[tokens[own], None] - grid.columns[near])
            found[own] = np.maximum(rows, columns).min(axis=1)
    return found


def _colours(picture: Picture, cells: np.ndarray) -> np.ndarray:
    """[n, 3]: the mean colour of each cell, 0 to 1."""
    pixels = np.asarray(open_rgb(picture.path), np.float32) / 255
    height, width = pixels.shape[:2]
    sides = np.round(cells * (width, height, width, height)).astype(int)
    return np.stack(
        [
            pixels[top : max(bottom, top + 1), left : max(right, left + 1)].mean(axis=(0, 1))
            for left, top, right, bottom in sides
        ]
    )
