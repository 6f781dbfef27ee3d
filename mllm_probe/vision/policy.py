"""The AC policy: which vision representations to train in full, so that the law fitted to them finds the best of all.

Yang et al., arXiv 2408.16357, section 5: candidates are drawn from the cells of a lattice over the unit square of A and
C, refined when every occupied cell was drawn from; the law fitted to them ranks all. The draw never looks at
performance. Knows arrays only. Letters: N candidates, T trials, P terms.
"""

from collections.abc import Sequence

import numpy as np

from mllm_probe.vision.law import LAW, MODELS, fit, terms

DEEPEST = 40  # below a side of 2^-40 two candidates are one point


def cells(unit: np.ndarray, level: int) -> np.ndarray:
    """The cell [..., 2] of scaled A and C [..., 2] among 2^level x 2^level; 1 belongs to the last one."""
    return np.minimum(np.floor(unit * 2**level), 2**level - 1).astype(np.int64)


def lattices(unit: np.ndarray) -> list[np.ndarray]:
    """Which candidates [N, 2] share a cell, [N, N] for level 1, 2, ..., until each is alone; the very same points are
    parted at last, so that all can be drawn."""
    found: list[np.ndarray] = []
    for level in range(1, DEEPEST + 1):
        cell = cells(unit, level)
        found.append((cell[:, None] == cell[None]).all(axis=-1))
        if found[-1].sum() == len(unit):
            return found
    return [*found, np.eye(len(unit), dtype=bool)]


def chances(lattice: Sequence[np.ndarray], trained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How likely each candidate is next after those `trained` [T, N] -> ([T, N], level [T]; 0 where all are trained).

    At the first level that has one, a cell that is occupied and holds nobody trained, all alike; then one of its
    candidates, all alike. A cell once drawn from stays so at its level, and finer cells lie within it, so the level
    follows from who is trained.
    """
    found, level = np.zeros(trained.shape), np.zeros(len(trained), dtype=np.int64)
    for number, same in enumerate(lattice, 1):
        weight = ~(trained @ same) / same.sum(axis=0)  # sums to the number of cells there are to choose from
        here = (level == 0) & weight.any(axis=1)
        found[here] = weight[here] / weight[here].sum(axis=1, keepdims=True)
        level[here] = number
    return found, level


def draw(unit: np.ndarray, trained: np.ndarray, picks: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The next `picks` candidates after those `trained` [T, N] -> (indices [T, picks], level of each [T, picks])."""
    lattice, taken = lattices(unit), trained.copy()
    order, levels = (np.zeros((len(trained), picks), dtype=np.int64) for _ in range(2))
    for pick in range(picks):
        chance, levels[:, pick] = chances(lattice, taken)
        upto = chance.cumsum(axis=1)
        order[:, pick] = (upto > rng.uniform(size=(len(trained), 1)) * upto[:, -1:]).argmax(axis=1)
        taken[np.arange(len(taken)), order[:, pick]] = True
    return order, levels


def predict(unit: np.ndarray, y: np.ndarray, order: np.ndarray) -> np.ndarray:
    """What the law fitted to the candidates `order` [T, k] says of all -> [T, N]. Below seven candidates it is the
    surface of least norm, see `fit`."""
    x = terms(unit, MODELS[LAW])
    return fit(x[order], y[order]).at(x)


def shortlisted(predicted: np.ndarray, trained: np.ndarray, most: int) -> np.ndarray:
    """Who is surely among the first `most` by prediction [T, N], `trained` [T, N] before others that tie -> [T, N].

    After one run all predictions are alike and the list is that one, which is how the authors' simulation counts.
    """
    other, own = predicted[:, None, :], predicted[:, :, None]
    ahead = trained[:, :, None] & ~trained[:, None, :]
    before = (other > own) | ((other == own) & ~ahead)
    return before.sum(axis=-1) - 1 < most


def simulate(unit: np.ndarray, y: np.ndarray, trials: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Whether the best by y [N] is in the shortlist of `most` after 1, 2, ..., N runs of the policy -> [T, N]."""
    nobody = np.zeros((trials, len(y)), dtype=bool)
    order, _ = draw(unit, nobody, len(y), rng)
    hits, trained = nobody.copy(), nobody.copy()
    for run in range(len(y)):
        trained[np.arange(trials), order[:, run]] = True
        found = shortlisted(predict(unit, y, order[:, : run + 1]), trained, most)
        hits[:, run] = found[:, y == y.max()].any(axis=1)
    return hits


def ranked_by(score: np.ndarray, y: np.ndarray, most: int) -> bool:
    """Whether the best by y [N] is among the first `most` by a score [N] that costs no run."""
    nobody = np.zeros((1, len(y)), dtype=bool)
    return bool(shortlisted(score[None], nobody, most)[0, y == y.max()].any())
