"""Interleaved documents drawn from annotated pictures: a picture, what it shows in words, the next picture, ...

A document is a sequence of slices (Chow et al. 2024, section 3): one picture or one sentence each. Published ones
(MMC4, VIST) hang together by a story; here the pictures of one document share an object category where these are
annotated. Knows no model and no split: documents of a split are drawn from the pictures of that split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from mllm_probe.errors import DataError
from mllm_probe.records.samples import Picture, digest


@dataclass(frozen=True)
class Slice:
    """The picture, or with a `text` that sentence about it."""

    picture: Picture
    text: str | None = None

    @property
    def uid(self) -> str:
        """A digest of its content, whatever document it stands in."""
        return digest("slice", self.picture.digest if self.text is None else self.text)


@dataclass(frozen=True)
class Document:
    """`slices` in the order in which they are read."""

    slices: tuple[Slice, ...]

    @property
    def uid(self) -> str:
        return digest("document", [one.uid for one in self.slices])

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """In order, those whose pixels are read."""
        return tuple(one.picture for one in self.slices if one.text is None)


def draw_documents(pictures: Sequence[Picture], count: int, most: int, seed: int) -> list[Document]:
    """`count` documents of 1 to `most` pictures, each followed by one of its captions: 2 to 2 x `most` slices.

    No document holds a picture twice. Raises DataError where no picture has a caption, or none is asked for.
    """
    captioned = [picture for picture in pictures if picture.captions]
    if not captioned or count < 1 or most < 1:
        raise DataError(
            f"{count} documents of up to {most} pictures cannot be drawn from {len(captioned)} pictures with captions; "
            "one of each is needed"
        )
    rng, relatives = Random(f"documents/{seed}"), _relatives(captioned)
    return [_document(captioned, relatives, rng, rng.randint(1, most)) for _ in range(count)]


def _document(pictures: Sequence[Picture], relatives: dict[str, list[Picture]], rng: Random, length: int) -> Document:
    first = rng.choice(pictures)
    pool = pictures
    if first.categories:
        pool = relatives[rng.choice(sorted(first.categories))]
    others = [picture for picture in pool if picture.digest != first.digest]
    chosen = [first, *rng.sample(others, min(length - 1, len(others)))]
    return Document(
        tuple(one for picture in chosen for one in (Slice(picture), Slice(picture, rng.choice(picture.captions))))
    )


def _relatives(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    """{category: the pictures that show it}."""
    found: dict[str, list[Picture]] = {}
    for picture in pictures:
        for category in picture.categories or ():
            found.setdefault(category, []).append(picture)
    return found
