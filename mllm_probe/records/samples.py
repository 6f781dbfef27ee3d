"""The records that travel from a picture to a score.

Letters in shapes: N rows, D width, C classes. Everything here is frozen; nothing here reads a file or imports torch.
There may be millions of rows, samples and decisions: they have slots, and what equals in several is one object in all.
What travels between a model and the store is in `batches`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.errors import DataError, few, is_whole

if TYPE_CHECKING:
    import numpy as np

_encoded = json.JSONEncoder(sort_keys=True, ensure_ascii=False, default=str).encode  # made once: it is called a lot


def digest(*parts: Any) -> str:
    """A 16-digit hexadecimal digest of JSON-able parts; equal parts give equal digests on every machine."""
    return _hashed(_encoded(parts))


def digest_of(uid: str, name: tuple[str | None, ...]) -> str:
    """`digest(uid, *name)`, quick where many things have the same name."""
    return _hashed(f"[{_encoded(uid)}, {_told(name)[1:]}")


def _content_digest(digests: tuple[str, ...], text: str, marks: Mapping[str, tuple[int, int]]) -> str:
    """`digest(digests, text, sorted(marks.items()))`."""
    return _hashed(f"[{_told(digests)}, {_encoded(text)}, {_told(tuple(sorted(marks.items())))}]")


@lru_cache(maxsize=65_536)
def _told(parts: tuple[Any, ...]) -> str:
    return _encoded(parts)


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Picture:
    """One picture with its annotations; `categories` and `counts` are None where nobody annotated objects.

    `group` is the unit that never straddles a split: the picture with its near-duplicates, by default its own digest.
    `licence` is what the data set says of the rights in it, to be shown beside it.

    `counts` holds the instances of each category that was annotated one by one. A category in `categories` and not in
    `counts` is a crowd that nobody counted.
    """

    id: str
    path: Path
    digest: str
    captions: tuple[str, ...] = ()
    categories: frozenset[str] | None = None
    counts: Mapping[str, int] | None = field(default=None, hash=False)
    group: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.group or self.digest)

    @cached_property
    def alone(self) -> tuple[tuple[Path, ...], tuple[str, ...]]:
        """The images and digests of every sample about this picture alone."""
        return (self.path,), (self.digest,)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table of questions: `label` is a word, a number, or the words that hold of several; `number` is
    where it stands, for messages; `columns` are its other cells; `id` is what the user calls it, `group` what its
    group is called there, "" for nothing."""

    picture: Picture
    text: str
    label: str | float | tuple[str, ...]
    number: int
    columns: Mapping[str, str | float] = field(default_factory=dict, hash=False)
    id: str = ""
    group: str = ""


@dataclass(frozen=True)
class Collection:
    """The pictures of a data set. `contradicts(picture, caption)`: is this caption false of that picture?

    For annotated photographs that can only mean "nobody wrote it about this picture"; drawn scenes know for certain.
    `labels_beside` are those that stand in the other data set of test.dataset: settings may name them, too.
    `source` is what messages call the file of the rows, "" where there is none.

    `masks(picture)`: {category: [H, W] bool, where in the picture it is} at the picture's own pixels, upright as its
    EXIF orientation says. It raises DataError for annotations that do not fit; None where a data set has no masks.
    """

    name: str
    pictures: tuple[Picture, ...]
    categories: tuple[str, ...]
    contradicts: Callable[[Picture, str], bool]
    skipped: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    labels_beside: tuple[str, ...] = ()
    source: str = ""
    masks: "Callable[[Picture], Mapping[str, np.ndarray]] | None" = None


@dataclass(frozen=True, slots=True)
class Picked:
    """Tokens of one picture that are to be read: their `tokens` [n], as numbers among the picture's in the prompt, and
    the `patches` [n] of the vision tower that each is made of, as numbers among the picture's there."""

    tokens: tuple[int, ...] = ()
    patches: tuple[tuple[int, ...], ...] = ()


NONE_PICKED = Picked()


