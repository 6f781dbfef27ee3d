"""Means of a measure over categories, with what each token adds to them, and the rows that tell them. Knows no layer.

A measure of one category is a function of the weights of its tokens. Its slope by each weight (the infinitesimal
jackknife, as in `stats.measures`) makes it a mean of one number a token, so that the mean over categories, whose tokens
may differ, is one, too, and has the interval of such a mean. Letters: n tokens, C categories, G picture groups.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mllm_probe.results.regions import ALL, AUROC, AVERAGE_PRECISION, Region
from mllm_probe.spatial.field import held
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.intervals import LEAST, Interval, of_rows
from mllm_probe.stats.rank_measures import Blocks, auroc_slopes, average_precision_slopes

SLOPES = {AUROC: auroc_slopes, AVERAGE_PRECISION: average_precision_slopes}


@dataclass(frozen=True)
class Macro:
    """The mean over `categories` of a measure, and its slope by the weight of each token [n]; nan without any."""

    value: float
    slopes: np.ndarray
    categories: int

    @property
    def rows(self) -> np.ndarray:
        """Linearised scores [n], whose mean is the value."""
        return self.value + len(self.slopes) * self.slopes

    def by_group(self, member: np.ndarray, size: int) -> np.ndarray:
        """Linearised scores of groups [G], whose mean is the value; member [n] 0 .. G - 1."""
        return self.value + size * np.bincount(member, self.slopes, size)


def of_order(
    metrics: Sequence[str], logits: np.ndarray, y: np.ndarray, counted: np.ndarray | None = None
) -> dict[str, Macro]:
    """Each of average_precision and auroc that is asked for, of logits [n, C] by y [n, C] bool, over the cells
    `counted` [n, C] bool (None: all).

    Categories that lack a positive or a negative are left out.
    """
    values, slopes = dict.fromkeys(metrics, 0.0), {metric: np.zeros(len(y)) for metric in metrics}
    categories = 0
    for c in range(y.shape[1]):
        rows = slice(None) if counted is None else np.flatnonzero(counted[:, c])
        blocks = Blocks.of(logits[rows, c], y[rows, c])
        if blocks.one_class:
            continue
        categories += 1
        for metric in metrics:
            own, each = SLOPES[metric](blocks)
            slopes[metric][rows] += each
            values[metric] += own
    return {metric: _mean(values[metric], slopes[metric], categories) for metric in metrics}


def of_overlap(said: np.ndarray, y: np.ndarray) -> Macro:
    """Intersection over union of said [n, C] bool and y [n, C] bool, tokens of all pictures pooled for each category
    (as in PASCAL VOC, Everingham et al. 2010, section 4.2); categories without a positive are left out."""
    kept = y.any(0)
    both, either = (said & y)[:, kept], (said | y)[:, kept]
    union = either.sum(0)
    values = both.sum(0) / union
    slopes = ((both - values * either) / union).sum(1)
    return _mean(float(values.sum()), slopes, int(kept.sum()))


def _mean(value: float, slopes: np.ndarray, categories: int) -> Macro:
    if not categories:
        return Macro(np.nan, np.full(len(slopes), np.nan), 0)
    return Macro(value / categories, slopes / categories, categories)


def over_seeds(found: Sequence[Macro]) -> Macro:
    """Their mean; all are of the same tokens."""
    slopes = np.mean([one.slopes for one in found], axis=0)
    return Macro(float(np.mean([one.value for one in found])), slopes, found[0].categories)


@dataclass(frozen=True)
class Counted:
    """The tokens that a measure is of: their groups [n], labels and which cells count [n, C] bool. All keys of a run
    share them."""

    groups: np.ndarray
    y: np.ndarray
    counted: np.ndarray

    @cached_property
    def least(self) -> int:
        """Groups that hold the rarer label, of any category."""
        return int(min(held((self.counted & side).any(1)[:, None], self.groups)[0] for side in (self.y, ~self.y)))

    @cached_property
    def _size(self) -> dict[str, int]:
        used = self.counted.any(1)
        return {"n": int(used.sum()), "n_groups": len(np.unique(self.groups[used]))}

    @cached_property
    def _pictures(self) -> Resamples:
        return Resamples(self.groups, 1)

    def filled(self, blank: Region) -> Region:
        """With the numbers of what counts."""
        return replace(blank, **self._size)  # type: ignore[arg-type]

    def interval(self, found: Macro, level: float) -> Interval:
        """That of the mean, by picture group; none where a label is in fewer than `intervals.LEAST` of them."""
        if (least := self.least) < LEAST:
            return Interval(np.nan, np.nan, f"a label is in {least} groups of test pictures; {LEAST} are needed")
        return of_rows(found.rows, self._pictures, level, share=True, least=least)


def told(blank: Region, found: Mapping[int, Macro], tested: Counted, level: float) -> Iterator[Region]:
    """A row a seed, and their mean with its interval; nothing where there is no category."""
    mean = over_seeds(list(found.values()))
    if not mean.categories:
        return
    blank = replace(tested.filled(blank), n_categories=mean.categories)
    for seed, one in found.items():
        yield replace(blank, seed=str(seed), value=one.value)
    yield between(replace(blank, seed=ALL, value=mean.value), tested.interval(mean, level), level)


def between(row: Region, limits: Interval, level: float) -> Region:
    """With an interval, where there is one."""
    if np.isnan(limits.low):
        return row
    return replace(row, low=limits.low, high=limits.high, ci_level=level)
