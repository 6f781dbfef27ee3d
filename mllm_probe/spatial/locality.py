"""Which tokens of a picture know that a category is in it: only those that it covers, or all of them?

A_in is the AUROC of "the category is in the picture" from one token inside it, A_out the same from a token at least
`FAR` tokens away from it, each by a probe of its own; Loc = (A_in - A_out) / (A_in - 0.5) is 1 where only the object's
own tokens know, and 0 where every token knows. `told_apart` says from which tokens of other pictures they are told.

The curve of A over the distance is that of a third probe, trained at all distances alike. That of A_in would say how
far the object's own code reaches, and miss what distant tokens know in another one, which A_out counts. It is of the
first seed alone.

Letters: T tokens, n of them tested, C categories, G groups of test pictures.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mllm_probe.records.problems import Problem
from mllm_probe.records.score import ALPHA
from mllm_probe.records.sites import TOWERS
from mllm_probe.results.regions import A_AT, A_IN, A_OUT, ALL, AUROC, LOCALITY, Region
from mllm_probe.spatial.field import Field, Splits, check_splits, enough, left_out_said
from mllm_probe.spatial.macro import Counted, Macro, between, of_order, over_seeds, told
from mllm_probe.spatial.told_apart import DISTANCES, ToldApart
from mllm_probe.stats.bootstrap import codes
from mllm_probe.stats.intervals import LEAST, Interval
from mllm_probe.stats.permutation import holm_within
from mllm_probe.stats.ratios import below_bound, fieller

KNOWN = 0.55  # the lower end of A_in must lie above it for a ratio
GLOBAL = 0.5  # below it more than half of what is known is known everywhere


@dataclass(frozen=True)
class Locality:
    """The locality index of a run's keys; settings as in `RegionScoring`. Only categories count for which all probes
    can be learnt in all splits (`kept` [C] bool), so that both measures are means over the same ones."""

    field: Field
    splits: Splits
    level: float = 0.95

    def __post_init__(self) -> None:
        check_splits(self.field, self.splits)

    @cached_property
    def problems(self) -> list[Problem]:
        """What is asked of a key, nothing where no category is kept."""
        return [self._problem(*one) for one in self._asked]

    @cached_property
    def _asked(self) -> list[tuple[int, str]]:
        if not self.kept.any():
            return []
        asked = [(seed, kind) for seed in self.splits for kind in (A_IN, A_OUT)]
        return [*asked, *([(next(iter(self.splits)), A_AT)] if self._bins else [])]

    def scores(self, logits: Sequence[np.ndarray], blank: Region) -> list[Region]:
        """The rows of one key, from the logits [T, C] of each problem; `blank` says whose they are."""
        if not self._asked:
            return []
        said: dict[str, dict[int, np.ndarray]] = {}
        for (seed, kind), found in zip(self._asked, logits, strict=True):
            said.setdefault(kind, {})[seed] = found[self._test]
        rows = [*self._index(said, blank)]
        for name, tested in self._bins.items():
            by_seed = _measured(said[A_AT], tested)
            rows += told(replace(blank, metric=A_AT, distance=name), by_seed, tested, self.level)
        return rows

    def _problem(self, seed: int, kind: str) -> Problem:
        split, y = self.splits[seed], self.field.present[:, self.kept].astype(int)
        return Problem(y, split == "train", split == "val", "labels", self._cells[kind], seed)

    @cached_property
    def kept(self) -> np.ndarray:
        """[C] bool."""
        y, groups = self.field.present, self.field.groups
        sides = (cells & side for cells in self._told.values() for side in (y, ~y))
        return np.all([enough(side, groups, self.splits) for side in sides], axis=0)

    @property
    def remark(self) -> str | None:
        """Which categories are left out, in a sentence."""
        return left_out_said(self.field.categories, self.kept, " of the locality index")

    @cached_property
    def _test(self) -> np.ndarray:
        return next(iter(self.splits.values())) == "test"

    @cached_property
    def _apart(self) -> ToldApart:
        return ToldApart(self.field, self._test)

    @cached_property
    def _told(self) -> dict[str, np.ndarray]:
        """Which cells [T, C] bool count for each probe."""
        return {A_IN: self._apart.inside(), A_OUT: self._apart.away(), A_AT: self._apart.everywhere()}

    @cached_property
    def _cells(self) -> dict[str, np.ndarray]:
        """Those of kept categories."""
        return {kind: cells[:, self.kept] for kind, cells in self._told.items()}

    @cached_property
    def _bins(self) -> dict[str, Counted]:
        """{distance: the test tokens there}, of those that enough groups of pictures have."""
        every = {name: self._tested(self._apart.tested_at(name)[:, self.kept]) for name in DISTANCES}
        return {name: tested for name, tested in every.items() if tested.least >= LEAST}

    @cached_property
    def _known(self) -> dict[str, Counted]:
        """The test tokens of A_in, of A_out, and of their ratio, which has those of both."""
        cells = {**self._cells, LOCALITY: self._cells[A_IN] | self._cells[A_OUT]}
        return {kind: self._tested(cells[kind]) for kind in (A_IN, A_OUT, LOCALITY)}

    def _tested(self, cells: np.ndarray) -> Counted:
        """The cells [T, C] bool of test tokens."""
        return Counted(self.field.groups[self._test], self.field.present[self._test][:, self.kept], cells[self._test])

    def _index(self, said: Mapping[str, Mapping[int, np.ndarray]], blank: Region) -> Iterator[Region]:
        """Rows of A_in and A_out, and their ratio where A_in is well above chance."""
        found: dict[str, dict[int, Macro]] = {}
        means: dict[str, Region] = {}
        for kind in (A_IN, A_OUT):
            tested = self._known[kind]
            found[kind] = _measured(said[kind], tested)
            *rows, means[kind] = told(replace(blank, metric=kind), found[kind], tested, self.level)
            yield from (*rows, means[kind])
        if (low := means[A_IN].low) is not None and low > KNOWN:
            tested = self._known[LOCALITY]
            named = replace(tested.filled(blank), n_categories=means[A_IN].n_categories)
            yield from self._ratio(found, tested, named)

    def _ratio(self, found: Mapping[str, Mapping[int, Macro]], tested: Counted, blank: Region) -> Iterator[Region]:
        blank = replace(blank, metric=LOCALITY)
        for seed, inner in found[A_IN].items():
            yield replace(blank, seed=str(seed), value=loc(inner.value, found[A_OUT][seed].value))
        inner, outer = (over_seeds(list(found[kind].values())) for kind in (A_IN, A_OUT))
        used = tested.counted.any(1)
        member, size = codes(tested.groups[used])
        a_in, a_out = (replace(one, slopes=one.slopes[used]).by_group(member, size) for one in (inner, outer))
        low, high = fieller(a_in - a_out, a_in - 0.5, self.level)
        p_value = float(below_bound(a_in - a_out, a_in - 0.5, GLOBAL))
        known = None if np.isnan(p_value) else p_value
        row = replace(blank, seed=ALL, value=loc(inner.value, outer.value), p_value=known)
        yield between(row, Interval(float(low), float(high)), self.level)


def _measured(said: Mapping[int, np.ndarray], tested: Counted) -> dict[int, Macro]:
    return {seed: of_order([AUROC], z, tested.y, tested.counted)[AUROC] for seed, z in said.items()}


def loc(a_in: float, a_out: float) -> float:
    return (a_in - a_out) / (a_in - 0.5)


def corrected(rows: Sequence[Region]) -> list[Region]:
    """The rows of a run, p of Loc corrected over its sites (Holm 1979), or over what a control reads."""
    adjusted = holm_within([row.p_value for row in rows], [row.control for row in rows])
    return [replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]


def first_global(rows: Sequence[Region]) -> Region | None:
    """The row of the first site, in the order data passes them, whose Loc is surely below `GLOBAL`, all sites together:
    there local turns global. None where there is none. `rows` are `corrected` ones of one model and position."""
    index = [row for row in rows if row.p_holm is not None and row.tower in TOWERS and not row.control]
    index.sort(key=lambda row: (TOWERS.index(row.tower), row.layer or 0))
    return next((row for row in index if row.p_holm is not None and row.p_holm <= ALPHA), None)
