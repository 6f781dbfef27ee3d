"""Are two arms equal at any of many layers: two-sided max-T over sign flips. Knows differences and pictures only.

Letters: K differences (layers, or layers x draws), G pictures, B sign patterns.
"""

from dataclasses import dataclass

import numpy as np

from mllm_probe.stats.permutation import step_down

EXACT = 12  # up to this many pictures that differ anywhere, all 2^G sign patterns are tried


@dataclass(frozen=True)
class Flips:
    """Two-sided p of each difference [K], and p adjusted over all of them."""

    p: np.ndarray
    p_adjusted: np.ndarray


def max_t_flips(sums: np.ndarray, permutations: int = 9999, seed: int = 0) -> Flips:
    """Step-down max-T (Westfall and Young 1993) of differences summed by picture [K, G].

    Where the arms are exchangeable, a picture's differences change their sign together in all layers with even chance,
    so what layers have in common stays in the null. The statistic is |sum| over its deviation under flips, the root of
    the sum of squares; p = (1 + #{flipped >= observed}) / (B + 1), over all patterns where few pictures differ.
    A layer without any difference gets p = 1.
    """
    scale = np.linalg.norm(sums, axis=1, keepdims=True)
    unit = sums / np.where(scale > 0, scale, 1)
    unit = unit[:, np.any(unit != 0, axis=0)]
    return Flips(*step_down(np.abs(signs(unit.shape[1], permutations, seed) @ unit.T)))


def signs(pictures: int, permutations: int, seed: int) -> np.ndarray:
    """[1 + B, G] of 1 and -1, the observed pattern first."""
    if pictures <= EXACT:
        bits = np.arange(2**pictures)[:, None] >> np.arange(pictures) & 1
    else:
        bits = np.random.default_rng(seed).integers(0, 2, (1 + permutations, pictures), dtype=np.int8)
        bits[0] = 0
    return 1 - 2 * bits.astype(np.float32)
