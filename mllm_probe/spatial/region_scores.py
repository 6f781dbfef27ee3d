"""From the states of single picture tokens to scores: which categories cover a token, by one probe for all of them.

Knows what lies on tokens, no state and no probe: what it asks (`problems`) is fitted elsewhere, together with whatever
else is asked of the same rows. Letters: T tokens, of which n are scored, D width, C categories, S seeds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random

import numpy as np

from mllm_probe.errors import ProbeError
from mllm_probe.records.problems import Problem
from mllm_probe.records.samples import MORE_OF_EACH
from mllm_probe.results.regions import AUROC, AVERAGE_PRECISION, BETWEEN, FEW, MIOU, WHOLE, WITHIN, Region
from mllm_probe.spatial.exchanges import between_pictures, within_pictures
from mllm_probe.spatial.field import Field, Splits, check_splits, enough
from mllm_probe.spatial.macro import Counted, Macro, of_order, of_overlap, told

SHOTS = 5  # pictures of each category that train a probe of few


@dataclass(frozen=True)
class _Trial:
    """One fit to make and score: labels [T, C] bool, and the split of each token [T] text ("": takes no part)."""

    control: str
    training: str
    seed: int
    y: np.ndarray
    split: np.ndarray
    trains: np.ndarray  # [T] bool

    @property
    def problem(self) -> Problem:
        return Problem(self.y.astype(int), self.trains, self.split == "val", "labels", seed=self.seed)


@dataclass(frozen=True)
class RegionScoring:
    """The scores of a run's keys. `field` holds categories that can be learnt in all `splits` (`Field.learnable`).

    The label controls are of the first seed alone: what they show, that a probe cannot do this without place or
    picture, does not hang on the draw of the training pictures. Average precision and AUROC are of the field's tokens
    as they are: where only some of a picture were chosen, they are of such a choice. `level` is that of intervals.
    `plain`: real labels and all training pictures alone, for rows of a control and rows that are no layer's
    (`baselines`).
    """

    field: Field
    splits: Splits
    level: float = 0.95
    plain: bool = False

    def __post_init__(self) -> None:
        check_splits(self.field, self.splits)
        if not self.field.categories:
            raise ProbeError(f"no category can be learnt from these pictures; {MORE_OF_EACH}")

    @cached_property
    def problems(self) -> list[Problem]:
        """What is asked of a key: real labels, trained on all and on few pictures, and both label controls."""
        return [trial.problem for trial in self._trials]

    def scores(self, logits: Sequence[np.ndarray], blank: Region) -> list[Region]:
        """The rows of one key, from the logits [T, C] of each problem; `blank` says whose they are."""
        same: dict[tuple[str, str], dict[int, tuple[_Trial, np.ndarray]]] = {}
        for trial, found in zip(self._trials, logits, strict=True):
            same.setdefault((trial.control, trial.training), {})[trial.seed] = (trial, found)
        rows: list[Region] = []
        for (control, training), by_seed in same.items():
            named = replace(blank, control=blank.control or control, training=training)
            for view, seen in self._views:
                rows += self._measured(replace(named, view=view), by_seed, seen)
        return rows

    def margins(self, logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """How far logits [T, C] of the first problem lie above the threshold that suits validation, at some tokens [n]:
        [n, C], above 0 where the category is said to cover the token."""
        trial = self._trials[0]
        val = trial.split == "val"
        weights = None if self.field.weights is None else self.field.weights[val]
        found: np.ndarray = logits[tokens] - thresholds(logits[val], trial.y[val], weights)
        return found

    @cached_property
    def _trials(self) -> list[_Trial]:
        found = []
        for seed, split in self.splits.items():
            train = split == "train"
            found.append(_Trial("", WHOLE, seed, self.field.inside, split, train))
            if self.plain:
                continue
            found.append(_Trial("", FEW, seed, self.field.inside, split, train & few_pictures(self.field, train, seed)))
        if self.plain:
            return found
        seed, split = next(iter(self.splits.items()))
        found.append(_Trial(WITHIN, WHOLE, seed, within_pictures(self.field, seed), split, split == "train"))
        return [*found, *self._between]

    @cached_property
    def _between(self) -> list[_Trial]:
        """The control that exchanges pictures, where enough of them have as many tokens as another."""
        seed, split = next(iter(self.splits.items()))
        labels, counted = between_pictures(self.field, split, seed)
        split = np.where(counted, split, "")
        learnt = enough(labels, self.field.groups, {seed: split}) & enough(~labels, self.field.groups, {seed: split})
        return [_Trial(BETWEEN, WHOLE, seed, labels, split, split == "train")] if learnt.all() else []

    @property
    def remark(self) -> str | None:
        """Why a control is missing, in a sentence."""
        if self._between:
            return None
        return (
            f"the control {BETWEEN} is left out: too few pictures of a split have as many tokens in each view as one of"
            f" another group, so labels cannot be exchanged; {MORE_OF_EACH}"
        )

    @cached_property
    def _views(self) -> list[tuple[str, np.ndarray]]:
        """("", all tokens), and where there are several views each on its own: its number and its tokens [T] bool."""
        views = np.unique(self.field.views)
        each = [(str(view), self.field.views == view) for view in views] if len(views) > 1 else []
        return [("", np.ones(len(self.field.views), bool)), *each]

    def _measured(
        self, blank: Region, by_seed: Mapping[int, tuple[_Trial, np.ndarray]], seen: np.ndarray
    ) -> Iterator[Region]:
        first = next(iter(by_seed.values()))[0]
        tested = (first.split == "test") & seen
        metrics = (AVERAGE_PRECISION, AUROC)
        found = {seed: of_order(metrics, z[tested], trial.y[tested]) for seed, (trial, z) in by_seed.items()}
        for metric in metrics:
            by_metric = {seed: macros[metric] for seed, macros in found.items()}
            yield from self._told(replace(blank, metric=metric), by_metric, first, tested)
        tested &= self.field.whole
        if tested.any():
            grids = {seed: self._grids(*one, tested, seen) for seed, one in by_seed.items()}
            yield from self._told(replace(blank, metric=MIOU), grids, first, tested)

    def _told(self, blank: Region, found: Mapping[int, Macro], trial: _Trial, tested: np.ndarray) -> Iterator[Region]:
        name = (trial.control, tested.tobytes())
        if name not in self._counted:
            labels = trial.y[tested]
            self._counted[name] = Counted(self.field.groups[tested], labels, np.ones_like(labels))
        return told(blank, found, self._counted[name], self.level)

    @cached_property
    def _counted(self) -> dict[tuple[str, bytes], Counted]:
        """What is scored of a control's labels on some tokens [T], as bytes; the same for all keys."""
        return {}

    def _grids(self, trial: _Trial, logits: np.ndarray, tested: np.ndarray, seen: np.ndarray) -> Macro:
        """The overlap of grids that are predicted with the thresholds that suit validation."""
        val = (trial.split == "val") & seen
        weights = None if self.field.weights is None else self.field.weights[val]
        return of_overlap(logits[tested] > thresholds(logits[val], trial.y[val], weights), trial.y[tested])


