"""Which words of a vocabulary name which categories, and what a word says of the place it was read at. Knows no model.

A word names a category if it is one of the words of its name, whatever its case, a blank before it and the s or es of a
plural: of "red circle" both words count, so "red" at a red square that stands beside a red circle names the square.

Letters: T tokens of pictures, C categories, V ids of a vocabulary, K different texts of theirs that name a category.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllm_probe.errors import ProbeError, few

LOCAL, ELSEWHERE, UNRELATED = 0, 1, 2  # the less, the nearer
SHORTEST = 4  # letters of a word whose last s may be that of a plural: a bus is none


@dataclass(frozen=True)
class Names:
    """The categories and their words. `of_id` [V] int: which of the K texts an id of the vocabulary writes, -1 none;
    `held` [C, K] bool: which of them name a category."""

    categories: tuple[str, ...]
    of_id: np.ndarray
    held: np.ndarray

    @classmethod
    def of(cls, categories: Sequence[str], spellings: Sequence[str]) -> "Names":
        """`spellings` [V]: what each id of the vocabulary writes."""
        texts = [bare(text) for text in spellings]
        named, known = [forms(name) for name in categories], set(texts)
        place = {text: k for k, text in enumerate(sorted(known & frozenset[str]().union(*named)))}
        held = np.asarray([[text in own for text in place] for own in named]).reshape(len(named), len(place))
        return cls(tuple(categories), np.asarray([place.get(text, -1) for text in texts], int), held)

    @property
    def known(self) -> np.ndarray:
        """Categories [C] bool that some word of the vocabulary names."""
        return np.asarray(self.held.any(1))

    def check(self) -> str | None:
        """What to say of categories that no word names. Raises ProbeError where none is left."""
        lacking = [name for name, known in zip(self.categories, self.known, strict=True) if not known]
        if not lacking:
            return None
        said = (
            f"{len(lacking)} of {len(self.categories)} categories ({few(lacking, 4)}) are unknown to the lens "
            "vocabulary: the tokenizer has none of their words as a token"
        )
        if len(lacking) == len(self.categories):
            raise ProbeError(f"{said}; take another model or data set, or name others with task.categories")
        return f"{said}, so they are left out"

    def judged(self, ids: np.ndarray, inside: np.ndarray, present: np.ndarray) -> np.ndarray:
        """What words ids [T, k] say at tokens that categories cover, `inside` [T, C] bool, of pictures where they are,
        `present` [T, C] bool: LOCAL, ELSEWHERE or UNRELATED, [T, k] int8. An id beyond the vocabulary is UNRELATED."""
        word = np.append(self.of_id, -1)[np.minimum(ids, len(self.of_id))]
        here, there = (self._said(word, cells) for cells in (inside, present))
        return np.where(here, LOCAL, np.where(there, ELSEWHERE, UNRELATED)).astype(np.int8)

    def _said(self, word: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Whether the K-th word names one of the categories in its row of `cells`; word -1 names nothing."""
        words = np.pad(cells.astype(np.float32) @ self.held.astype(np.float32) > 0, ((0, 0), (0, 1)))
        found: np.ndarray = np.take_along_axis(words, word, 1)
        return found


def forms(name: str) -> frozenset[str]:
    """How the words of a category's name may be written, each alone, in the singular and in the plural."""
    found: set[str] = set()
    for word in re.findall(r"\w+", bare(name)):
        plural = len(word) >= SHORTEST and word.endswith("s") and not word.endswith("ss")
        for one in (word, word[:-1]) if plural else (word,):
            found |= {one, f"{one}s", f"{one}es"}
    return frozenset(found)


def bare(text: str) -> str:
    """Without its case and the blanks around it."""
    return text.strip().casefold()
