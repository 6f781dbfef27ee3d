"""Pairs that share pictures, against the components that scipy finds."""

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mllm_probe.errors import ProbeError
from mllm_probe.stats.links import linked


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_the_connected_components(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 60, (2, 45))
    _, of = connected_components(coo_array((np.ones(45), (first, second)), shape=(60, 60)), directed=False)
    found = linked(first.astype(str), second.astype(str))
    same = found[:, None] == found
    assert (same == (of[first][:, None] == of[first])).all()


def test_a_group_is_named_after_its_first_picture() -> None:
    found = linked(np.array(["c", "b", "x"]), np.array(["b", "a", "y"]))
    assert found.tolist() == ["a", "a", "x"]


def test_pairs_have_two_pictures() -> None:
    with pytest.raises(ProbeError, match="two of each"):
        linked(np.array(["a"]), np.array(["a", "b"]))
