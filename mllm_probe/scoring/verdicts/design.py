"""Scores that the data fix, not the states: equal rows have all labels in equal shares. Knows no model."""

import numpy as np

CONSTANT = "every decision has the same input"
PICTURE = "all decisions about a picture have the same input, and every picture has the labels in equal shares"
ALIKE = "decisions with the same input have the labels in equal shares"


def nothing_to_know(inputs: np.ndarray, y: np.ndarray, groups: np.ndarray) -> str | None:
    """Why no probe can beat the best constant answer, None where one could.

    inputs [N] numbers what is read: equal numbers are equal states, of which any probe says the same. Where each holds
    the labels y [N] in the shares of all N, the score of balanced labels is exactly that of guessing. groups [N] are
    the pictures, for the words.
    """
    _, code, sizes = np.unique(inputs, return_inverse=True, return_counts=True)
    _, label, totals = np.unique(y, return_inverse=True, return_counts=True)
    counts = np.zeros((len(sizes), len(totals)), int)
    np.add.at(counts, (code, label), 1)
    if len(totals) < 2 or (counts * len(y) != sizes[:, None] * totals).any():
        return None
    if len(sizes) == 1:
        return CONSTANT
    within = len(np.unique(np.stack([code, np.unique(groups, return_inverse=True)[1]]), axis=1).T) == len(sizes)
    return PICTURE if within else ALIKE
