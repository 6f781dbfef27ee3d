"""Draws of pictures for two sets of rows at once, so that curves of two tasks on the same pictures are compared.

Knows pictures and rows, not what the two sets are. Letters: N rows of one side, R draws, L layers.
"""

from typing import Literal

import numpy as np

from mllm_probe.errors import ProbeError
from mllm_probe.stats.bootstrap import Resamples, picture_sums

Side = Literal["a", "b"]


class JointResamples:
    """The pictures of the union are drawn together: what the sides share moves both, what they do not only one.

    Where both sides have the same rows of the same pictures, the draws are those of `Resamples` with that seed.
    """

    def __init__(self, groups_a: np.ndarray, groups_b: np.ndarray, draws: int = 2000, seed: int = 0) -> None:
        """groups: [N] picture ids of each side. Raises ProbeError for a side without rows, and as `Resamples`."""
        groups = {"a": np.asarray(groups_a), "b": np.asarray(groups_b)}
        if bare := [name for name, ids in groups.items() if not len(ids)]:
            raise ProbeError(f"side {bare[0]} of two has no rows, so there is nothing to draw together")
        self._union = Resamples(np.concatenate([groups["a"], groups["b"]]), draws, seed)
        cut = len(groups["a"])
        self._member = {"a": self._union.member[:cut], "b": self._union.member[cut:]}

    def ratios(self, which: Side, scores: np.ndarray) -> np.ndarray:
        """Row scores [N, L] of one side -> their mean over the drawn rows in each draw: [R, L].

        A draw without any row of that side is nan. Raises ProbeError unless N is the rows of that side.
        """
        member, size, counts = self._member[which], self._union.size, self._union.counts
        if scores.ndim != 2 or len(scores) != len(member):
            raise ProbeError(
                f"scores of shape {scores.shape} must be [{len(member)}, layers], the rows of side {which}"
            )
        n = counts.T @ picture_sums(member, size, np.ones(len(member)))
        return (counts.T @ picture_sums(member, size, scores)) / np.where(n > 0, n, np.nan)[:, None]
