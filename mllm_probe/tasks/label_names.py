"""What the labels of a table are called: which spellings count as one, which the user renames or leaves out, and which
doubts only the user can settle.

The rule: blanks around a label and the case of its letters say nothing, so spellings that differ in these alone are
one label, called as most rows spell it. Whatever else could be one label or two ends the run with a question.
"""

import json
import math
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mllm_probe.errors import ConfigError, DataError, choices, few
from mllm_probe.records.samples import Row

Label = str | float | tuple[str, ...]
MISSING = frozenset(("nan", "na", "n/a", "#n/a", "<na>", "null", "none", "-", "?"))  # most are pandas' own list
YES, NO = ("yes", "true", "1", "y", "t"), ("no", "false", "0", "n", "f")
LEFT_OUT = ("~", "null")  # unless it stands in quotes
AMOUNTS = 20  # so many different whole numbers or fewer may be the numbers of classes


@dataclass(frozen=True)
class Names:
    """`task.labels`: {label in the table: what it is called}, None for rows that are left out."""

    given: Mapping[str, str | None]

    @classmethod
    def of(cls, given: Any) -> "Names":
        """From a mapping, or its text in YAML's flow style, in which all names are text, null in quotes among them.
        Raises ConfigError."""
        found = mapping(given, "task.labels", "{Yes: yes, maybe: null}")
        for key, value in found.items():
            if value == "":
                raise ConfigError(f"task.labels gives {key!r} an empty name; null leaves its rows out")
        return cls(found)

    def called(self, rows: Sequence[Row], beside: Sequence[str] = ()) -> tuple[list[Row], list[str]]:
        """The rows with the names of their labels, and a sentence for each thing done to them. Raises ConfigError for
        what is no label of theirs, nor `beside` them."""
        held = Counter(row.label for row in rows)
        spelled: Counter[str] = Counter()
        for label, n in held.items():
            for word in words(label):
                spelled[word] += n
        known = _commonest(spelled)
        rename = {word: self._name(word, known[bare(word)]) for word in spelled}
        self._check({**spelled, **dict.fromkeys(beside, 0)})
        renamed = {label: _renamed(label, rename) for label in held}
        named = ((row, renamed[row.label]) for row in rows)
        kept = [row if name == row.label else replace(row, label=name) for row, name in named if name is not None]
        return kept, [*_joined(spelled, rename), *_left_out(rows, rename)]

    def _name(self, word: str, known: str) -> str | None:
        own = (key for key in (word, known) if key in self.given)
        key = next(own, next((key for key in self.given if bare(key) == bare(word)), None))
        return known if key is None else self.given[key]

    def _check(self, spelled: Mapping[str, int]) -> None:
        known = {bare(word) for word in spelled}
        for key in self.given:
            if bare(key) not in known:
                raise ConfigError(f"task.labels names {key!r}, which is no label; {choices(key, spelled)}")
            twins = [twin for twin in self.given if bare(twin) == bare(key)]
            if key not in spelled and len(twins) > 1:
                raise ConfigError(
                    f"task.labels names {', '.join(twins)}, and no label is spelled {key!r}; keep one of them"
                )

    @property
    def settled(self) -> frozenset[str]:
        """What the user called a label: no doubt is left."""
        return frozenset(name for name in self.given.values() if name is not None)


def doubts(first: Mapping[Label, int], settled: frozenset[str], kind: str) -> None:
    """Refuse labels that may not mean what they say, see the rule; each is given with the first row that has it. Raises
    DataError naming row, label and setting."""
    found: dict[str, int] = {}
    for label, row in first.items():
        for word in words(label):
            found.setdefault(word, row)
    open_ = {word: number for word, number in found.items() if word not in settled}
    for word, number in open_.items():
        if bare(word) in MISSING:
            raise DataError(
                f"row {number} has the label {word!r}, which reads as a missing one; set {_typed({word: None})} to "
                f"leave such rows out, or {_typed({word: word})} to keep it as a label"
            )
    if kind == "auto" and not any(isinstance(label, tuple) for label in first):
        _alike(open_, found)
        _mixed(open_, found)
        _counted(found)


def _alike(open_: Mapping[str, int], found: Mapping[str, int]) -> None:
    """Two ways to say yes, or no, where all labels say yes or no."""
    for side in (YES, NO):
        same = [word for word in found if bare(word) in side]
        if len(same) > 1 and set(same) & set(open_) and all(bare(word) in (*YES, *NO) for word in found):
            a, b = sorted(same[:2], key=lambda word: number(word) is not None)  # a word names better than a number
            raise DataError(
                f"rows {found[a]} and {found[b]} have the labels {a!r} and {b!r}, which may mean the same; set "
                f"{_typed({b: a})} to count them as one, or {_typed({a: a, b: b})} to keep them apart"
            )


