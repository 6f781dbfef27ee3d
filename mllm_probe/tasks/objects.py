"""Is this object in this picture? Local meaning. Knows no model and no chat template.

One decision per picture and category, labelled by the instance annotations (never by caption words), balanced as
`candidates` says: by picture alone, the category's name would decide.
Tao et al. 2024 show a shuffled list of objects in the prompt; which ones and how is not known, so `prompt` is an axis.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from mllm_probe.errors import ConfigError, DataError, choices
from mllm_probe.records.samples import NO_YES, Collection, Decision, Examples, Picture, Sample, digest
from mllm_probe.tasks.candidates import ABSENT, BALANCES, BY_PICTURE, Candidate, Company, Drawing, check_categories
from mllm_probe.tasks.rare import DROP, KEEP
from mllm_probe.tasks.splits import Folds

LISTED = "This image contains the following types of objects: {categories}"
AUTO, LEAST, OF_A_PICTURE = "auto", 4, 2  # present objects of a category and fold at least; of a picture about
PROMPTS = {"single": "Is there {a_category} in this image?", "list": LISTED, "none": LISTED, "present_only": LISTED}


@dataclass(frozen=True)
class Objects:
    """`balance` category: at most `per_category` present (and as many absent) pictures of a category in each fold; auto
    is two for every picture, spread over folds and categories, and 4 at least. `balance` picture: at most `per_picture`
    present (and as many absent) categories of a picture. None = all. `rare` categories, which these pictures cannot
    teach a probe with an output for each, are left out (drop), or kept as undecided (keep); None drops them, but keeps
    them with `balance` picture.

    `prompt` single asks about one category; list names a share `listed` of what a picture is asked about; none leaves
    the list empty; present_only names a share of the present ones, whose label is then given away (the copy ceiling).
    `template` None takes the wording of the prompt. `absent` see candidates; `categories` None asks about all.
    """

    template: str | None = None
    prompt: str = "single"
    absent: str = "random"
    balance: str = "category"
    per_category: int | str | None = AUTO
    per_picture: int | None = 3
    rare: str | None = None
    listed: float = 0.5
    categories: Sequence[str] | None = None
    covariates: Sequence[str] = ()
    seed: int = 0
    name: ClassVar[str] = "objects"
    kind: ClassVar[str] = "binary"

    def __post_init__(self) -> None:
        for setting, allowed in (("prompt", PROMPTS), ("absent", ABSENT), ("balance", BALANCES)):
            if (value := getattr(self, setting)) not in allowed:
                raise ConfigError(f"task.{setting}={value} is unknown; {choices(value, allowed)}")
        if self.template is None:
            object.__setattr__(self, "template", PROMPTS[self.prompt])
        places = ("{a_category}", "{category}") if self.prompt == "single" else ("{categories}",)
        if sum(self.wording.count(place) for place in places) != 1:
            raise ConfigError(
                f"task.template={self.template!r} must hold {' or '.join(places)} exactly once with "
                f"task.prompt={self.prompt}"
            )
        for setting, auto in (("per_category", f"{AUTO}, "), ("per_picture", "")):
            most = getattr(self, setting)
            if most is not None and not (most == AUTO and auto) and not (isinstance(most, int) and most >= 1):
                raise ConfigError(f"task.{setting}={most} must be {auto}1 or more, or null for all")
        if self.rare is None:
            object.__setattr__(self, "rare", KEEP if self.balance == BY_PICTURE else DROP)
        if self.rare not in (DROP, KEEP):
            raise ConfigError(f"task.rare={self.rare} is unknown; {choices(str(self.rare), (DROP, KEEP))}")
        if not 0 < self.listed < 1:
            raise ConfigError(f"task.listed={self.listed} must be between 0 and 1")

    @property
    def wording(self) -> str:
        return self.template or PROMPTS[self.prompt]

    def examples(self, collection: Collection, folds: Folds) -> Examples:
        """Samples and decisions, grouped by picture. Raises DataError."""
        names = self._names(collection)
        fold_of = folds.assign(collection.pictures)
        by_fold: dict[int, list[Picture]] = defaultdict(list)
        for picture in collection.pictures:
            if picture.categories is not None:
                by_fold[fold_of[picture.group]].append(picture)
        most = self.per_picture if self.balance == BY_PICTURE else self._most(collection, len(by_fold))
        drawing = Drawing(self.absent, self.balance, most, self.seed, Company(collection.pictures))
        asked: list[Candidate] = []
        listed: set[Candidate] = set()
        for fold, pictures in sorted(by_fold.items()):
            drawn = drawing.drawn(fold, pictures, names)
            here = self._listed(drawing, drawn)
            listed |= here
            asked += self._kept(drawing, drawn, here)
        if not asked:
            raise DataError(f"dataset {collection.name}: no category is present in one picture and absent from another")
        asked.sort(key=lambda one: (one.picture.id, one.category))
        return self._examples(asked, listed, fold_of)

    def _most(self, collection: Collection, folds: int) -> int | None:
        """Of each label of a category in a fold."""
        if not isinstance(self.per_category, str):
            return self.per_category
        held = {name for picture in collection.pictures for name in picture.categories or ()}
        cells = folds * len(held.intersection(self._names(collection)))
        return max(LEAST, round(OF_A_PICTURE * len(collection.pictures) / max(cells, 1)))

    def _names(self, collection: Collection) -> Sequence[str]:
        check_categories(collection, self.name, self.categories)
        return sorted(set(self.categories or collection.categories))

    def _listed(self, drawing: Drawing, drawn: Sequence[Candidate]) -> set[Candidate]:
        """Whose names stand in their prompts."""
        if self.prompt in ("single", "none"):
            return set()
        found = drawing.listed(drawn, self.listed)
        return {one for one in found if one.label} if self.prompt == "present_only" else found

    def _kept(self, drawing: Drawing, drawn: list[Candidate], listed: set[Candidate]) -> list[Candidate]:
        """With the present ones given away, as many absent ones go: what is left stays balanced."""
        if self.prompt != "present_only":
            return drawn
        surplus = Counter(drawing.cell(one) for one in listed)
        kept = []
        for one in drawn:
            if one.label == 0 and surplus[drawing.cell(one)]:
                surplus[drawing.cell(one)] -= 1
            else:
                kept.append(one)
        return kept

    def _examples(self, asked: list[Candidate], listed: set[Candidate], fold_of: Mapping[str, int]) -> Examples:
        samples: dict[str, Sample] = {}
        decisions: dict[str, Decision] = {}
        lists: dict[str, list[str]] = defaultdict(list)
        for one in asked:
            lists[one.picture.digest] += [one.category] if one in listed else []
        for one in asked:
            sample = self._sample(one, lists[one.picture.digest])
            samples[sample.uid] = sample
            decision = self._decision(one, sample, one in listed)
            decisions[decision.uid] = decision
        return Examples(tuple(samples.values()), tuple(decisions.values()), fold_of, names=NO_YES)

    def _decision(self, one: Candidate, sample: Sample, listed: bool) -> Decision:
        single = self.prompt == "single"
        mark = "object" if single else f"object:{one.category}" if listed else None
        named = "yes" if single or listed else "no"
        return Decision(
            digest(sample.uid, "objects", one.category),
            sample.uid,
            "present",
            one.label,
            one.picture.group,
            mark=mark,
            type=one.category,
            strata={"picture": one.picture.id, "category": one.category, "named": named},
            head=one.category,
            given=listed and self.prompt == "present_only",
        )

    def _sample(self, one: Candidate, listed: Sequence[str]) -> Sample:
        if self.prompt == "single":
            article = "an " if one.category[0].lower() in "aeiou" else "a "
            before, after = self.wording.replace("{a_category}", article + "{category}").split("{category}")
            marks = {"object": (len(before), len(before) + len(one.category))}
            return Sample.of([one.picture], before + one.category + after, marks)
        names = sorted(listed)
        Random(f"order/{self.seed}/{one.picture.digest}").shuffle(names)
        before, after = self.wording.split("{categories}")
        text, marks = before, {}
        for i, name in enumerate(names):
            text += ", " if i else ""
            marks[f"object:{name}"] = (len(text), len(text) + len(name))
            text += name
        return Sample.of([one.picture], (text + after).strip(), marks)
