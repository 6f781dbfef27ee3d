"""Which picture is asked about which category. Knows no prompt.

With balance=category present and absent are equally many within each category and fold, so that a category's name says
nothing. Absent pictures are drawn as POPE (Li et al. 2023) draws absent objects: `random`, `popular` (only the more
frequent half of the categories is asked) or `adversarial` (pictures whose objects keep company with the category).
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from mllm_probe.types import Picture

ABSENT = RANDOM, POPULAR, ADVERSARIAL = "random", "popular", "adversarial"


@dataclass(frozen=True)
class Candidate:
    picture: Picture
    category: str
    label: int


class Company:
    """How often categories are in pictures, alone and together."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self.count: Counter[str] = Counter()
        self._pairs: Counter[tuple[str, str]] = Counter()
        for picture in pictures:
            seen = picture.categories or frozenset()
            self.count.update(seen)
            self._pairs.update((a, b) for a in seen for b in seen if a != b)

    def popular(self, categories: Sequence[str]) -> list[str]:
        """The more frequent half, ties by name."""
        ordered = sorted(categories, key=lambda name: (-self.count[name], name))
        return sorted(ordered[: -(-len(ordered) // 2)])

    def expects(self, picture: Picture, category: str) -> float:
        """The mean over the picture's categories p of count(p, category) / count(p)."""
        seen = sorted(picture.categories or ())
        return sum(self._pairs[name, category] / self.count[name] for name in seen) / max(len(seen), 1)


@dataclass(frozen=True)
class Drawing:
    """How candidates are drawn from the pictures of a fold."""

    absent: str
    per_category: int | None
    seed: int
    company: Company

    def balanced(self, fold: int, pictures: Sequence[Picture], categories: Sequence[str]) -> list[Candidate]:
        """Present and absent equally often within each category."""
        asked = self.company.popular(categories) if self.absent == POPULAR else categories
        return [found for name in asked for found in self._of(fold, pictures, name)]

    def _of(self, fold: int, pictures: Sequence[Picture], name: str) -> list[Candidate]:
        rng = Random(f"objects/{self.seed}/{fold}/{name}")
        present = [p for p in pictures if name in (p.categories or ())]
        absent = [p for p in pictures if name not in (p.categories or ())]
        n = min(len(present), len(absent), self.per_category or len(pictures))
        held = rng.sample(present, n)
        if self.absent == ADVERSARIAL:
            rng.shuffle(absent)  # ties by seed: sorting keeps this order
            missing = sorted(absent, key=lambda picture: -self.company.expects(picture, name))[:n]
        else:
            missing = rng.sample(absent, n)
        return [Candidate(p, name, 1) for p in held] + [Candidate(p, name, 0) for p in missing]


def chosen(asked: Sequence[Candidate], share: float, seed: int) -> set[Candidate]:
    """A share of the candidates, as many of the present as of the absent ones of each category.

    Those of one fold are given, so that being chosen says nothing of the label in any split.
    """
    cells: dict[tuple[str, int], list[Candidate]] = defaultdict(list)
    for one in asked:
        cells[one.category, one.label].append(one)
    found: set[Candidate] = set()
    for (name, label), same in sorted(cells.items()):
        found.update(Random(f"listed/{seed}/{name}/{label}").sample(same, round(share * len(same))))
    return found


def every_picture(asked: Sequence[Candidate], found: set[Candidate]) -> set[Candidate]:
    """With one candidate more for each picture that had none, and one of the other label for the balance."""
    found = set(found)
    had = {one.picture.digest for one in found}
    for one in asked:
        if one.picture.digest not in had:
            partners = (b for b in asked if b not in found and (b.category, b.label) == (one.category, 1 - one.label))
            if partner := next(partners, None):
                found |= {one, partner}
                had |= {one.picture.digest, partner.picture.digest}
    return found
