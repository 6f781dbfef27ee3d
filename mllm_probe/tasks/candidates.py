"""Which picture is asked about which category. Knows no prompt.

With balance=category present and absent are equally many within each category and fold, so that a category's name says
nothing. Absent objects are `random`: the present ones exchanged between pictures, so that they are equally many within
each picture, too. Or, as POPE (Li et al. 2023) draws them, `popular` (only the more frequent half of the categories is
asked) or `adversarial` (pictures whose objects keep company with the category).
With balance=picture each picture is asked about as many absent objects as present ones, as in POPE itself; how often a
category is present then tells much of its label.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from mllm_probe.errors import DataError, choices
from mllm_probe.records.samples import Collection, Picture
from mllm_probe.tasks.matching import exchange

ABSENT = RANDOM, POPULAR, ADVERSARIAL = "random", "popular", "adversarial"
BALANCES = BY_CATEGORY, BY_PICTURE = "category", "picture"


@dataclass(frozen=True)
class Candidate:
    picture: Picture
    category: str
    label: int


def check_categories(collection: Collection, task: str, asked: Sequence[str] | None) -> None:
    """Raises DataError where objects are not annotated, or not those of a category that is asked for."""
    if not collection.categories:
        raise DataError(
            f"dataset {collection.name} has no instance annotations; task={task} needs instances.json, task=entailment "
            "does not"
        )
    for name in asked or ():
        if name not in collection.categories:
            allowed = choices(name, collection.categories)
            raise DataError(f"task.categories={name} is not in dataset {collection.name}; {allowed}")


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
    """How candidates are drawn from the pictures of a fold: `most` of each label in a cell, None = all."""

    absent: str
    balance: str
    most: int | None
    seed: int
    company: Company

    def cell(self, one: Candidate) -> str:
        """Within what present and absent are as many."""
        return one.category if self.balance == BY_CATEGORY else one.picture.digest

    def drawn(self, fold: int, pictures: Sequence[Picture], categories: Sequence[str]) -> list[Candidate]:
        if self.balance == BY_PICTURE:
            return [found for picture in pictures for found in self._around(picture, categories)]
        if self.absent == RANDOM:
            return self._exchanged(fold, pictures, categories)
        asked = self.company.popular(categories) if self.absent == POPULAR else categories
        return [found for name in asked for found in self._across(fold, pictures, name)]

    def _around(self, picture: Picture, categories: Sequence[str]) -> list[Candidate]:
        """Of one picture, present and absent."""
        rng = Random(f"objects/{self.seed}/{picture.digest}")
        present = [name for name in categories if name in (picture.categories or ())]
        absent = [name for name in categories if name not in (picture.categories or ())]
        n = min(len(present), len(absent), self.most or len(categories))
        rng.shuffle(absent)  # ties by seed: sorting keeps this order
        if self.absent == POPULAR:
            absent.sort(key=lambda name: -self.company.count[name])
        elif self.absent == ADVERSARIAL:
            absent.sort(key=lambda name: -self.company.expects(picture, name))
        held = rng.sample(present, n)
        return [Candidate(picture, name, 1) for name in held] + [Candidate(picture, name, 0) for name in absent[:n]]

    def _exchanged(self, fold: int, pictures: Sequence[Picture], categories: Sequence[str]) -> list[Candidate]:
        """Present objects exchanged between pictures, one of each picture at a time so that none is given one twice."""
        rng = Random(f"objects/{self.seed}/{fold}")
        held: dict[str, list[tuple[Picture, str]]] = defaultdict(list)
        for name in categories:
            present = [p for p in pictures if name in (p.categories or ())]
            for picture in rng.sample(present, min(len(present), self.most or len(present))):
                held[picture.digest].append((picture, name))
        asked: dict[tuple[str, str], Candidate] = {}

        def is_absent(picture: Picture, name: str) -> bool:
            return name not in (picture.categories or ()) and (picture.digest, name) not in asked

        for claims in held.values():
            rng.shuffle(claims)
        for turn in range(max(map(len, held.values()), default=0)):
            claims = [claims[turn] for claims in held.values() if turn < len(claims)]
            for (picture, name), other in zip(claims, exchange(claims, is_absent, rng), strict=True):
                if other:
                    asked[picture.digest, name] = Candidate(picture, name, 1)
                    asked[picture.digest, other[1]] = Candidate(picture, other[1], 0)
        return list(asked.values())

    def _across(self, fold: int, pictures: Sequence[Picture], name: str) -> list[Candidate]:
        """Of one category, pictures where it is present and where it is absent."""
        rng = Random(f"objects/{self.seed}/{fold}/{name}")
        present = [p for p in pictures if name in (p.categories or ())]
        absent = [p for p in pictures if name not in (p.categories or ())]
        n = min(len(present), len(absent), self.most or len(pictures))
        held = rng.sample(present, n)
        rng.shuffle(absent)  # ties by seed: sorting keeps this order
        if self.absent == ADVERSARIAL:
            absent.sort(key=lambda picture: -self.company.expects(picture, name))
        return [Candidate(p, name, 1) for p in held] + [Candidate(p, name, 0) for p in absent[:n]]

    def listed(self, asked: Sequence[Candidate], share: float) -> set[Candidate]:
        """A share of the candidates of a fold, as many of the present as of the absent ones of each cell.

        So being listed says nothing of the label. Every picture has one at least, its partner being one of the other
        label in its cell.
        """
        cells: dict[tuple[str, int], list[Candidate]] = defaultdict(list)
        for one in asked:
            cells[self.cell(one), one.label].append(one)
        found: set[Candidate] = set()
        for (name, label), same in sorted(cells.items()):
            found.update(Random(f"listed/{self.seed}/{name}/{label}").sample(same, round(share * len(same))))
        had = {one.picture.digest for one in found}
        for one in asked:
            if one.picture.digest not in had:
                partner = next(b for b in cells[self.cell(one), 1 - one.label] if b not in found)
                found |= {one, partner}
                had |= {one.picture.digest, partner.picture.digest}
        return found
