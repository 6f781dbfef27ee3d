"""Is this object in this picture? Local meaning. Knows no model and no chat template.

One decision per picture and category, labelled by the instance annotations (never by caption words). Present and
absent are balanced within each category and fold: balanced by picture alone, the category's name would decide.
"""

from collections import defaultdict
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from mllm_probe.errors import ConfigError, DataError
from mllm_probe.tasks.folds import Folds
from mllm_probe.types import Collection, Decision, Examples, Picture, Sample, digest


@dataclass(frozen=True)
class Objects:
    """At most `per_category` present (and as many absent) pictures of a category in each fold; None = all."""

    template: str = "Is there {a_category} in this image?"
    per_category: int | None = 4
    seed: int = 0
    name: ClassVar[str] = "objects"

    def __post_init__(self) -> None:
        if self.template.count("{a_category}") + self.template.count("{category}") != 1:
            raise ConfigError(f"task.template={self.template!r} must hold {{a_category}} or {{category}} exactly once")
        if self.per_category is not None and self.per_category < 1:
            raise ConfigError(f"task.per_category={self.per_category} must be 1 or more, or null for all")

    def examples(self, collection: Collection, folds: Folds) -> Examples:
        """Samples and decisions, grouped by picture. Raises DataError."""
        if not collection.categories:
            raise DataError(f"dataset {collection.name} has no instance annotations; task=objects needs instances.json")
        fold_of = folds.assign(collection.pictures)
        by_fold: dict[int, list[Picture]] = defaultdict(list)
        for picture in collection.pictures:
            if picture.categories is not None:
                by_fold[fold_of[picture.group]].append(picture)
        asked = [
            question
            for fold, pictures in sorted(by_fold.items())
            for category in collection.categories
            for question in self._balanced(pictures, category, Random(f"objects/{self.seed}/{fold}/{category}"))
        ]
        if not asked:
            raise DataError(f"dataset {collection.name}: no category is present in one picture and absent from another")
        asked.sort(key=lambda question: (question[0].id, question[1]))
        return self._examples(asked, fold_of)

    def _balanced(self, pictures: list[Picture], category: str, rng: Random) -> list[tuple[Picture, str, int]]:
        present = [p for p in pictures if category in (p.categories or ())]
        absent = [p for p in pictures if category not in (p.categories or ())]
        n = min(len(present), len(absent), self.per_category or len(pictures))
        return [(p, category, 1) for p in rng.sample(present, n)] + [(p, category, 0) for p in rng.sample(absent, n)]

    def _examples(self, asked: list[tuple[Picture, str, int]], fold_of: dict[str, int]) -> Examples:
        samples: dict[str, Sample] = {}
        decisions: dict[str, Decision] = {}
        for picture, category, label in asked:
            sample = self._sample(picture, category)
            uid = digest(sample.uid, "objects", category)
            samples[sample.uid] = sample
            strata = {"picture": picture.id, "category": category}
            decisions[uid] = Decision(
                uid,
                sample.uid,
                "present",
                label,
                picture.group,
                mark="object",
                type=category,
                strata=strata,
                head=category,
            )
        return Examples(tuple(samples.values()), tuple(decisions.values()), fold_of)

    def _sample(self, picture: Picture, category: str) -> Sample:
        article = "an " if category[0].lower() in "aeiou" else "a "
        before, after = self.template.replace("{a_category}", article + "{category}").split("{category}")
        return Sample.of([picture], before + category + after, {"object": (len(before), len(before) + len(category))})
