"""The A score: how close picture features are to what the language model reads. There are two, and both have a name.

`a_cos` is that of the first version of Yang et al. (arXiv 2408.16357v1) and of their released code, `a_loglik` that of
the later ones. Letters: n pictures, T tokens of a picture, D width of the language model.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mllm_probe.errors import ProbeError
from mllm_probe.vision.c_score import unit

BLOCK = 4096  # reference tokens that are compared at a time


def a_cos(target: Sequence[np.ndarray], references: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    """Projected tokens, n arrays [T, D] -> {reference: [n]}, the mean over a picture's tokens of the greatest cosine
    to any of the reference's tokens.

    The maximum is over the reference, the mean over the target, so the two cannot be exchanged; places in the picture
    do not count, and numbers of tokens may differ. Compared with itself a representation has 1, which the released
    scores of CLIP contain. Raises ProbeError where the sides have other pictures or widths.
    """
    for name, reference in references.items():
        if len(reference) != len(target):
            raise ProbeError(f"a_cos: {len(target)} pictures cannot be compared with {len(reference)} of {name}")
    return {
        name: np.asarray([_best_cosine(one, other, name) for one, other in zip(target, reference, strict=True)])
        for name, reference in references.items()
    }


def _best_cosine(target: np.ndarray, reference: np.ndarray, name: str) -> float:
    if target.shape[1] != reference.shape[1]:
        raise ProbeError(
            f"a_cos: tokens of width {target.shape[1]} and {reference.shape[1]} ({name}) have no common space; "
            "projectors of the same language model are needed"
        )
    target, reference = unit(target.astype(np.float32)), unit(reference.astype(np.float32))
    starts = range(0, len(reference), BLOCK)
    best = np.max([(target @ reference[start : start + BLOCK].T).max(axis=1) for start in starts], axis=0)
    return float(best.mean(dtype=np.float64))


def a_loglik(log_probabilities: Sequence[np.ndarray]) -> np.ndarray:
    """Natural logarithms of the probability of each caption token, given the picture and the tokens before, n arrays
    [T] -> [n], the mean over each caption's tokens. A is the mean of these: captions count alike, tokens do not."""
    return np.asarray([one.mean(dtype=np.float64) for one in log_probabilities])
