"""A table's questions as they stand: a decision for each row, or for each row and label. Knows no model and no file.

Nothing is balanced here: what the texts alone give away is for the controls to measure.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mllm_probe.errors import ConfigError, DataError, choices
from mllm_probe.tasks.folds import Folds
from mllm_probe.types import KINDS, Collection, Decision, Examples, Row, Sample, digest

AUTO = "auto"
YES = ("yes", "true", "1")  # what label 1 of two is called where nobody says
Asked = tuple[Sample, Row]
Label = str | float | tuple[str, ...]


@dataclass(frozen=True)
class Questions:
    """`kind` auto: lists of words are labels; numbers, more than two different ones, a number; two labels are binary;
    more are classes, numbered in sorted order.

    `positive` names the label of two that is 1; None: the one called yes, true or 1 (in any case), else the second in
    sorted order. Of kind labels, each label that holds of some rows is a binary decision about all, with its own head.
    """

    template: str = "{text}"
    kind: str = AUTO
    positive: str | None = None
    target: str = "answer"
    covariates: Sequence[str] = ()
    name: str = "custom"

    def __post_init__(self) -> None:
        if self.template.count("{text}") != 1:
            raise ConfigError(f"task.template={self.template!r} must hold {{text}} exactly once")
        if self.kind not in (AUTO, *KINDS):
            raise ConfigError(f"task.kind={self.kind} is unknown; {choices(self.kind, (AUTO, *KINDS))}")
        if self.positive is not None and self.kind not in (AUTO, "binary"):
            raise ConfigError(f"task.positive={self.positive} needs task.kind=binary or auto, not {self.kind}")

    def examples(self, collection: Collection, folds: Folds) -> Examples:
        """Samples and decisions in the order of the rows, a repeated row once. Raises DataError."""
        if not collection.rows:
            raise DataError(
                f"dataset {collection.name} has no table of questions; task={self.name} needs dataset=table"
            )
        asked = self._asked(collection.rows)
        group_of = {picture.digest: picture.group for picture in collection.pictures}
        kind = _kind(collection.rows) if self.kind == AUTO else self.kind
        if kind == "labels":
            decisions, skipped = self._several(asked, group_of)
        else:
            decisions, skipped = self._single(asked, group_of, kind), ()
        fold_of = folds.assign(collection.pictures)
        samples = tuple(sample for sample, _ in asked)
        return Examples(samples, decisions, fold_of, "binary" if kind == "labels" else kind, skipped)

    def _asked(self, rows: Sequence[Row]) -> list[Asked]:
        """Each question once. Raises DataError where it is answered in two ways."""
        found: dict[str, Asked] = {}
        for row in rows:
            sample = self._sample(row)
            _, first = found.setdefault(sample.uid, (sample, row))
            if _held(first.label) != _held(row.label):
                raise DataError(
                    f"rows {first.number} and {row.number} ask {row.text!r} about picture {row.picture.id} and "
                    f"answer it {_held(first.label)!r} and {_held(row.label)!r}; keep one of them"
                )
        return list(found.values())

    def _sample(self, row: Row) -> Sample:
        start = self.template.index("{text}")
        marks = {"text": (start, start + len(row.text))}
        return Sample.of([row.picture], self.template.replace("{text}", row.text), marks)

    def _single(self, asked: Sequence[Asked], group_of: dict[str, str], kind: str) -> tuple[Decision, ...]:
        label_of = _numbers(asked) if kind == "number" else self._codes(asked, kind)
        types = _types(asked)
        return tuple(
            self._decision(sample, row, group_of, label_of[_name(row.label)], types.get(row.text))
            for sample, row in asked
        )

    def _codes(self, asked: Sequence[Asked], kind: str) -> dict[str, int | float]:
        """{label: its number}."""
        rows = [row for _, row in asked]
        _refuse(rows, tuple, f"task.kind={kind} takes one word or number a row")
        names = sorted({_name(row.label) for row in rows}, key=_order)
        if len(names) < 2:
            raise DataError(f"all {len(rows)} rows have the label {names[0]!r}; two different ones are needed")
        if kind == "binary":
            if len(names) > 2:
                raise DataError(f"task.kind=binary needs two labels, found {len(names)}: {', '.join(names[:10])}")
            positive = self._positive(names)
            return {name: int(name == positive) for name in names}
        if self.positive is not None:
            raise DataError(
                f"task.positive={self.positive} needs two labels, found {len(names)}: {', '.join(names[:10])}"
            )
        return {name: number for number, name in enumerate(names)}

    def _positive(self, names: Sequence[str]) -> str:
        if self.positive is not None:
            if self.positive not in names:
                raise DataError(f"task.positive={self.positive} is no label; {choices(self.positive, names)}")
            return self.positive
        called = [name for name in names if name.lower() in YES]
        return called[0] if len(called) == 1 else names[1]

    def _several(
        self, asked: Sequence[Asked], group_of: dict[str, str]
    ) -> tuple[tuple[Decision, ...], tuple[str, ...]]:
        """A decision for each row and label, and a sentence for each label that holds of all rows."""
        _refuse([row for _, row in asked], (str, float), "task.kind=labels takes a list of words a row")
        held = Counter(name for _, row in asked for name in _words(row))
        heads = sorted(name for name, n in held.items() if n < len(asked))
        if not heads:
            raise DataError(
                f"no label holds of some of the {len(asked)} rows and not of others, so nothing can be asked"
            )
        decisions = tuple(
            self._decision(sample, row, group_of, int(head in _words(row)), head, head)
            for sample, row in asked
            for head in heads
        )
        return decisions, tuple(f"label {name!r} holds of every row" for name in sorted(set(held) - set(heads)))

    def _decision(
        self,
        sample: Sample,
        row: Row,
        group_of: dict[str, str],
        label: int | float,
        type: str | None,
        head: str | None = None,
    ) -> Decision:
        uid = digest(sample.uid, self.name, self.target, head)
        group = group_of[row.picture.digest]
        strata = {"picture": row.picture.id} | ({} if head is None else {"category": head})
        known = Decision(uid, sample.uid, self.target, label, group, mark="text", type=type, strata=strata, head=head)
        return replace(known, covariates=row.columns)


def _kind(rows: Sequence[Row]) -> str:
    """What the labels look like, see Questions."""
    if any(isinstance(row.label, tuple) for row in rows):
        return "labels"
    names = {_name(row.label) for row in rows}
    if len(names) > 2 and all(_number(name) is not None for name in names):
        return "number"
    return "binary" if len(names) == 2 else "classes"


def _refuse(rows: Sequence[Row], types: type | tuple[type, ...], rule: str) -> None:
    for row in rows:
        if isinstance(row.label, types):
            raise DataError(f"row {row.number} has the label {row.label!r}, but {rule}")


def _numbers(asked: Sequence[Asked]) -> dict[str, int | float]:
    """{label: what it says}. Raises DataError naming the row."""
    found: dict[str, int | float] = {}
    for _, row in asked:
        number = _number(name := _name(row.label))
        if number is None:
            raise DataError(
                f"row {row.number} has the label {name!r}, but task.kind=number takes a finite number a row"
            )
        found[name] = number
    return found


def _types(asked: Sequence[Asked]) -> dict[str, str]:
    """{text: itself} where texts recur (two rows each, on average): only then can a control task go by them."""
    texts = {row.text for _, row in asked}
    return {text: text for text in texts} if 2 * len(texts) <= len(asked) else {}


def _words(row: Row) -> tuple[str, ...]:
    return row.label if isinstance(row.label, tuple) else ()


def _held(label: Label) -> str | list[str]:
    """A label to compare: words that hold a comma stay apart."""
    return sorted(label) if isinstance(label, tuple) else _name(label)


def _name(label: Label) -> str:
    """A label in words, whole numbers without a point; the words of a list in sorted order."""
    if isinstance(label, tuple):
        return ", ".join(sorted(label))
    if isinstance(label, float):
        return str(int(label)) if label.is_integer() else repr(label)
    return label


def _number(name: str) -> float | None:
    try:
        number = float(name)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _order(name: str) -> tuple[float, str]:
    """Numbers by size, then words."""
    number = _number(name)
    return (math.inf if number is None else number, name)
