"""How often the words of a lens are local, elsewhere or unrelated, with intervals, and how often by chance. Knows words
and what lies on tokens, no model.

Every token counts as often as the task's choice says that it stands for tokens of its picture, so that shares are those
over all tokens of the pictures. By chance: a token on an object gets what lies on one of another picture's objects, a
token beside them one beside, so a word must know which object, and not only that there is one.

Letters: T tokens, k words of each, the nearest first.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mllm_probe.results.lenses.lens import ABOVE, BESIDE, EXCHANGED, OBJECTS, SHARES, Lens
from mllm_probe.spatial.exchanges import among_alike
from mllm_probe.spatial.field import Field
from mllm_probe.spatial.lenses.names import Names
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.intervals import of_rows

TOPS = (1, 5)  # nearest words that are looked at
DRAWS = 8  # exchanges of pictures, over which chance is a mean


@dataclass(frozen=True)
class Judged:
    """A field whose categories all have words (`Names.known`), and the intervals' level."""

    field: Field
    names: Names
    level: float = 0.95

    def rows(self, ids: np.ndarray, blank: Lens) -> Iterator[Lens]:
        """The shares of words ids [T, k]; `blank` says whose they are. Those by chance stand in rows of their own
        where `blank.control` is empty."""
        own = self.names.judged(ids, self.field.inside, self.field.present)
        chance = [self._exchanged(ids, source) for source in self._sources]
        for tokens, on in self._strata.items():
            counted = on & np.all([source >= 0 for source in self._sources], axis=0)
            groups = self.field.groups[counted]
            if len(np.unique(groups)) < 2:
                continue
            named = replace(blank, tokens=tokens, n=int(counted.sum()), n_groups=len(np.unique(groups)))
            for top in TOPS:
                kinds = [each[counted, :top].min(1) for each in (own, *chance)]
                yield from self._shares(kinds, counted, replace(named, top=top))

    def _shares(self, kinds: list[np.ndarray], counted: np.ndarray, blank: Lens) -> Iterator[Lens]:
        """Kinds [n] of real labels, then of each exchange."""
        weights = np.ones(len(kinds[0])) if self.field.weights is None else self.field.weights[counted]
        pictures = Resamples(self.field.groups[counted], 1)
        for kind, name in enumerate(SHARES):
            if blank.tokens == BESIDE and name == SHARES[0]:
                continue  # nothing is there
            mine = (kinds[0] == kind).astype(float)
            luck = np.mean([other == kind for other in kinds[1:]], axis=0)
            yield self._row(weighed(mine, weights), pictures, replace(blank, metric=name), share=True)
            if not blank.control:
                row = replace(blank, metric=name, control=EXCHANGED)
                yield self._row(weighed(luck, weights), pictures, row, share=True)
            if name in ABOVE:
                row = replace(blank, metric=ABOVE[name])
                yield self._row(weighed(mine - luck, weights), pictures, row, share=False)

    def _row(self, rows: np.ndarray, pictures: Resamples, blank: Lens, share: bool) -> Lens:
        limits, value = of_rows(rows, pictures, self.level, share), float(rows.mean())
        if np.isnan(limits.low):
            return replace(blank, value=value)
        return replace(blank, value=value, low=limits.low, high=limits.high, ci_level=self.level)

    def _exchanged(self, ids: np.ndarray, source: np.ndarray) -> np.ndarray:
        return self.names.judged(ids, self.field.inside[source], self.field.present[source])

    @cached_property
    def _strata(self) -> dict[str, np.ndarray]:
        on = np.asarray(self.field.inside.any(1))
        return {OBJECTS: on, BESIDE: ~on}

    @cached_property
    def _sources(self) -> list[np.ndarray]:
        return [among_alike(self.field, seed) for seed in range(DRAWS)]


def weighed(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rows [n] whose mean is the weighted mean of values [n], linearised in the weights; the values themselves where
    all weigh alike."""
    if np.ptp(weights) <= 1e-12 * weights.max():
        return values
    mean = weights @ values / weights.sum()
    rows: np.ndarray = mean + len(values) / weights.sum() * weights * (values - mean)
    return rows