@dataclass(frozen=True, slots=True)
class Sample:
    """What the model reads: pictures and the user's text before any chat template.

    `marks` names stretches of that text, {name: (start, stop)} in characters; `digests` are those of the pictures, of
    which a control may have none. The uid is a digest of the content. `picked` are the tokens that a position
    `tokens:image~...` reads, whose name has a digest of them.
    """

    uid: str
    images: tuple[Path, ...]
    digests: tuple[str, ...]
    text: str
    marks: Mapping[str, tuple[int, int]]
    picked: Picked = NONE_PICKED

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return self.images[0].name if self.images else "no picture"

    def showing(self, images: tuple[Path, ...], digests: tuple[str, ...]) -> "Sample":
        """The same text about other pictures, or about none."""
        return Sample(_content_digest(digests, self.text, self.marks), images, digests, self.text, self.marks)

    @classmethod
    def of(cls, pictures: Sequence[Picture], text: str, marks: Mapping[str, tuple[int, int]]) -> "Sample":
        """Raises DataError for a text that no tokenizer reads."""
        if not is_whole(text):
            raise DataError(
                f"picture {pictures[0].id}: the text {text!a} holds half a character (a lone surrogate); fix it "
                "in the data file"
            )
        if len(pictures) == 1:
            images, digests = pictures[0].alone
        else:
            images, digests = tuple([one.path for one in pictures]), tuple([one.digest for one in pictures])
        return cls(_content_digest(digests, text, marks), images, digests, text, marks)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is scored. `mark` picks one row where a position has several a sample; `strata` cuts the test set.

    `type` is what control tasks draw a label for. `side` (1 or -1) tells the halves of a contrast pair apart: the same
    question answered both ways; 0 where there is none.

    `head` names the output that decides, where a probe reads one row for several decisions (the category, for objects);
    None: the probe has one output. `template` is the wording where it is not the task's own: such decisions are tested
    only. `given`: the prompt gives the label away, so it belongs to the copy ceiling and to no score of the model.
    `covariates` are what might explain the label without the meaning that is asked about, "" where one is not known.
    `row` is the number of the row in a table that asks, None where no table does.
    """

    uid: str
    sample: str
    target: str
    label: int | float
    group: str
    mark: str | None = None
    pair: str | None = None
    type: str | None = None
    strata: Mapping[str, str] = field(default_factory=dict)
    side: int = 0
    head: str | None = None
    template: str = ""
    given: bool = False
    covariates: Mapping[str, str | float] = field(default_factory=dict)
    row: int | None = None


MORE_OF_EACH = "take more pictures (data.n, of scenes dataset.pictures), a larger splits.val or fewer sweep.seeds"


@dataclass(frozen=True)
class Examples:
    """A task applied to a data set: the samples, the decisions about them, and the fold of each group (see Folds).

    `kind` is that of the decisions' labels, see Problem. `skipped` says what was left out, `said` what labels were
    taken for, a sentence each. `names` are what labels 0, 1, ... are called (none: numbers), `unlearnt` the categories
    that were left out because no probe could learn them.
    """

    samples: tuple[Sample, ...]
    decisions: tuple[Decision, ...]
    folds: Mapping[str, int]
    kind: str = "binary"
    skipped: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    unlearnt: tuple[str, ...] = ()

    @property
    def unlearnt_said(self) -> str | None:
        """Which categories were left out because no probe could learn them, and what to set."""
        if not self.unlearnt:
            return None
        rare, whole = self.unlearnt, len(self.unlearnt) + len({decision.head for decision in self.decisions})
        return (
            f"{len(rare)} of {whole} categories are left out ({few(rare, 4)}): training or validation of "
            f"some seed lacks a label of each, so no probe can learn them; {MORE_OF_EACH}, or count them as "
            "undecided with task.rare=keep"
        )


def label_said(names: Sequence[str], label: float) -> str:
    """What a label is called, the number itself where it has no name."""
    return names[int(label)] if names else f"{label:g}"


NO_YES = ("no", "yes")  # what labels 0 and 1 of a question are called
