"""Does this caption describe this picture? Global meaning. Knows no model and no chat template.

Negatives are captions of other pictures, exchanged inside each fold (see `matching`), at random or for the most
similar ones (`similar`); or the caption itself with an object swapped (`swap`). So every caption (every object and
every caption around it) and every picture is as often true as false in whatever split is drawn.
Tao et al. 2024 print neither their prompt nor their numbers of captions: template and captions_per_picture are axes.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from random import Random
from typing import ClassVar

from mllm_probe.errors import ConfigError, DataError, choices
from mllm_probe.records.samples import NO_YES, Collection, Decision, Examples, Picture, Sample, digest
from mllm_probe.tasks.matching import Claim, exchange
from mllm_probe.tasks.splits import TEST, Folds

NEGATIVES = ("random", "similar", "object_swap")
MOST_CAPTIONS = 5  # what COCO has of each picture


@dataclass(frozen=True)
class Entailment:
    """`captions_per_picture` true statements a picture and as many false ones.

    `template` and `test_templates` are wordings with {caption}, or names from `templates`; once built, they are
    wordings. `test_templates` asks the statements about test pictures in these wordings, too: prompt transfer.
    `answers` (two words, such as Yes and No) asks each statement twice, the answer written behind it: contrast pairs.
    """

    template: str = "This image contains: {caption}. Is this right?"
    captions_per_picture: int = 2
    negatives: str = "random"
    answers: Sequence[str] | None = None
    templates: Mapping[str, str] = field(default_factory=dict)
    test_templates: Sequence[str] = ()
    covariates: Sequence[str] = ()
    seed: int = 0
    on_bad_row: str = "stop"
    name: ClassVar[str] = "entailment"
    kind: ClassVar[str] = "binary"

    def __post_init__(self) -> None:
        if not 1 <= self.captions_per_picture <= MOST_CAPTIONS:
            raise ConfigError(f"task.captions_per_picture={self.captions_per_picture} must be 1 to {MOST_CAPTIONS}")
        if self.answers is not None and (len(set(self.answers)) != 2 or not all(self.answers)):
            raise ConfigError(f"task.answers={list(self.answers)} must hold two different words, or be null")
        if self.negatives not in NEGATIVES:
            raise ConfigError(f"task.negatives={self.negatives} is unknown; {choices(self.negatives, NEGATIVES)}")
        if self.answers and self.test_templates:
            raise ConfigError(
                f"task.test_templates={list(self.test_templates)} does not go with task.answers="
                f"{list(self.answers)}: contrast pairs have one wording; leave either out"
            )
        object.__setattr__(self, "template", self._wording("template", self.template))
        wordings = dict.fromkeys(self._wording("test_templates", name) for name in self.test_templates)
        object.__setattr__(self, "test_templates", tuple(wording for wording in wordings if wording != self.template))

    def _wording(self, setting: str, name: str) -> str:
        """The wording that a name stands for; a wording stands for itself."""
        wording = self.templates.get(name, name)
        if self.templates and "{" not in wording:
            raise ConfigError(
                f"task.{setting}={name} is no wording with {{caption}} and no name from task.templates; "
                f"{choices(name, self.templates)}"
            )
        if wording.count("{caption}") != 1:
            raise ConfigError(f"task.{setting}={wording!r} must hold {{caption}} exactly once")
        return wording

    def examples(self, collection: Collection, folds: Folds) -> Examples:
        """Samples and decisions, picture by picture. Raises DataError where no negatives can be found."""
        if self.negatives == "object_swap" and not collection.categories:
            raise DataError(
                f"dataset {collection.name} has no instance annotations; "
                "task.negatives=object_swap needs instances.json"
            )
        fold_of = folds.assign(collection.pictures)
        claims, skipped = self._claims(collection, fold_of)
        samples: dict[str, Sample] = {}
        decisions: dict[str, Decision] = {}
        for fold in sorted(claims):
            wordings = (self.template, *self.test_templates) if fold == TEST else (self.template,)
            false = self._false(claims[fold], collection, Random(f"entailment/{self.seed}/{fold}"))
            for (picture, text), other in zip(claims[fold], false, strict=True):
                for sample, decision in self._asked(picture, (text, other[1]), wordings) if other else ():
                    samples[sample.uid] = sample
                    decisions[decision.uid] = decision
        if not decisions:
            raise DataError(f"dataset {collection.name}: {self._nothing()}, so no question can be asked")
        return Examples(tuple(samples.values()), tuple(decisions.values()), fold_of, skipped=skipped, names=NO_YES)

    def _nothing(self) -> str:
        if self.negatives == "object_swap":
            return "no caption names an annotated object that could be swapped for one that is absent"
        return "no caption is false of any other picture"

    def _false(self, claims: Sequence[Claim], collection: Collection, rng: Random) -> list[Claim | None]:
        """For each claim of a fold a false one about the same picture, or None."""
        if self.negatives == "similar":
            from mllm_probe.tasks.hard_negatives import similar

            return similar(claims, collection.contradicts, rng)
        if self.negatives == "object_swap":
            from mllm_probe.tasks.swap import swap

            return swap(claims, collection.categories, rng)
        return exchange(claims, collection.contradicts, rng)

    def _claims(
        self, collection: Collection, fold_of: Mapping[str, int]
    ) -> tuple[dict[int, list[Claim]], tuple[str, ...]]:
        """{fold: true (picture, caption) claims}, the captions of each picture drawn by the data seed; what was left
        out. Raises DataError."""
        claims: dict[int, list[Claim]] = defaultdict(list)
        skipped = []
        for picture in collection.pictures:
            if not picture.captions:
                bare = f"picture {picture.id} ({picture.path.name}) has no caption; entailment needs one each"
                if self.on_bad_row != "skip":
                    raise DataError(f"{bare}, or leave such pictures out with data.on_bad_row=skip")
                skipped.append(bare)
                continue
            texts = list(picture.captions)
            Random(f"captions/{self.seed}/{picture.id}").shuffle(texts)
            claims[fold_of[picture.group]] += [(picture, text) for text in texts[: self.captions_per_picture]]
        if not claims:
            raise DataError(
                f"no picture of {collection.name} has a caption; take others, or task=objects, which needs none"
            )
        return claims, tuple(skipped)

    def _asked(
        self, picture: Picture, texts: tuple[str, str], wordings: Sequence[str]
    ) -> Iterator[tuple[Sample, Decision]]:
        """One true and one false statement about a picture; the two are a pair.

        With answers each statement is asked with either, the label says whether that answer is right, and these two
        are the pair.
        """
        pair = digest(picture.digest, texts)
        answers = tuple(zip((1, -1), self.answers, strict=True)) if self.answers else ((0, None),)
        for (label, text), (side, answer), wording in product(zip((1, 0), texts, strict=True), answers, wordings):
            sample = _sample(picture, wording, text, answer)
            right = label if side >= 0 else 1 - label
            both = digest(picture.digest, text, texts) if side else pair
            yield (
                sample,
                Decision(
                    digest(sample.uid, "entailment", right, both),
                    sample.uid,
                    "caption",
                    right,
                    picture.group,
                    pair=both,
                    type=last_word(text),
                    strata={"picture": picture.id},
                    side=side,
                    template="" if wording == self.template else wording,
                ),
            )


def said(caption: str) -> str:
    """A caption as the middle of a sentence: neither blanks around it nor a full stop."""
    return caption.strip().rstrip(".")


def _sample(picture: Picture, wording: str, caption: str, answer: str | None) -> Sample:
    bare = said(caption)
    start = wording.index("{caption}")
    text = wording.replace("{caption}", bare)
    marks = {"caption": (start, start + len(bare))}
    if answer is not None:
        text = f"{text} {answer}"
        marks["answer"] = (len(text) - len(answer), len(text))
    return Sample.of([picture], text, marks)


def last_word(caption: str) -> str:
    """The type of a statement for control tasks: captions do not recur between splits, their last words do."""
    words = re.findall(r"\w+", caption.lower())
    return words[-1] if words else ""
