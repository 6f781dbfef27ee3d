"""Which looks at a picture its patches make up, and where each patch is in its look: a thumbnail and tiles are two."""

from dataclasses import dataclass

import numpy as np

from mllm_probe.models.grids.pixels import Cut

ALIKE = 0.05  # by how much patches of one size may differ: colours of 8 bits tell no more


@dataclass(frozen=True)
class Looks:
    """`places` [P, 3] of patches: the look, the line and the column there; -1 where the picture does not tell."""

    places: np.ndarray

    @classmethod
    def of(cls, cut: Cut) -> "Looks":
        """Patches of one size in the picture are one look; where two of them cover the same, tiles are two looks."""
        places = np.full((len(cut.cells), 3), -1)
        sizes = cut.cells[:, 2:] - cut.cells[:, :2]
        kinds: list[np.ndarray] = []
        for i in np.flatnonzero(np.isfinite(sizes).all(axis=1)):
            near = [k for k, kind in enumerate(kinds) if np.abs(sizes[i] / kind - 1).max() < ALIKE]
            if not near:
                kinds.append(sizes[i])
            places[i, 0] = near[0] if near else len(kinds) - 1
        for look, size in enumerate(kinds):
            own = places[:, 0] == look
            starts = cut.cells[own, :2]
            places[own, 2:0:-1] = np.round((starts - starts.min(axis=0)) / size).astype(int)
        return cls(_apart(places))


def _apart(places: np.ndarray) -> np.ndarray:
    """The second patch at a place is another look."""
    seen: dict[tuple[int, ...], int] = {}
    turns = np.zeros(len(places), dtype=int)
    for i, place in enumerate(map(tuple, places.tolist())):
        turns[i] = seen.get(place, 0)
        seen[place] = turns[i] + 1
    told = places[:, 0] >= 0
    both = np.stack([places[:, 0], turns], axis=1)
    found = places.copy()
    found[told, 0] = np.unique(both[told], axis=0, return_inverse=True)[1]
    return found
