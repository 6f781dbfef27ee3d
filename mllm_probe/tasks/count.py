"""How many objects are in this picture? A number to predict. Knows no model and no chat template.

The label is the number of annotated instances. Pictures where it is not known (no annotation, or a crowd in what is
asked for) are not asked about. The text says nothing about the number: either it is the same for all pictures, or
every category has each number equally often within every fold.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from mllm_probe.errors import ConfigError, DataError
from mllm_probe.records.samples import Collection, Decision, Examples, Picture, Sample, digest
from mllm_probe.tasks.candidates import check_categories
from mllm_probe.tasks.splits import Folds

ALL = "object"


@dataclass(frozen=True)
class Count:
    """`categories` that are asked about, each by a template that holds {category}; None = all objects together."""

    template: str = "How many objects are there in this image?"
    categories: Sequence[str] | None = None
    covariates: Sequence[str] = ()
    seed: int = 0
    name: ClassVar[str] = "count"
    kind: ClassVar[str] = "number"

    def __post_init__(self) -> None:
        if self.categories is not None and (not self.categories or isinstance(self.categories, str)):
            raise ConfigError(
                f"task.categories={self.categories!r} must be a list of categories, or null for all objects"
            )
        wanted = 0 if self.categories is None else 1
        if self.template.count("{category}") != wanted:
            raise ConfigError(
                f"task.template={self.template!r} must hold {{category}} {'exactly once' if wanted else 'nowhere'} "
                f"with task.categories={'null' if self.categories is None else list(self.categories)}"
            )

    def examples(self, collection: Collection, folds: Folds) -> Examples:
        """Samples and decisions, picture by picture. Raises DataError."""
        check_categories(collection, self.name, self.categories)
        fold_of = folds.assign(collection.pictures)
        asked = sorted(self._balanced(collection, fold_of), key=lambda question: (question[0].id, question[1]))
        if not asked:
            raise DataError(
                f"dataset {collection.name}: no picture has a known number of each of "
                f"{', '.join(self.categories or (ALL,))}; name one category, or null for all objects"
            )
        return self._examples(asked, fold_of)

    def _balanced(self, collection: Collection, fold_of: dict[str, int]) -> list[tuple[Picture, str, int]]:
        """(picture, category, number): in each fold as many of one category as of any other, number by number."""
        names = tuple(dict.fromkeys(self.categories or (ALL,)))
        cells: dict[tuple[int, int], dict[str, list[Picture]]] = defaultdict(lambda: {name: [] for name in names})
        for picture in collection.pictures:
            for name in names:
                if (number := _number(picture, name if self.categories else None)) is not None:
                    cells[fold_of[picture.group], number][name].append(picture)
        asked = []
        for (fold, number), by_name in sorted(cells.items()):
            n = min(len(pictures) for pictures in by_name.values())
            for name, pictures in by_name.items():
                rng = Random(f"count/{self.seed}/{fold}/{number}/{name}")
                asked += [(picture, name, number) for picture in rng.sample(pictures, n)]
        return asked

    def _examples(self, asked: list[tuple[Picture, str, int]], fold_of: dict[str, int]) -> Examples:
        samples: dict[str, Sample] = {}
        decisions: dict[str, Decision] = {}
        for picture, category, number in asked:
            sample = self._sample(picture, category)
            uid = digest(sample.uid, "count", category)
            mark = "object" if self.categories else None
            strata = {"picture": picture.id, "category": category}
            samples[sample.uid] = sample
            decisions[uid] = Decision(
                uid, sample.uid, "count", float(number), picture.group, mark=mark, type=category, strata=strata
            )
        return Examples(tuple(samples.values()), tuple(decisions.values()), fold_of, "number")

    def _sample(self, picture: Picture, category: str) -> Sample:
        before, found, after = self.template.partition("{category}")
        if not found:
            return Sample.of([picture], self.template, {})
        return Sample.of([picture], before + category + after, {"object": (len(before), len(before) + len(category))})


def _number(picture: Picture, category: str | None) -> int | None:
    """Instances of a category (None: of all) in a picture, None where nobody counted them."""
    if picture.categories is None or picture.counts is None:
        return None
    names = picture.categories if category is None else picture.categories & {category}
    return sum(picture.counts[name] for name in names) if names <= picture.counts.keys() else None
