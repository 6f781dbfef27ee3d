"""Tokens of pictures and the objects that lie on them: labels, places and what can be learnt. Knows no model and no
state. Letters: T tokens, C categories."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mllm_probe.errors import ProbeError, few
from mllm_probe.records.grids import HALF
from mllm_probe.records.samples import MORE_OF_EACH

LEAST = {"train": 5, "val": 2, "test": 2}  # picture groups that must show what is learnt, of a split
Splits = Mapping[int, np.ndarray]  # {seed: "train", "val" or "test" of each token [T]}


@dataclass(frozen=True)
class Field:
    """T tokens of pictures and the objects on them.

    `groups` are the units of splits and intervals. `away` counts tokens to the nearest one of the same view that the
    category covers half (0: itself; inf: the picture has none in this view). A picture is `whole` where all of its
    tokens are here; where some were chosen, `weights` says for how many of its picture each stands (None: 1).
    """

    categories: tuple[str, ...]
    shares: np.ndarray  # [T, C] float32: how much of the token's cell the category covers
    present: np.ndarray  # [T, C] bool: whether the category is anywhere in the token's picture
    away: np.ndarray  # [T, C] float32
    objects: np.ndarray  # [T] bool: whether any object covers half of the cell, of whatever category
    groups: np.ndarray  # [T]
    pictures: np.ndarray  # [T] int
    views: np.ndarray  # [T] int: such as a thumbnail and tiles
    places: np.ndarray  # [T, 2] int: row and column in the view
    colours: np.ndarray  # [T, 3] float: the cell's mean colour
    whole: np.ndarray  # [T] bool
    weights: np.ndarray | None = None  # [T] float

    @cached_property
    def inside(self) -> np.ndarray:
        """Whether a category covers half of the cell or more [T, C] bool."""
        return self.shares >= HALF

    def of(self, kept: np.ndarray) -> "Field":
        """Cut to some categories [C] bool."""
        names = tuple(name for name, stays in zip(self.categories, kept, strict=True) if stays)
        cut = {name: getattr(self, name)[:, kept] for name in ("shares", "present", "away")}
        return replace(self, categories=names, **cut)

    def learnable(self, splits: Splits) -> np.ndarray:
        """Which categories [C] bool have tokens inside and outside in enough picture groups of every split of every
        seed (`LEAST`)."""
        return enough(self.inside, self.groups, splits) & enough(~self.inside, self.groups, splits)


def enough(cells: np.ndarray, groups: np.ndarray, splits: Splits) -> np.ndarray:
    """Which columns [C] bool of `cells` [T, C] bool hold in enough groups [T] of every split of every seed."""
    found = np.ones(cells.shape[1], bool)
    for place in splits.values():
        for split, least in LEAST.items():
            found &= held(cells[place == split], groups[place == split]) >= least
    return found


def held(cells: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """In how many groups [n] each column of `cells` [n, C] bool holds anywhere: [C] int."""
    if not len(groups):
        return np.zeros(cells.shape[1], int)
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.append(True, groups[order][1:] != groups[order][:-1]))
    found: np.ndarray = np.logical_or.reduceat(cells[order], starts).sum(0)
    return found


def left_out_said(categories: tuple[str, ...], kept: np.ndarray, what: str = "") -> str | None:
    """Which categories are left out because no probe could learn them, and what to set; `what` they lack tokens for."""
    rare = [name for name, stays in zip(categories, kept, strict=True) if not stays]
    if not rare:
        return None
    numbers = ", ".join(f"{least} of {split}" for split, least in LEAST.items())
    return (
        f"{len(rare)} of {len(categories)} categories are left out{what} ({few(rare, 4)}): some seed has too few "
        f"pictures with tokens inside and outside of each ({numbers} are needed); {MORE_OF_EACH}"
    )


def check_splits(field: Field, splits: Splits) -> None:
    """Raises ProbeError where there is no seed, seeds differ in their test tokens, or a group lies in two splits."""
    if not splits:
        raise ProbeError("no seed has a split; at least one is needed")
    tested = {seed: place == "test" for seed, place in splits.items()}
    first = next(iter(tested.values()))
    for seed, place in splits.items():
        if (tested[seed] != first).any():
            raise ProbeError(f"seed {seed} tests other tokens than the first seed; all seeds test the same pictures")
        if len(set(zip(field.groups.tolist(), place.tolist(), strict=True))) > len(np.unique(field.groups)):
            raise ProbeError(f"seed {seed} has tokens of one picture group in two splits; each group needs one")
