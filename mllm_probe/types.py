"""The records that travel from a picture to a score.

Letters in shapes: N rows, D width, C classes. Everything here is frozen; nothing here reads a file or imports torch.
What travels between a model and the store is in `batches`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mllm_probe.errors import DataError

if TYPE_CHECKING:
    import torch


def digest(*parts: Any) -> str:
    """A 16-digit hexadecimal digest of JSON-able parts; equal parts give equal digests on every machine."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Picture:
    """One picture with its annotations; `categories` and `counts` are None where nobody annotated objects.

    `group` is the unit that never straddles a split: the picture with its near-duplicates, by default its own digest.

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.group or self.digest)


@dataclass(frozen=True)
class Row:
    """One line of a table of questions: `label` is a word, a number, or the words that hold of several; `number` is
    where it stands, for messages."""

    picture: Picture
    text: str
    label: str | float | tuple[str, ...]
    number: int


@dataclass(frozen=True)
class Collection:
    """The pictures of a data set. `contradicts(picture, caption)`: is this caption false of that picture?

    For annotated photographs that can only mean "nobody wrote it about this picture"; drawn scenes know for certain.
    """

    name: str
    pictures: tuple[Picture, ...]
    categories: tuple[str, ...]
    contradicts: Callable[[Picture, str], bool]
    skipped: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Sample:
    """What the model reads: pictures and the user's text before any chat template.

    `marks` names stretches of that text, {name: (start, stop)} in characters; `digests` are those of the pictures, of
    which a control may have none. The uid is a digest of the content.
    """

    uid: str
    images: tuple[Path, ...]
    digests: tuple[str, ...]
    text: str
    marks: Mapping[str, tuple[int, int]]

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return self.images[0].name if self.images else "no picture"

    def showing(self, images: tuple[Path, ...], digests: tuple[str, ...]) -> "Sample":
        """The same text about other pictures, or about none."""
        return Sample(digest(digests, self.text, sorted(self.marks.items())), images, digests, self.text, self.marks)

    @classmethod
    def of(cls, pictures: Sequence[Picture], text: str, marks: Mapping[str, tuple[int, int]]) -> "Sample":
        """Raises DataError for a text that no tokenizer reads."""
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise DataError(
                f"picture {pictures[0].id}: the text {text!a} holds half a character (a lone surrogate); mend it "
                "in the data file"
            )
        bare = cls("", (), (), text, dict(marks))
        return bare.showing(tuple(p.path for p in pictures), tuple(p.digest for p in pictures))


@dataclass(frozen=True)
class Decision:
    """What is scored. `mark` picks one row where a position has several a sample; `strata` cuts the test set.

    `type` is what control tasks draw a label for. `side` (1 or -1) tells the halves of a contrast pair apart: the same
    question answered both ways; 0 where there is none.

    `head` names the output that decides, where a probe reads one row for several decisions (the category, for objects);
    None: the probe has one output. `template` is the wording where it is not the task's own: such decisions are tested
    only. `given`: the prompt gives the label away, so it belongs to the copy ceiling and to no score of the model.
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


@dataclass(frozen=True)
class Examples:
    """A task applied to a data set: the samples, the decisions about them, and the fold of each group (see Folds).

    `kind` is that of the decisions' labels, see Problem. `skipped` says what was left out, a sentence each.
    """

    samples: tuple[Sample, ...]
    decisions: tuple[Decision, ...]
    folds: Mapping[str, int]
    kind: str = "binary"
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, order=True)
class Site:
    """A place in the model. Layer 0 is what block 1 receives; layer k is what block k returns, before any norm.

    `part` "norm" is the last state after the final norm, which is a site of its own. A connector has one layer.
    """

    tower: str
    layer: int = 0
    part: str = "block"

    def __str__(self) -> str:
        name = self.tower if self.tower == "connector" else f"{self.tower}.{self.layer:02d}"
        return name if self.part == "block" else f"{name}.{self.part}"

    @classmethod
    def parse(cls, name: str) -> "Site":
        tower, *rest = name.split(".")
        return cls(tower, int(rest[0]) if rest else 0, rest[1] if len(rest) > 1 else "block")


TOWERS = ("vision", "qformer", "connector", "lm")  # in the order the data passes them
INSIDE = ("attn", "mlp")  # parts inside a block: what each adds to the residual stream


