"""What the rows [N, D] of a layer must be before they are measured: finite, not all equal, no dimension boundless."""

import numpy as np

from mllm_probe.errors import ProbeError

FEWEST = 4  # below, the unbiased HSIC divides by n - 3 = 0
ROUNDING = 1e-6  # what differs by less than this share of its size is the same number in float32


def check_finite(values: np.ndarray, name: str) -> None:
    """Raises ProbeError with the name of the layer and how many of its values [N, D] are nan or infinite."""
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise ProbeError(
            f"{name} holds {bad} values that are not finite and cannot be compared; leave the layer out with "
            "layers.range, or store it with extract.dtype=float32"
        )


def is_constant(values: np.ndarray) -> bool:
    """Whether all rows [N, D] are the same but for rounding, as the embeddings of one token are."""
    return bool((np.ptp(values, axis=0) <= ROUNDING * np.abs(values).max(axis=0)).all())


def prepared(values: np.ndarray, clip: float | None, standardise: bool) -> np.ndarray:
    """Values [N, D], cut, then each dimension alike where that is asked for."""
    cut = clip_outliers(values, clip)
    return standardised(cut) if standardise else cut


def clip_outliers(values: np.ndarray, clip: float | None) -> np.ndarray:
    """Values [N, D], each no further from its dimension's mean than `clip` standard deviations; None changes nothing.

    The standard deviation is that of the middle dimension among those that vary, one number for the layer: its own
    would leave a massive dimension as massive as it was, and a few of those decide every inner product (Sun et al.
    2024, arXiv 2402.17762, on massive activations). A dimension that is cut still has up to clip^2 times the variance
    of an ordinary one, and so counts in CKA, which squares it, as clip^4 of them.
    """
    mean, spread = values.mean(axis=0), values.std(axis=0)
    if clip is None or not spread.any():
        return values
    bound = clip * float(np.median(spread[spread > 0]))
    return mean + np.clip(values - mean, -bound, bound)


def standardised(values: np.ndarray) -> np.ndarray:
    """Values [N, D] with mean 0 and deviation 1 in every dimension, so that each counts as much as any other: cosines,
    too, which large means decide that clipping leaves alone. A dimension that does not vary is 0."""
    mean, spread = values.mean(axis=0), values.std(axis=0)
    return divided(values - mean, mean, spread)


def divided(centred: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Rows [N, D] less their mean by the spread [D]; 0 where that is no more than the rounding of the mean."""
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > ROUNDING * np.abs(mean))
