"""Is a value larger than what draws of chance give, over many values at once: max-T against drawn statistics.

The null is not made by exchanging rows but by doing the same with something drawn, such as a direction. Letters: K
values, B draws.
"""

import numpy as np

from mllm_probe.errors import ProbeError
from mllm_probe.stats.permutation import Flips, step_down


def max_t_draws(values: np.ndarray, null: np.ndarray) -> Flips:
    """Step-down max-T (Westfall and Young 1993) of values [K] against those of draws [B, K], two-sided.

    p = (1 + #{|drawn| >= |observed|}) / (B + 1). A column is divided by its root mean square, the observed value among
    the drawn ones, so that all of them are alike under the null and columns of another scale count the same. A row of
    `null` is one draw for all columns: what columns have in common stays in the null where a draw is the same one in
    them. A column that is 0 throughout gets p = 1. Raises ProbeError for shapes, or values that are not finite.
    """
    if null.ndim != 2 or null.shape[1:] != values.shape or not len(null):
        raise ProbeError(f"draws of shape {null.shape} must be [at least 1, {len(values)}], the values they are of")
    every = np.abs(np.concatenate([values[None], null]).astype(np.float64))
    if bad := int((~np.isfinite(every)).sum()):
        raise ProbeError(f"{bad} of {every.size} values and draws are not finite; a test needs numbers")
    scale = np.sqrt((every**2).mean(axis=0))
    return Flips(*step_down(every / np.where(scale > 0, scale, 1)))