@dataclass(frozen=True)
class Anatomy:
    """{tower: number of blocks} and {tower: width D}; a connector has a width alone. `causal` = no token sees a later
    one; `inside` {tower: parts that each of its blocks has}; `informed` picture towers read the text, too."""

    blocks: Mapping[str, int]
    widths: Mapping[str, int]
    causal: bool
    max_tokens: int
    inside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    informed: tuple[str, ...] = ()

    @property
    def towers(self) -> tuple[str, ...]:
        return tuple(tower for tower in TOWERS if tower in self.widths)

    def sites(self) -> tuple[Site, ...]:
        """In the order the data passes them."""
        found: list[Site] = []
        for tower in self.towers:
            found.append(Site(tower))
            for layer in range(1, self.blocks.get(tower, 0) + 1):
                found += [Site(tower, layer, part) for part in (*self.inside.get(tower, ()), "block")]
        return (*found, Site("lm", self.blocks["lm"], "norm"))

    def depth(self, site: Site) -> float:
        """0 at the tower's embeddings, 1 at its last block; a connector sits at 1 of its own single step."""
        return site.layer / self.blocks[site.tower] if site.tower in self.blocks else 1.0

    def space(self, key: "Key") -> str:
        """The row space of a key: states of a picture that saw none of the text behind it are stored once per `prefix`,
        all others once per `sample`."""
        if key.site.tower != "lm":
            return "sample" if key.site.tower in self.informed else "prefix"
        return "prefix" if self.causal and not self.informed and key.position in PICTURE_POSITIONS else "sample"


PICTURE_POSITIONS = ("last_image", "mean_image", "tokens:image")  # those that vision towers and connectors have, too


def before_question(position: str) -> bool:
    """Whether a position lies before the words that tell the statements about a picture apart."""
    return position in PICTURE_POSITIONS or position.startswith("before:")


ANSWER = "answer"  # the position `answer:Yes/No`: a row of the words' logits by the logit lens, at the last token


@dataclass(frozen=True)
class Key:
    """One stored quantity: the states of one site read at one position. Prints `lm.07@last`."""

    site: Site
    position: str

    def __str__(self) -> str:
        return f"{self.site}@{self.position}"

    @classmethod
    def parse(cls, name: str) -> "Key":
        site, position = name.split("@", 1)
        return cls(Site.parse(site), position)


class Rows(Protocol):
    """Vectors [T, D] in storage dtype, in memory (a tensor is one) or read from the cache where they are asked for."""

    @property
    def shape(self) -> Any: ...

    def __getitem__(self, rows: slice) -> "torch.Tensor": ...


KINDS = ("binary", "classes", "labels", "number")


@dataclass(frozen=True)
class Problem:
    """One fit to make: what is predicted, and who trains and who validates ([N] bool each).

    `kind` says what `y` is: "binary" [N] of 0 and 1, "classes" [N] of 0 to C - 1, "labels" [N, C] of 0 and 1 of which
    the cells in `mask` [N, C] count, "number" [N] floats. Rows outside both splits hold no label (0) that a probe
    could learn from. `seed` starts whatever is random in a probe.
    """

    y: np.ndarray
    train: np.ndarray
    val: np.ndarray
    kind: str = "binary"
    mask: np.ndarray | None = None
    seed: int = 0


@dataclass(frozen=True)
class Compute:
    """Where a probe is fitted, and how many bytes of features it may hold at once; more are read chunk by chunk."""

    device: str = "cpu"
    memory: int = 4 << 30


@dataclass(frozen=True)
class LayerData:
    """The rows of one key, ready for probes: no label, no split.

    `rows` [T, D] slices into tensors of the storage dtype. `bounds` [N + 1] cuts them into decisions where a position
    has a row for every token; without it T = N. `pairs` [N] numbers the contrast pairs (-1: none), and `sides` [N]
    tells their halves apart (1, -1).
    """

    rows: "Rows"
    bounds: np.ndarray | None = None
    pairs: np.ndarray | None = None
    sides: np.ndarray | None = None
    name: str = ""
    compute: Compute = Compute()

    def __len__(self) -> int:
        return self.rows.shape[0] if self.bounds is None else len(self.bounds) - 1

    @property
    def width(self) -> int:
        return self.rows.shape[1]