def few_pictures(field: Field, train: np.ndarray, seed: int) -> np.ndarray:
    """Which tokens [T] bool belong to training pictures that show each category in `SHOTS` pictures, the rarest one
    first, so that pictures of several categories serve for all of them."""
    pictures, number = np.unique(field.pictures, return_inverse=True)
    shows = np.stack([np.bincount(number, train & cells, len(pictures)) > 0 for cells in field.inside.T], axis=1)
    line = list(range(len(pictures)))
    Random(f"few/{seed}").shuffle(line)
    taken = np.zeros(len(pictures), bool)
    for c in np.argsort(shows.sum(0), kind="stable"):
        own = [i for i in line if shows[i, c] and not taken[i]]
        taken[own[: max(0, SHOTS - int(shows[taken, c].sum()))]] = True
    found: np.ndarray = taken[number]
    return found


def thresholds(logits: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """For each category the threshold [C] above which logits [n, C] overlap y [n, C] bool best, tokens weighed [n]:
    halfway between two logits, the higher one of equals."""
    order = np.argsort(-logits, axis=0)  # in whatever order equals come: between them is no threshold
    z = np.take_along_axis(logits, order, 0)
    w = np.ones(len(y)) if weights is None else weights
    all_w = w[order]
    hit = np.cumsum(np.take_along_axis(y, order, 0) * all_w, axis=0)
    overlap = hit / (np.cumsum(all_w, axis=0) + (y * w[:, None]).sum(0) - hit)
    lower = np.vstack([z[1:], z[-1:] - 1])
    best = np.where(z > lower, overlap, -1.0).argmax(0)[None]
    found: np.ndarray = (np.take_along_axis(z, best, 0) + np.take_along_axis(lower, best, 0))[0] / 2
    return found


def baselines(field: Field) -> dict[str, np.ndarray]:
    """{control: rows [T, D] float32} that need no layer: the token's row and column in its view, one-hot, and the mean
    colour of its cell."""
    columns = [field.views, *np.split(field.places, 2, axis=1)]
    view, row, column = (np.unique(np.ravel(one), return_inverse=True)[1] for one in columns)
    places = [
        np.eye(int((view * (side.max() + 1) + side).max()) + 1)[view * (side.max() + 1) + side]
        for side in (row, column)
    ]
    return {"position": np.hstack(places).astype(np.float32), "colour": field.colours.astype(np.float32)}
