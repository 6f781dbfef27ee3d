"""A table's questions, unchanged: a decision for each row, or for each row and label. Knows no model and no file.

Nothing is balanced here: what the texts alone give away is for the controls to measure.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mllm_probe.errors import ConfigError, DataError, choices, count, few
from mllm_probe.records.problems import KINDS
from mllm_probe.records.samples import NO_YES, Collection, Decision, Examples, Picture, Row, Sample, digest_of
from mllm_probe.tasks.label_names import Label, Names, doubts, name_of, number, words
from mllm_probe.tasks.rare import RARE, REFUSE
from mllm_probe.tasks.splits import Folds

AUTO = "auto"
YES = ("yes", "true", "1")  # what label 1 of two is called where nobody says
NO_COLUMNS: Mapping[str, str | float] = {}
NO_PICTURE = Picture("", Path(), "")
Asked = tuple[Sample, Row]


@dataclass(frozen=True)
class Questions:
    """`kind` auto: lists of words are labels; numbers, more than two different ones, a number; two labels are binary;
    more are classes, numbered in sorted order. A few whole numbers could be either, so they need a `kind`.

    `labels` renames labels of the table, or leaves them out (`label_names`). `positive` names the label of two that is
    1; None: the one called yes, true or 1 (in any case), else the second in sorted order. Of kind labels, each label
    that holds of some rows is a binary decision about all, with its own head. A class that some split lacks is
    refused, or with `rare` drop left out with its rows.
    """

    template: str = "{text}"
    kind: str = AUTO
    positive: str | None = None
    target: str = "answer"
    covariates: Sequence[str] = ()
    labels: Mapping[str, Any] | str | None = None
    rare: str = REFUSE
    name: str = "custom"

    def __post_init__(self) -> None:
        if self.template.count("{text}") != 1:
            raise ConfigError(f"task.template={self.template!r} must hold {{text}} exactly once")
        if self.kind not in (AUTO, *KINDS):
            raise ConfigError(f"task.kind={self.kind} is unknown; {choices(self.kind, (AUTO, *KINDS))}")
        if self.positive is not None and self.kind not in (AUTO, "binary"):
            raise ConfigError(f"task.positive={self.positive} needs task.kind=binary or auto, not {self.kind}")
        if self.rare not in RARE:
            raise ConfigError(f"task.rare={self.rare} is unknown; {choices(self.rare, RARE)}")
        Names.of(self.labels)

    def kind_of(self, labels: Sequence[tuple[int, Label]]) -> str:
        """Of (row, label), as `examples` takes it. Raises ConfigError, DataError for what a label may not mean."""
        return self._called([Row(NO_PICTURE, "", label, number) for number, label in labels])[2]

    def _called(self, rows: Sequence[Row], beside: Sequence[str] = ()) -> tuple[list[Row], list[str], str]:
        """The rows with the names of their labels, what is said of that, and their kind."""
        names = Names.of(self.labels)
        called, said = names.called(rows, beside)
        if not called:
            raise DataError(f"task.labels leaves out all {len(rows)} rows")
        first: dict[Label, int] = {}
        for row in called:
            first.setdefault(row.label, row.number)
        doubts(first, names.settled, self.kind)
        return called, said, _kind(first) if self.kind == AUTO else self.kind

    def examples(self, collection: Collection, folds: Folds) -> Examples:
        """Samples and decisions in the order of the rows, a repeated row once. Raises DataError."""
        if not collection.rows:
            raise DataError(
                f"dataset {collection.name} has no table of questions; task={self.name} needs dataset=table"
            )
        rows, said, kind = self._called(collection.rows, collection.labels_beside)
        asked, repeated = self._asked(rows)
        group_of = {picture.digest: picture.group for picture in collection.pictures}
        strata = {} if kind in ("labels", "number") else _strata(asked, group_of)
        samples, fold_of = tuple(sample for sample, _ in asked), folds.assign(collection.pictures, strata)
        said += repeated
        if kind == "labels":
            decisions, whole = self._several(asked, group_of)
            return Examples(samples, decisions, fold_of, "binary", whole, NO_YES, tuple(said))
        code_of = _numbers(asked) if kind == "number" else self._codes(asked, kind)
        called = () if kind == "number" else tuple(sorted(code_of, key=lambda name: code_of[name]))
        return Examples(samples, self._single(asked, group_of, code_of), fold_of, kind, (), called, tuple(said))

    def _asked(self, rows: Sequence[Row]) -> tuple[list[Asked], list[str]]:
        """Each question once, and what is said of those that are repeated. Raises DataError where one is answered in
        two ways."""
        found: dict[str, Asked] = {}
        again: list[str] = []
        for row in rows:
            sample = self._sample(row)
            _, first = found.setdefault(sample.uid, (sample, row))
            if first is row:
                continue
            if _held(first.label) != _held(row.label):
                raise DataError(
                    f"rows {first.number} and {row.number} ask {row.text!r} about picture {row.picture.id} and "
                    f"answer it {_held(first.label)!r} and {_held(row.label)!r}; keep one of them"
                )
            again.append(str(row.number))
        said = f"{count(len(again), 'row')} repeat earlier rows and are not counted again: {few(again, 6)}"
        return list(found.values()), [said] if again else []

    def _sample(self, row: Row) -> Sample:
        before, _, after = self.template.partition("{text}")
        return Sample.of([row.picture], f"{before}{row.text}{after}", _marks(len(before), len(row.text)))

    def _single(
        self, asked: Sequence[Asked], group_of: dict[str, str], code_of: Mapping[str, int | float]
    ) -> tuple[Decision, ...]:
        types, codes = _types(asked), {label: code_of[name_of(label)] for label in {row.label for _, row in asked}}
        return tuple(
            self._decision(sample, row, group_of, codes[row.label], types.get(row.text)) for sample, row in asked
        )

    def _codes(self, asked: Sequence[Asked], kind: str) -> dict[str, int | float]:
        """{label: its number}."""
        rows = [row for _, row in asked]
        _refuse(rows, tuple, f"task.kind={kind} takes one word or number a row")
        names = sorted({name_of(label) for label in {row.label for row in rows}}, key=_order)
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
        held = Counter(name for _, row in asked for name in words(row.label))
        heads = sorted(name for name, n in held.items() if n < len(asked))
        if not heads:
            raise DataError(f"each label applies to all or none of the {len(asked)} rows, so there is nothing to learn")
        decisions = tuple(
            self._decision(sample, row, group_of, int(head in words(row.label)), head, head)
            for sample, row in asked
            for head in heads
        )
        return decisions, tuple(f"label {name!r} applies to every row" for name in sorted(set(held) - set(heads)))

    def _decision(
        self,
        sample: Sample,
        row: Row,
        group_of: dict[str, str],
        label: int | float,
        type: str | None,
        head: str | None = None,
    ) -> Decision:
        uid = digest_of(sample.uid, (self.name, self.target, head))
        group = group_of[row.picture.digest]
        return Decision(
            uid,
            sample.uid,
            self.target,
            label,
            group,
            mark="text",
            type=type,
            strata=_strata_of(row.picture.id, head),
            head=head,
            covariates=row.columns if self.covariates else NO_COLUMNS,
            row=row.number,
        )


@lru_cache(maxsize=4096)
def _marks(start: int, length: int) -> dict[str, tuple[int, int]]:
    """One object for all texts of a length."""
    return {"text": (start, start + length)}


@lru_cache(maxsize=65_536)
def _strata_of(picture: str, head: str | None) -> dict[str, str]:
    """One object for all questions about a picture."""
    return {"picture": picture} | ({} if head is None else {"category": head})


def _kind(labels: Iterable[Label]) -> str:
    """What they look like, see Questions."""
    if any(isinstance(label, tuple) for label in labels):
        return "labels"
    names = {name_of(label) for label in labels}
    if len(names) > 2 and all(number(name) is not None for name in names):
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
        amount = number(name := name_of(row.label))
        if amount is None:
            raise DataError(
                f"row {row.number} has the label {name!r}, but task.kind=number takes a finite number a row"
            )
        found[name] = amount
    return found


def _strata(asked: Sequence[Asked], group_of: Mapping[str, str]) -> dict[str, str]:
    """{group: the labels of its rows}."""
    found: dict[str, list[str]] = {}
    for _, row in asked:
        found.setdefault(group_of[row.picture.digest], []).append(name_of(row.label))
    return {group: "|".join(sorted(labels)) for group, labels in found.items()}


def _types(asked: Sequence[Asked]) -> dict[str, str]:
    """{text: itself} where texts recur (two rows each, on average): only then can a control task go by them."""
    texts = {row.text for _, row in asked}
    return {text: text for text in texts} if 2 * len(texts) <= len(asked) else {}


def _held(label: Label) -> str | list[str]:
    """A label to compare: words that hold a comma stay apart."""
    return sorted(label) if isinstance(label, tuple) else name_of(label)


def _order(name: str) -> tuple[float, str]:
    """Numbers by size, then words."""
    found = number(name)
    return (math.inf if found is None else found, name)
