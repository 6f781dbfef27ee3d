"""Exchange captions so that false ones resemble true ones. Knows words only: no prompt, no model.

The exchange of `matching` with a better start: of all one-to-one exchanges within a fold, the one whose true and false
captions have the greatest sum of TF-IDF cosines. Pictures with the same annotated objects lend each other nothing:
what is said of one is too often true of the other.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np

from mllm_probe.errors import DataError
from mllm_probe.records.samples import Picture
from mllm_probe.tasks.matching import Claim, exchange, strangers

PIECE = 1000  # claims matched at once: the assignment takes the cube of it in time, its square in memory
FORBIDDEN = -2.0 * PIECE  # no gain elsewhere makes up for it, so as few as possible are taken


def similar(
    claims: Sequence[Claim], contradicts: Callable[[Picture, str], bool], rng: Random, piece: int = PIECE
) -> list[Claim | None]:
    """As `exchange`, with the most similar captions that are false. Raises DataError where captions hold no word.

    Folds of more than `piece` claims are cut at the median of their leading singular component until the pieces fit.
    """
    vectors = _vectors([text for _, text in claims])
    start: dict[int, int] = {}
    for part in _pieces(vectors, np.arange(len(claims)), piece):
        start |= _matched(claims, vectors, part, contradicts)
    return exchange(claims, contradicts, rng, start, unlike)


def unlike(first: Picture, second: Picture) -> bool:
    """Pictures of two groups that are not known to show the same objects."""
    return strangers(first, second) and (first.categories is None or first.categories != second.categories)


def _vectors(texts: Sequence[str]) -> Any:
    """Unit TF-IDF vectors [N, words], sparse: the dot product of two is their cosine."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        return TfidfVectorizer(token_pattern=r"\w+").fit_transform(texts)
    except ValueError as error:
        raise DataError(f"captions such as {texts[0]!r} hold no word; task.negatives=similar needs words") from error


def _pieces(vectors: Any, rows: np.ndarray, most: int) -> list[np.ndarray]:
    if len(rows) <= most:
        return [rows]
    from sklearn.utils.extmath import randomized_svd  # TruncatedSVD without variances, which may be 0 / 0

    left, _, _ = randomized_svd(vectors[rows], 1, random_state=0)
    order = rows[np.argsort(left[:, 0], kind="stable")]
    half = len(order) // 2
    return _pieces(vectors, np.sort(order[:half]), most) + _pieces(vectors, np.sort(order[half:]), most)


def _matched(
    claims: Sequence[Claim], vectors: Any, rows: np.ndarray, contradicts: Callable[[Picture, str], bool]
) -> dict[int, int]:
    """{claim: the claim whose text it takes}, the best one-to-one match among these claims."""
    from scipy.optimize import linear_sum_assignment

    worth = (vectors[rows] @ vectors[rows].T).toarray()
    allowed: dict[str, list[bool]] = {}  # by picture, whose claims all have the same row
    for line, i in zip(worth, rows, strict=True):
        picture = claims[i][0]
        if picture.id not in allowed:
            others = [claims[j] for j in rows]
            allowed[picture.id] = [unlike(picture, other) and contradicts(picture, text) for other, text in others]
        line[~np.asarray(allowed[picture.id])] = FORBIDDEN
    best = linear_sum_assignment(worth, maximize=True)
    return {int(rows[i]): int(rows[j]) for i, j in zip(*best, strict=True)}
