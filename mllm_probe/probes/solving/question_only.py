"""The question-only baseline's features: which words a text holds. Knows texts, no picture and no model."""

from collections.abc import Sequence

import numpy as np


def bag_of_words(texts: Sequence[str]) -> np.ndarray:
    """[N, V] of 0 and 1: word presence, single letters included."""
    from sklearn.feature_extraction.text import CountVectorizer

    counts = CountVectorizer(binary=True, token_pattern=r"(?u)\b\w+\b", dtype=np.float64).fit_transform(texts)
    return np.asarray(counts.todense())
