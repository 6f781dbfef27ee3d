"""The pictures of one split with their captions, and the questions about them: which captions are true, false, or true
and written about another; quadruples that differ little; documents. Knows annotations, no state and no model.

Letters: N pictures, T texts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

import numpy as np

from mllm_probe.data.documents import draw_documents
from mllm_probe.errors import DataError
from mllm_probe.records.samples import Picture
from mllm_probe.sugar.retrieval import (
    FALSE,
    LEFT_OUT,
    OWN,
    TO_IMAGE,
    TO_TEXT,
    Measure,
    Quadruples,
    Retrieval,
    Statements,
)
from mllm_probe.sugar.sequences import Places
from mllm_probe.tasks.entailment import said

Claim = tuple[str, str, int]  # picture digest, caption, whether it is true of the picture
FEWEST = 2  # pictures and slices: one alone leaves nothing to choose from or to align
RETRIEVAL, SEQUENCES = "retrieval", "sequence_retrieval"


@dataclass(frozen=True)
class Gallery:
    """`pictures` [N], and `texts` [T]: their captions first, then what else the `claims` say of them."""

    pictures: tuple[Picture, ...]
    contradicts: Callable[[Picture, str], bool]
    claims: Sequence[Claim] = ()

    @cached_property
    def _captions(self) -> dict[str, str]:
        """{text: the caption it was}."""
        return {said(caption): caption for picture in self.pictures for caption in picture.captions}

    @cached_property
    def texts(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self._captions, *(text for _, text, _ in self.claims))))

    @cached_property
    def _row(self) -> dict[str, int]:
        return {picture.digest: i for i, picture in enumerate(self.pictures)}

    @cached_property
    def _column(self) -> dict[str, int]:
        return {text: j for j, text in enumerate(self.texts)}

    @cached_property
    def relevance(self) -> np.ndarray:
        """[N, T] int8: OWN, FALSE, or LEFT_OUT: neither written about the picture nor known to be false of it."""
        table = np.full((len(self.pictures), len(self.texts)), LEFT_OUT, dtype=np.int8)
        for row, picture in zip(table, self.pictures, strict=True):
            own = set(map(said, picture.captions))
            for j, (text, caption) in enumerate(self._captions.items()):
                row[j] = OWN if text in own else FALSE if self.contradicts(picture, caption) else LEFT_OUT
        return table

    @property
    def own(self) -> np.ndarray:
        """[N, T]: the weights of each picture's captions in their mean."""
        mine = self.relevance == OWN
        return mine / mine.sum(axis=1, keepdims=True)

    @cached_property
    def groups(self) -> np.ndarray:
        """Of the pictures [N]."""
        return np.asarray([picture.group for picture in self.pictures])

    @cached_property
    def _writers(self) -> np.ndarray:
        """The first picture each caption was written about [T]; 0 for other texts."""
        return (self.relevance == OWN).argmax(axis=0)

    @property
    def single(self) -> list[Measure]:
        """Questions about one picture and one caption each. Raises DataError where no caption is false of a picture."""
        names = self.groups, self.groups[self._writers]
        found: list[Measure] = [
            Retrieval(RETRIEVAL, target, self.relevance, own)
            for target, own in zip((TO_TEXT, TO_IMAGE), names, strict=True)
        ]
        return [*found, self._statements(), self._quadruples()]

    def _statements(self) -> Statements:
        rows, columns, labels = (
            np.asarray(one)
            for one in zip(
                *((self._row[who], self._column[text], label) for who, text, label in self.claims), strict=True
            )
        )
        return Statements(rows, columns, labels, self.groups[rows])

    def _quadruples(self) -> Quadruples:
        """For each picture the two captions with most words in common that tell it from another picture.

        Raises DataError where there is no such pair.
        """
        words, false = _overlaps(self.texts), self.relevance == FALSE
        mutual = false[self._writers].T & false[self._writers]  # [T, T]: each false of the other's picture
        mutual &= ((self.relevance == OWN).any(axis=0)[:, None]) & (self.relevance == OWN).any(axis=0)
        found: dict[frozenset[int], tuple[int, int]] = {}
        for picture in range(len(self.pictures)):
            own = np.flatnonzero((self._writers == picture) & (self.relevance[picture] == OWN))
            alike = np.where(mutual[own], words[own], -1)
            if alike.size and alike.max() >= 0:
                first, second = np.unravel_index(int(alike.argmax()), alike.shape)
                pair = (int(own[first]), int(second))
                found.setdefault(frozenset(pair), pair)
        if not found:
            raise DataError("no two captions are each false of the other's picture, so there are no quadruples to draw")
        texts = np.asarray(list(found.values()))
        pictures = self._writers[texts]
        return Quadruples(pictures, texts, self.groups[pictures[:, 0]])

    def documents(self, count: int, most: int, seed: int) -> "Documents":
        """At most `count` documents of 2 to `most` pictures, no two of the same ones. Raises DataError."""
        drawn = draw_documents(self.pictures, 2 * count, most, seed)
        long = [document for document in drawn if len(document.pictures) >= FEWEST]
        chosen = list({tuple(picture.digest for picture in one.pictures): one for one in long}.values())[:count]
        if len(chosen) < FEWEST:
            raise DataError(
                f"{len(chosen)} documents of {FEWEST} pictures or more were drawn with align.documents={count}; draw "
                "more, and from more pictures"
            )
        rows = [[self._row[picture.digest] for picture in document.pictures] for document in chosen]
        spoken = [[said(one.text) for one in document.slices if one.text is not None] for document in chosen]
        columns = [[self._column[text] for text in texts] for texts in spoken]
        return Documents(Places.of(rows), Places.of(columns), self.groups)


@dataclass(frozen=True)
class Documents:
    """Each document's sequence of pictures and its sequence of captions; `groups` are those of all pictures.

    Only sequences of the same length are candidates: else length alone would tell them apart.
    """

    pictures: Places
    captions: Places
    groups: np.ndarray

    @property
    def measures(self) -> list[Measure]:
        """Resampled by a document's first picture."""
        same = self.pictures.lengths[:, None] == self.captions.lengths
        relevance = np.where(same, FALSE, LEFT_OUT)
        np.fill_diagonal(relevance, OWN)
        names = self.groups[self.pictures.index[:, 0]]
        return [Retrieval(SEQUENCES, target, relevance, names) for target in (TO_TEXT, TO_IMAGE)]


def draw_pictures(pictures: Sequence[Picture], most: int | None, seed: int, split: str) -> tuple[Picture, ...]:
    """At most `most` of the captioned pictures of a split. Raises DataError for fewer than two."""
    captioned = [picture for picture in pictures if picture.captions]
    if len(captioned) < FEWEST:
        raise DataError(
            f"the {split} split has {len(captioned)} pictures with captions, and {FEWEST} are needed; "
            "take more (data.n)"
        )
    Random(f"align/{split}/{seed}").shuffle(captioned)
    return tuple(captioned[:most])


def _overlaps(texts: Sequence[str]) -> np.ndarray:
    """Words two texts share, of those that either has: [T, T]."""
    words = [set(text.lower().split()) for text in texts]
    vocabulary = {word: i for i, word in enumerate(sorted(set().union(*words)))}
    bags = np.zeros((len(texts), len(vocabulary)), dtype=np.float32)
    for row, own in zip(bags, words, strict=True):
        row[[vocabulary[word] for word in own]] = 1
    shared, sizes = bags @ bags.T, bags.sum(axis=1)
    return shared / np.maximum(sizes[:, None] + sizes - shared, 1)