def _mixed(open_: Mapping[str, int], found: Mapping[str, int]) -> None:
    """Numbers beside words."""
    sides = [[w for w in found if (number(w) is not None) == wanted] for wanted in (True, False)]
    if all(set(side) & set(open_) for side in sides):
        odd = min(sides, key=len)
        word = next(word for word in odd if word in open_)
        raise DataError(
            f"row {found[word]} has the label {word!r}, and labels are words as well as numbers; set "
            f"{_typed({word: 'NAME'})} with its label, null to leave such rows out, or task.kind=classes if each "
            "is a separate class"
        )


def _counted(found: Mapping[str, int]) -> None:
    """Whole numbers, few of them different."""
    numbers = [number(word) for word in found]
    whole = [n for n in numbers if n is not None and n.is_integer()]
    if 2 < len(whole) == len(found) <= AMOUNTS:
        first = next(iter(found))
        raise DataError(
            f"row {found[first]} has the label {first}, and all {len(found)} different labels are whole numbers from "
            f"{min(whole):g} to {max(whole):g}; set task.kind=classes where they number classes, task.kind=number "
            "where they are amounts"
        )


def mapping(given: Any, setting: str, example: str) -> dict[str, str | None]:
    """Names with names, or with None for null without quotes, from a mapping or its text. Raises ConfigError."""
    import yaml

    class Loader(yaml.BaseLoader):  # type: ignore[misc]
        def construct_scalar(self, node: Any) -> Any:
            plain = node.style is None and node.value in LEFT_OUT
            return None if plain else super().construct_scalar(node)

    if given is None:
        return {}
    read = given
    if isinstance(given, str):
        try:
            read = yaml.load(given, Loader=Loader)
        except yaml.YAMLError:
            read = None
    if not isinstance(read, Mapping) or not all(isinstance(v, str | int | float | None) for v in read.values()):
        raise ConfigError(f"{setting}={given} must be names with names, such as {setting}={example}")
    return {_text(key): None if value is None else _text(value) for key, value in read.items()}


def name_of(label: Label) -> str:
    """A label in words, whole numbers without a point; the words of a list in sorted order."""
    if isinstance(label, tuple):
        return ", ".join(sorted(label))
    if isinstance(label, float):
        return str(int(label)) if label.is_integer() else repr(label)
    return label


def words(label: Label) -> tuple[str, ...]:
    """The words of a list, or the one that a label is."""
    return label if isinstance(label, tuple) else (name_of(label),)


def number(name: str) -> float | None:
    """What a label says, None where that is no finite number."""
    try:
        found = float(name)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return name_of(float(value)) if isinstance(value, int | float) else value.strip()


def bare(word: str) -> str:
    """A word without its case."""
    return unicodedata.normalize("NFC", word).casefold()


def _commonest(spelled: Counter[str]) -> dict[str, str]:
    """{label without its case: how most rows spell it, of equals the first}."""
    found: dict[str, str] = {}
    for word, _ in spelled.most_common():
        found.setdefault(bare(word), word)
    return found


def _renamed(label: Label, rename: Mapping[str, str | None]) -> Label | None:
    """None for a row that is left out; a list loses its word alone."""
    if isinstance(label, tuple):
        return tuple(dict.fromkeys(name for word in label if (name := rename[word]) is not None))
    name = rename[name_of(label)]
    return label if name == name_of(label) else name


def _joined(spelled: Counter[str], rename: Mapping[str, str | None]) -> Iterator[str]:
    """A sentence for each label that has other spellings or names in the table."""
    for name in dict.fromkeys(rename.values()):
        others = [f"{word!r} ({spelled[word]})" for word in spelled if rename[word] == name and word != name]
        if name is not None and others:
            yield f"{few(others, 6)} in the table counted as the label {name!r}"


def _left_out(rows: Sequence[Row], rename: Mapping[str, str | None]) -> Iterator[str]:
    """A sentence for each label whose rows are left out, or that is taken out of lists."""
    for word in (word for word, name in rename.items() if name is None):
        held = [str(row.number) for row in rows if word in words(row.label)]
        yield f"label {word!r} left out by task.labels: {len(held)} rows ({few(held, 6)})"


def _typed(labels: Mapping[str, str | None]) -> str:
    return typed_names("task.labels", labels)


def typed_names(setting: str, labels: Mapping[str, str | None]) -> str:
    """Names with names, as one would type the setting in a shell."""
    bare_words = (word for word in labels if word.isalnum() and word not in LEFT_OUT)
    plain = {word: json.dumps(word, ensure_ascii=False) for word in labels} | {word: word for word in bare_words}
    pairs = (f"{plain[key]}: {'null' if name is None else plain.get(name, name)}" for key, name in labels.items())
    return shlex.quote(f"{setting}={{{', '.join(pairs)}}}")
