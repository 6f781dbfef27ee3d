"""What a matrix of similarities between pictures and captions is good for: retrieval, telling true from false, and
Winoground's quadruples (Thrush et al. 2022, arXiv 2204.03162).

Every measure takes such a matrix and knows nothing of how it came about; ties never help. Letters: N pictures, T texts,
Q questions, M metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np
from scipy.special import gammaln

from mllm_probe.errors import ProbeError
from mllm_probe.records.protocols import Reporter
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.intervals import Interval, of, of_rows
from mllm_probe.stats.permutation import blocks, exchanged
from mllm_probe.stats.rank_measures import auroc

OWN, FALSE, LEFT_OUT = 1, 0, -1
TO_TEXT, TO_IMAGE = "image_to_text", "text_to_image"
RECALLS = (1, 5, 10)
USUAL, LEAST = 499, 40  # exchanges; a layer needs 2 / 0.05 of them


class Measure(Protocol):
    """`groups` [Q] are the pictures of the questions; `metrics` name the values."""

    @property
    def task(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def groups(self) -> np.ndarray: ...
    @property
    def metrics(self) -> tuple[str, ...]: ...
    @property
    def chance(self) -> np.ndarray: ...

    def values(self, similarity: np.ndarray) -> np.ndarray:
        """Similarities [N, T] -> [M]."""

    def intervals(self, similarity: np.ndarray, pictures: Resamples, level: float) -> list[Interval]:
        """Those of the values, M of them."""


def ranks(similarity: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """1 + how many false candidates are at least as similar as the best own one: [Q].

    similarity and relevance [Q, C], relevance OWN, FALSE or LEFT_OUT (neither right nor wrong: true, but written about
    something else). A tie with a false candidate counts against the query. Raises ProbeError for a query without an own
    candidate.
    """
    own = relevance == OWN
    if not own.any(axis=1).all():
        raise ProbeError("a query has no candidate of its own, so nothing can be found; leave it out")
    return _ranks(similarity, own, relevance == FALSE, axis=1)


def _ranks(similarity: np.ndarray, own: np.ndarray, false: np.ndarray, axis: int) -> np.ndarray:
    """Candidates along `axis`; nan finds nothing."""
    best = np.where(own, similarity, -np.inf).max(axis=axis, keepdims=True)
    return 1 + np.count_nonzero(false & ~(similarity < best), axis=axis)


class _Hits:
    """Measures that are shares of questions answered right."""

    def hits(self, similarity: np.ndarray) -> np.ndarray:
        """[M, Q] of 0 and 1."""
        raise NotImplementedError

    def values(self, similarity: np.ndarray) -> np.ndarray:
        return self.hits(similarity).mean(axis=1)

    def intervals(self, similarity: np.ndarray, pictures: Resamples, level: float) -> list[Interval]:
        return [of_rows(hits, pictures, level, share=True) for hits in self.hits(similarity)]


@dataclass(frozen=True)
class Retrieval(_Hits):
    """Find a text for each picture, or (`target` text_to_image) a picture for each text; `relevance` [N, T].

    Queries without an own candidate ask nothing; `names` [N] or [T] are the groups of all queries.
    """

    task: str
    target: str
    relevance: np.ndarray
    names: np.ndarray
    metrics: ClassVar[tuple[str, ...]] = tuple(f"recall_at_{k}" for k in RECALLS)

    @cached_property
    def groups(self) -> np.ndarray:
        return self.names[self._asked]

    @property
    def chance(self) -> np.ndarray:
        """The expected recall of a random order."""
        own, false = (kind.sum(axis=self._axis)[self._asked] for kind in self._kinds)
        return np.asarray([1 - _none_drawn(own, false, k).mean() for k in RECALLS])

    def hits(self, similarity: np.ndarray) -> np.ndarray:
        rank = _ranks(similarity, *self._kinds, self._axis)[self._asked]
        return rank <= np.asarray(RECALLS)[:, None]

    @property
    def _axis(self) -> int:
        """Along which the candidates lie."""
        return 1 if self.target == TO_TEXT else 0

    @cached_property
    def _asked(self) -> np.ndarray:
        return np.flatnonzero(self._kinds[0].any(axis=self._axis))

    @cached_property
    def _kinds(self) -> tuple[np.ndarray, np.ndarray]:
        """Own and false candidates [N, T] bool: kept, for a null asks hundreds of times."""
        return self.relevance == OWN, self.relevance == FALSE


def _none_drawn(own: np.ndarray, false: np.ndarray, k: int) -> np.ndarray:
    """Probability that k of own + false candidates hold no own one: C(false, k) / C(own + false, k)."""

    def log_choose(n: np.ndarray) -> np.ndarray:
        return gammaln(n + 1) - gammaln(n - k + 1)  # k! cancels

    possible = false >= k
    safe = np.where(possible, false, k)
    return np.where(possible, np.exp(log_choose(safe) - log_choose(safe + own)), 0)


@dataclass(frozen=True)
class Quadruples(_Hits):
    """Two pictures and two captions, each true of one and false of the other: `pictures` and `texts` [Q, 2]."""

    pictures: np.ndarray
    texts: np.ndarray
    groups: np.ndarray
    task: ClassVar[str] = "quadruples"
    target: ClassVar[str] = "caption"
    metrics: ClassVar[tuple[str, ...]] = ("text_score", "image_score", "group_score")

    @property
    def chance(self) -> np.ndarray:
        """All orders of the four similarities alike: 6, 6 and 4 of 24."""
        return np.asarray([1 / 4, 1 / 4, 1 / 6])

    def hits(self, similarity: np.ndarray) -> np.ndarray:
        """Text: each picture prefers its own caption; image: each caption prefers its own picture; group: both."""
        s = similarity[self.pictures[:, :, None], self.texts[:, None, :]]
        text = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
        image = (s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1])
        return np.stack([text, image, text & image])


@dataclass(frozen=True)
class Statements:
    """True and false captions of pictures, told apart by a threshold: `pictures`, `texts`, `labels` [Q]."""

    pictures: np.ndarray
    texts: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    task: ClassVar[str] = "entailment"
    target: ClassVar[str] = "caption"
    metrics: ClassVar[tuple[str, ...]] = ("auroc",)

    @property
    def chance(self) -> np.ndarray:
        return np.asarray([0.5])

    def values(self, similarity: np.ndarray) -> np.ndarray:
        return auroc(similarity[self.pictures, self.texts], self.labels, np.ones((1, len(self.labels))))

    def intervals(self, similarity: np.ndarray, pictures: Resamples, level: float) -> list[Interval]:
        return [of("auroc", similarity[self.pictures, self.texts][None], self.labels, pictures, level=level)]


def exchanges(given: int | None, layers: int, reporter: Reporter) -> int:
    """How often pictures are exchanged; left open, as often as a p below 0.05 after Holm over the layers needs.

    The least two-sided p of n exchanges is 2 / (n + 1). A line says where the given number is too small for any layer.
    """
    needed = LEAST * layers
    if given is None:
        return max(USUAL, needed * 3 // 2)
    if 0 < given < needed:
        reporter.note(f"with align.permutations={given} no p can pass Holm over {layers} layers; {needed} or more can")
    return given


def permuted(
    measures: Sequence[Measure], similarity: np.ndarray, groups: np.ndarray, count: int, seed: int
) -> list[np.ndarray]:
    """Each measure's values with the pictures' states exchanged among pictures: [count, M] a measure.

    Pictures of a group [N] move together, to a group of as many, and captions of a picture stay together, so that the
    null holds however alike they are.
    """
    found: list[list[np.ndarray]] = [[] for _ in measures]
    for order in exchanged(blocks(groups), count, np.random.default_rng(seed)):
        moved = similarity[order]
        for values, measure in zip(found, measures, strict=True):
            values.append(measure.values(moved))
    return [np.stack(values) for values in found]
