"""Which tokens tell whether a category is in their picture, and the tokens of other pictures that they are told from.

Of both as large a share lies inside some object: else a probe that sees no more than "there is an object here" would
tell them apart. Knows no state. Letters: T tokens, C categories.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllm_probe.records.problems import content
from mllm_probe.spatial.field import Field

FAR = 3  # tokens from the category, from where on a token is away from it
DISTANCES = {"0": (0, 1), "1": (1, 2), "2": (2, 3), "3": (3, 4), "4-5": (4, 6), "6+": (6, np.inf)}  # from, to below
RATIO = 2  # negatives that train for each positive, at most


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
            most = (bins["0"] & part[:, None]).sum(0).tolist()
            for name, at in bins.items():
                for c, column in enumerate(at.T):
                    found[self._drawn(np.flatnonzero(column & part), most[c], f"everywhere {name}", c), c] = True
        return self._told(found, "everywhere")

    def tested_at(self, distance: str) -> np.ndarray:
        """Test tokens at one of the `DISTANCES`."""
        return self._told(self._between(*DISTANCES[distance]) & self.test[:, None], distance)

    def _between(self, low: float, high: float) -> np.ndarray:
        """Tokens at such a distance from a category of their picture; what no token of the view shows has none."""
        away = self.field.away
        return self.field.present & np.isfinite(away) & (away >= low) & (away < high)

    def _told(self, positive: np.ndarray, what: str) -> np.ndarray:
        """With negatives: as many as can be in test pictures, at most `RATIO` for each positive elsewhere."""
        found = positive.copy()
        for c in range(positive.shape[1]):
            for part, ratio in ((self.test, np.inf), (~self.test, RATIO)):
                own = positive[:, c] & part
                if number := int(own.sum()):
                    on = int((own & self.field.objects).sum())
                    free = ~self.field.present[:, c] & part
                    pools = [np.flatnonzero(free & (self.field.objects == side)) for side in (True, False)]
                    for pool, most in zip(pools, _as_shared(pools, (on, number - on), ratio), strict=True):
                        found[self._drawn(pool, most, what, c), c] = True
        return found

    def _drawn(self, tokens: np.ndarray, most: int, what: str, c: int) -> np.ndarray:
        """At most so many."""
        if len(tokens) <= most:
            return tokens
        rng = np.random.default_rng(int(content(what, self.field.categories[c]), 16))
        return rng.permutation(tokens)[:most]


def _as_shared(pools: Sequence[np.ndarray], wanted: tuple[int, int], ratio: float) -> list[int]:
    """How many to take of two pools so that they are to each other as the wanted numbers are: at most `ratio` times
    these."""
    times = min([ratio, *(len(pool) / number for pool, number in zip(pools, wanted, strict=True) if number)])
    return [round(times * number) for number in wanted]
