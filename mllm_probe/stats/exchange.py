"""What a null exchanges: whole groups of rows, because rows of one picture, or of pictures that look alike, are not
independent. Letters: N rows, B draws.
"""

import numpy as np


def blocks(groups: np.ndarray, order: np.ndarray | None = None, strata: np.ndarray | None = None) -> list[np.ndarray]:
    """Rows of the groups [N] of each size, and make-up of `strata` [N], [groups, size]; inside a group by stratum, then
    in ascending `order` [N], else as they come.

    Where labels are exchanged `order` must say nothing about them: a digest does, true before false does not.
    """
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    stratum = np.zeros(len(member), int) if strata is None else np.unique(strata, return_inverse=True)[1]
    within = np.arange(len(member)) if order is None else order
    alike: dict[tuple[int, ...], list[np.ndarray]] = {}
    for rows in np.split(np.lexsort((within, stratum, member)), np.cumsum(sizes)[:-1]):
        alike.setdefault((len(rows), *stratum[rows].tolist()), []).append(rows)
    return [np.stack(alike[kind]) for kind in sorted(alike)]


def exchanged(parts: list[np.ndarray], draws: int, rng: np.random.Generator) -> np.ndarray:
    """The row that each row's content comes from [B, N]: groups change places within `parts` alone, so that each draw
    is as likely as the rows are where such groups are exchangeable. A group that is a part of its own stays."""
    source = np.empty((draws, sum(part.size for part in parts)), dtype=np.int64)
    for part in parts:
        turn = rng.permuted(np.tile(np.arange(len(part)), (draws, 1)), axis=1)
        source[:, part.ravel()] = part[turn].reshape(draws, -1)
    return source


def handed_on(groups: np.ndarray, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same once [N], and no group stays for its size: all rows in a drawn order of the groups are dealt out to the
    rows in the order of the groups. Groups of one size change places whole; others are cut where sizes differ."""
    _, member = np.unique(groups, return_inverse=True)
    turn = rng.permutation(member.max(initial=0) + 1)
    source = np.empty(len(member), dtype=np.int64)
    source[np.lexsort((order, member))] = np.lexsort((order, turn[member]))
    return source
