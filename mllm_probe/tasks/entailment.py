"""Does this caption describe this picture? Global meaning. Knows no model and no chat template.

Negatives are captions of other pictures, exchanged inside each fold (see `matching`), so every caption and every
picture is as often true as false in whatever split is drawn, and only both together give the answer.
Tao et al. 2024 print neither their prompt nor their numbers of captions: template and captions_per_picture are axes.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from mllm_probe.errors import ConfigError, DataError, choices
from mllm_probe.tasks.folds import Folds
from mllm_probe.tasks.matching import Claim, exchange
from mllm_probe.types import Collection, Decision, Examples, Picture, Sample, digest

NEGATIVES = ("random",)


@dataclass(frozen=True)
class Entailment:
    """`captions_per_picture` true statements a picture and as many false ones.

    `answers` (two words, such as Yes and No) asks each statement twice, the answer written behind it: contrast pairs.
    """

    template: str = "This image contains: {caption}. Is this right?"
    captions_per_picture: int = 2
    negatives: str = "random"
    answers: Sequence[str] | None = None
    seed: int = 0
    name: ClassVar[str] = "entailment"

    def __post_init__(self) -> None:
        if self.template.count("{caption}") != 1:
            raise ConfigError(f"task.template={self.template!r} must hold {{caption}} exactly once")
        if self.captions_per_picture < 1:
            raise ConfigError(f"task.captions_per_picture={self.captions_per_picture} must be 1 or more")
        if self.answers is not None and (len(set(self.answers)) != 2 or not all(self.answers)):
            raise ConfigError(f"task.answers={list(self.answers)} must hold two different words, or be null")
        if self.negatives not in NEGATIVES:
            raise ConfigError(f"task.negatives={self.negatives} is unknown; {choices(self.negatives, NEGATIVES)}")

    def examples(self, collection: Collection, folds: Folds) -> Examples:
        """Samples and decisions, picture by picture. Raises DataError where no negatives can be found."""
        fold_of = folds.assign(collection.pictures)
        claims = self._claims(collection, fold_of)
        samples: dict[str, Sample] = {}
        decisions: dict[str, Decision] = {}
        for fold in sorted(claims):
            rng = Random(f"entailment/{self.seed}/{fold}")
            false = exchange(claims[fold], collection.contradicts, rng)
            for (picture, text), other in zip(claims[fold], false, strict=True):
                if other:
                    self._add(picture, (text, other[1]), samples, decisions)
        if not decisions:
            raise DataError(
                f"dataset {collection.name}: no caption is false of any other picture, so nothing can be asked"
            )
        return Examples(tuple(samples.values()), tuple(decisions.values()), fold_of)

    def _claims(self, collection: Collection, fold_of: Mapping[str, int]) -> dict[int, list[Claim]]:
        """{fold: true (picture, caption) claims}, the captions of each picture drawn by the data seed."""
        claims: dict[int, list[Claim]] = defaultdict(list)
        for picture in collection.pictures:
            if not picture.captions:
                raise DataError(f"picture {picture.id} ({picture.path.name}) has no caption; entailment needs one each")
            texts = list(picture.captions)
            Random(f"captions/{self.seed}/{picture.id}").shuffle(texts)
            claims[fold_of[picture.digest]] += [(picture, text) for text in texts[: self.captions_per_picture]]
        return claims

    def _add(
        self, picture: Picture, texts: tuple[str, str], samples: dict[str, Sample], decisions: dict[str, Decision]
    ) -> None:
        """One true and one false statement about a picture; the two are a pair.

        With answers each statement is asked with either, the label says whether that answer is right, and these two
        are the pair.
        """
        pair = digest(picture.digest, texts)
        for label, text in zip((1, 0), texts, strict=True):
            for side, answer in zip((1, -1), self.answers, strict=True) if self.answers else ((0, None),):
                sample = self._sample(picture, text, answer)
                right = label if side >= 0 else 1 - label
                both = digest(picture.digest, text, texts) if side else pair
                uid = digest(sample.uid, "entailment", right, both)
                samples[sample.uid] = sample
                decisions[uid] = Decision(
                    uid,
                    sample.uid,
                    "caption",
                    right,
                    picture.digest,
                    pair=both,
                    type=last_word(text),
                    strata={"picture": picture.id},
                    side=side,
                )

    def _sample(self, picture: Picture, caption: str, answer: str | None) -> Sample:
        said = caption.strip().rstrip(".")
        start = self.template.index("{caption}")
        text = self.template.replace("{caption}", said)
        marks = {"caption": (start, start + len(said))}
        if answer is not None:
            text = f"{text} {answer}"
            marks["answer"] = (len(text) - len(answer), len(text))
        return Sample.of([picture], text, marks)


def last_word(caption: str) -> str:
    """The type of a statement for control tasks: captions do not recur between splits, their last words do."""
    words = re.findall(r"\w+", caption.lower())
    return words[-1] if words else ""
