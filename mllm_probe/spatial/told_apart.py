"""Which tokens tell whether a category is in their picture, and the tokens of other pictures that they are told from.

They are matched in two things that tell without any knowledge of the category. Of both as large a share lies
inside some object: else a probe that sees no more than "there is an object here" would tell them apart. And of both as
large a share lies at each place of the picture: tokens far from an object are at its edges more often than others, so a
probe that knows the place alone would. Knows no state. Letters: T tokens, C categories, S strata.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mllm_probe.records.problems import content
from mllm_probe.spatial.field import Field

FAR = 3  # tokens from the category, from where on a token is away from it
DISTANCES = {"0": (0, 1), "1": (1, 2), "2": (2, 3), "3": (3, 4), "4-5": (4, 6), "6+": (6, np.inf)}  # from, to below
RATIO = 2  # negatives that train for each positive, at most
FINEST = 6  # places are told in so many rows and columns at most: finer ones have no token to match with


@dataclass(frozen=True)
class ToldApart:
    """Cells [T, C] bool of a field of which some pictures are `test` [T] bool. What is drawn is the same for the same
    field, in every run and for every seed."""

    field: Field
    test: np.ndarray

    def inside(self) -> np.ndarray:
        """Tokens inside the category, told from tokens inside others."""
        return self._told(self.field.inside & self.field.present, "inside")

    def away(self) -> np.ndarray:
        """Tokens at least `FAR` from the category."""
        return self._told(self._between(FAR, np.inf), "away")

    def everywhere(self) -> np.ndarray:
        """Tokens at every distance, of each as many as lie inside the category, or all that there are."""
        bins = {name: self._between(*ends) for name, ends in DISTANCES.items()}
        found = np.zeros_like(self.field.present)
        for part in (self.test, ~self.test):
            most = (bins["0"] & part[:, None]).sum(0)
            for name, at in bins.items():
                for c, column in enumerate(at.T):
                    lot, tokens = self._lots(f"everywhere {name}", c), np.flatnonzero(column & part)
                    found[tokens[np.argsort(lot[tokens])][: most[c]], c] = True
        return self._told(found, "everywhere")

    def tested_at(self, distance: str) -> np.ndarray:
        """Test tokens at one of the `DISTANCES`."""
        return self._told(self._between(*DISTANCES[distance]) & self.test[:, None], distance)

    def _between(self, low: float, high: float) -> np.ndarray:
        """Tokens at such a distance from a category of their picture; what no token of the view shows has none."""
        away = self.field.away
        return self.field.present & np.isfinite(away) & (away >= low) & (away < high)

    def _told(self, positive: np.ndarray, what: str) -> np.ndarray:
        """With negatives: for each positive as many as every stratum can give in test pictures, at most `RATIO`
        elsewhere. Positives beyond the negatives of their stratum are left out."""
        found = np.zeros_like(positive)
        for c in range(positive.shape[1]):
            lot = self._lots(what, c)
            for part, ratio in ((self.test, np.inf), (~self.test, RATIO)):
                sides = [np.flatnonzero(side & part) for side in (positive[:, c], ~self.field.present[:, c])]
                own, free = (np.bincount(self._strata[side], minlength=self._strata.max() + 1) for side in sides)
                kept = np.minimum(own, free)
                if not kept.any():
                    continue
                times = min(ratio, (free[kept > 0] / kept[kept > 0]).min())
                for side, most in zip(sides, (kept, np.round(kept * times)), strict=True):
                    found[_first(side, self._strata, lot, most), c] = True
        return found

    @cached_property
    def _strata(self) -> np.ndarray:
        """Of each token [T] int: whether it lies on an object, its view, and its place there."""
        number = self.field.objects.astype(int)
        for column in (self.field.views, *self.field.places.T):
            sides = column.max() + 1
            number = number * sides + (column if column is self.field.views else column * min(sides, FINEST) // sides)
        found: np.ndarray = np.unique(number, return_inverse=True)[1]
        return found

    def _lots(self, what: str, c: int) -> np.ndarray:
        """[T] float: in which order tokens are drawn."""
        return np.random.default_rng(int(content(what, self.field.categories[c]), 16)).random(len(self.test))


def _first(tokens: np.ndarray, strata: np.ndarray, lot: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Of some tokens the first ones of each stratum by their lots, at most so many [S]."""
    ordered = tokens[np.lexsort((lot[tokens], strata[tokens]))]
    own = strata[ordered]
    rank = np.arange(len(own)) - np.searchsorted(own, own)
    found: np.ndarray = ordered[rank < most[own]]
    return found
