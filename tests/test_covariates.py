"""What a named column explains, and what is known beyond it: labels move between pictures of one stratum only."""

from itertools import permutations, product

import numpy as np

from mllm_probe.stats.permutation import max_t, votes


def test_labels_move_within_strata_as_enumerated_by_hand() -> None:
    """3 + 3 pictures of two rows: all 3! x 3! orders of the label blocks, against 20,000 random ones."""
    rng = np.random.default_rng(1)
    y = np.array([1, 1, 1, 0, 1, 1, 0, 0, 0, 1, 0, 0])
    groups, strata = np.repeat(np.arange(6), 2), np.repeat([0, 0, 0, 7, 7, 7], 2)
    v = votes(rng.normal(size=(4, 3, 12)) + y)
    blocks = y.reshape(6, 2)
    turns = [(*a, *b) for a, b in product(permutations(range(3)), permutations(range(3, 6)))]
    null = np.array([[v[k, np.arange(12), blocks[list(t)].ravel()].mean() for k in range(4)] for t in turns])
    found = max_t(v, y, groups, np.arange(12), permutations=20_000, strata=strata)
    assert np.allclose(found.expected, null.mean(axis=0), atol=0.003)
    assert np.allclose(found.p, (null >= null[0] - 1e-9).mean(axis=0), atol=0.015)


def test_pictures_change_places_only_where_their_rows_have_the_same_strata() -> None:
    """Pictures 0 and 1 hold the strata a and b in either order of rows, 2 and 3 hold a and a: 2 x 2 orders."""
    y = np.array([1, 0, 1, 1, 1, 1, 0, 0])
    groups, strata = np.repeat(np.arange(4), 2), np.array(list("abbaaaaa"))
    v = votes(np.array([[[3.0, -1, 2, -1, 1, 1, -1, -1]]]))
    found = max_t(v, y, groups, np.arange(8), permutations=4000, strata=strata)
    # picture 0 has 1 at a and 0 at b, picture 1 has 1 at both: only the label of row 1 (b) and row 2 (b) may change
    null = [np.mean([1, *b, 0, *rest]) for b in ((1, 1), (0, 0)) for rest in ([1, 1, 1, 1], [0, 0, 0, 0])]
    assert abs(found.expected[0] - np.mean(null)) < 0.01 and found.statistic[0] == null[0]
