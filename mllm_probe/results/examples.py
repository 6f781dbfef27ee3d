"""examples.json: a few test decisions at the layer that validation chose, to show what is scored.

Written by a sweep, read back by report.html. Pictures stay where they are; only their places are kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from mllm_probe.files.readback import damaged, read_entries
from mllm_probe.files.seals import NUMBER
from mllm_probe.records.samples import label_said
from mllm_probe.results.predictions import by_label

SHOWN = 6  # of each kind
WRONG, UNSURE, RIGHT = "wrong", "unsure", "right"
KINDS = {  # in words, for labels and for numbers
    WRONG: ("Wrong, most confident", "Furthest from the truth"),
    UNSURE: ("Least confident", ""),
    RIGHT: ("Right, most confident", "Closest to the truth"),
}
EXAMPLE = {**dict.fromkeys(("kind", "uid", "text", "target", "head"), str), "label": NUMBER, "said": NUMBER}
ENTRIES = {
    "key": str,
    "probe": str,
    "tested": int,
    "wrong": int | None,
    "names": [str],
    "shown": [
        {**EXAMPLE, "sure": NUMBER | None, "pictures": [dict.fromkeys(("path", "digest", "licence"), str)]},
    ],
}


@dataclass(frozen=True)
class Seen:
    """A picture of an example: its file, the digest of its bytes, and what its data set says of its licence."""

    path: str
    digest: str
    licence: str


@dataclass(frozen=True)
class Example:
    """A decision and what the probe said of it, mean over seeds. `sure` is the probability of what it said; None where
    its output is no probability. `head` is the category asked about, where the text does not say it."""

    kind: str
    uid: str
    text: str
    target: str
    label: float
    said: float
    sure: float | None
    head: str
    pictures: tuple[Seen, ...]


@dataclass(frozen=True)
class Examples:
    """Those chosen at `key` of `tested` decisions; the mean over seeds has `wrong` ones (None for numbers). `names` are
    what labels 0, 1, ... are called; a run of an older release kept none."""

    key: str
    probe: str
    tested: int
    wrong: int | None
    shown: tuple[Example, ...]
    names: tuple[str, ...] = ()

    def called(self, label: float) -> str:
        """What a label, or what was said, is called; numbers to three digits."""
        return label_said(self.names, label) if self.names else f"{label:.3g}"

    def of(self, kind: str) -> list[Example]:
        return [one for one in self.shown if one.kind == kind]

    @property
    def licences(self) -> list[str]:
        """Of the pictures that are shown."""
        return list(dict.fromkeys(seen.licence for one in self.shown for seen in one.pictures if seen.licence))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Examples":
        shown = (Example(**{**one, "pictures": tuple(Seen(**s) for s in one["pictures"])}) for one in found["shown"])
        return cls(**{**found, "shown": tuple(shown), "names": tuple(found.get("names", ()))})


def load_examples(path: Path) -> Examples | None:
    """None where a run of an older release kept none. Raises DataError for a file that is damaged."""
    if not path.is_file():
        return None
    found = read_entries(path, ENTRIES, ("names",))
    try:
        return Examples.from_json(found)
    except TypeError as error:  # an entry too many
        raise damaged(path, error) from error


@dataclass(frozen=True)
class Verdicts:
    """What a probe says of N decisions over S seeds: `said` and `sure` [N] (see Example), `error` [N] for numbers."""

    said: np.ndarray
    sure: np.ndarray
    right: np.ndarray
    error: np.ndarray | None

    @classmethod
    def of(cls, logits: np.ndarray, truth: np.ndarray, kind: str) -> "Verdicts":
        """`logits` [S, N] or [S, N, C], `truth` [N]."""
        if kind == "number":
            said = logits.mean(axis=0)
            return cls(said, np.zeros(len(said)), np.ones(len(said), bool), np.abs(said - truth))
        shares = softmax(by_label(logits, kind), axis=-1).mean(axis=0)  # of each label, mean over seeds
        said = shares.argmax(axis=-1)
        return cls(said, shares.max(axis=-1), said == truth, None)

    def chosen(self, groups: np.ndarray) -> Iterator[tuple[str, int]]:
        """(kind, decision), at most SHOWN of each kind and one a picture."""
        if self.error is not None:
            yield from ((WRONG, i) for i in _one_each(np.argsort(-self.error, kind="stable"), groups))
            yield from ((RIGHT, i) for i in _one_each(np.argsort(self.error, kind="stable"), groups))
            return
        surest = np.argsort(-self.sure, kind="stable")
        yield from ((WRONG, i) for i in _one_each(surest[~self.right[surest]], groups))
        yield from ((UNSURE, i) for i in _one_each(surest[::-1], groups))
        yield from ((RIGHT, i) for i in _one_each(surest[self.right[surest]], groups))


def _one_each(order: np.ndarray, groups: np.ndarray) -> list[int]:
    found: dict[str, int] = {}
    for i in order.tolist():
        found.setdefault(str(groups[i]), i)
        if len(found) == SHOWN:
            break
    return list(found.values())
