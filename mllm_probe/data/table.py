"""A file of questions about pictures: which picture, what is asked, what is right. Knows no task and no model.

Rows are kept as they stand in the file; what their labels mean is the task's business.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from mllm_probe.data.coco import Selection
from mllm_probe.data.duplicates import joined
from mllm_probe.data.pictures import LOOKERS, ahead, look_at, named_file
from mllm_probe.data.readers import Numbered, read_records
from mllm_probe.errors import ConfigError, DataError
from mllm_probe.files.digests import Digests
from mllm_probe.records.samples import Collection, Picture, Row
from mllm_probe.records.score import ASKED, TOLD

COLUMNS = ("picture_column", "text_column", "label_column", "group_column", "id_column")
Label = str | float | tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Questions in `file` (.jsonl, .json, .csv or .parquet, see `records`) about pictures in `root`/`pictures`.

    Columns hold a picture's file name, the text, the label (a word, a number, or a list of the words that hold) and,
    where `group_column` is given, what pictures share that must stay on one side of a split: the patient, the film.
    A picture without a value there is a group of its own. In CSV every cell is a word. `id_column`, where each row has
    another name, and `columns` travel to predictions.csv.
    """

    root: str | None = None
    file: str | None = None
    pictures: str = "."
    picture_column: str = "picture"
    text_column: str = "text"
    label_column: str = "label"
    group_column: str | None = None
    id_column: str | None = None
    columns: Sequence[str] = ()
    name: str = "table"

    def __post_init__(self) -> None:
        for name in self.columns:
            if name in (*ASKED, *TOLD) or self.columns.count(name) > 1:
                raise ConfigError(
                    f"dataset.columns names '{name}', which predictions.csv has already; leave it out, or give that "
                    "column of the table another name"
                )

    def load(self, outputs: Path, selection: Selection, digests: Digests) -> Collection:
        """Read the rows, draw `selection.n` of the pictures they name, and check those. Raises DataError."""
        file = self._file()
        lines, skipped = self._lines(file, selection)
        folder = Path(self.root or "") / self.pictures
        pictures, unusable = _pictures(file, folder, _drawn(lines, selection), digests, selection)
        skipped += unusable
        if not pictures:
            raise DataError(f"no usable row is left in {file} ({len(skipped)} skipped, the first: {skipped[0]})")
        lines = [line for line in lines if line.picture in pictures]
        pictures = _grouped(pictures, lines)
        rows = tuple(
            Row(pictures[line.picture], line.text, line.label, line.number, line.columns, line.id, line.group)
            for line in lines
        )
        different = {picture.digest: picture for picture in pictures.values()}
        return Collection(self.name, tuple(different.values()), (), _never, tuple(skipped), rows, source=file.name)

    def labels(self, selection: Selection) -> list[tuple[int, Label]] | None:
        """(row, label) of those that are drawn, without a picture; None where bad rows are left out, for then only the
        pictures say which. Raises DataError."""
        if selection.on_bad_row != "stop":
            return None
        lines, _ = self._lines(self._file(), selection)
        return [(line.number, line.label) for drawn in _drawn(lines, selection).values() for line in drawn]

    def _file(self) -> Path:
        if not self.root or not self.file:
            raise DataError(
                f"dataset={self.name} needs dataset.root=FOLDER and dataset.file=FILE, the table of questions: "
                "a name in that folder, or a whole path"
            )
        return Path(self.root) / self.file

    def _lines(self, file: Path, selection: Selection) -> tuple[list["Line"], list[str]]:
        """The rows whose cells are in order, and a sentence for each other one."""
        records = read_records(file)
        self._check_columns(file, records)
        lines: list[Line] = []
        skipped: list[str] = []
        first: dict[str, int] = {}
        name = file.name
        records.reverse()
        while records:  # each is forgotten once it is read
            number, record = records.pop()
            if isinstance(record, DataError):
                skipped.append(_said(record, selection))
                continue
            try:
                line = self._line(number, record)
                if line.id and first.setdefault(line.id, number) != number:
                    raise DataError(f"the id {line.id!r} is that of row {first[line.id]}; give each row its own")
                lines.append(line)
            except DataError as error:
                skipped.append(_said(DataError(f"{name}, row {number}: {error}"), selection))
        return lines, skipped

    def _check_columns(self, file: Path, records: Sequence[Numbered]) -> None:
        """A column that no row has is a slip in the settings, not a bad row."""
        readable = [(number, record) for number, record in records if not isinstance(record, DataError)]
        seen = {str(name): None for name in dict.fromkeys(chain.from_iterable(record for _, record in readable))}
        named = {name: getattr(self, name) for name in COLUMNS} | {f"columns={name}": name for name in self.columns}
        for setting, wanted in named.items():
            if readable and wanted is not None and wanted not in seen:
                raise DataError(
                    f"{file}, row {readable[0][0]} and all others: no column '{wanted}' (dataset.{setting}); "
                    f"choose one of: {', '.join(seen)}"
                )

    def _line(self, number: int, record: Mapping[str, Any]) -> "Line":
        picture = _word(record, self.picture_column, "the file name of a picture")
        text = _word(record, self.text_column, "the text that is asked")
        group = _group(record.get(self.group_column)) if self.group_column is not None else ""
        label = _label(record, self.label_column)
        columns = {str(name): found for name, cell in record.items() if (found := _plain(cell)) != ""}
        id = self._id(record) if self.id_column is not None else ""
        return Line(number, picture, text, label, group, columns, id)

    def _id(self, record: Mapping[str, Any]) -> str:
        """A whole number is a name, too."""
        value = _cell(record, str(self.id_column))
        return str(value) if type(value) is int else _word(record, str(self.id_column), "the name of the row")


@dataclass(frozen=True, slots=True)
class Line:
    """A row before its picture was looked at."""

    number: int
    picture: str
    text: str
    label: Label
    group: str
    columns: Mapping[str, str | float]
    id: str


def _never(picture: Picture, caption: str) -> bool:
    """A table says what is right about its own texts only."""
    return False


def _said(error: DataError, selection: Selection) -> str:
    """What is noted of a row that is left out. Raises DataError where bad rows stop the run."""
    if selection.on_bad_row == "stop":
        raise DataError(f"{error}, or leave such rows out with data.on_bad_row=skip") from error
    return str(error)


def _word(record: Mapping[str, Any], column: str, what: str) -> str:
    value = _cell(record, column)
    if not isinstance(value, str):
        raise DataError(f"'{column}' is {str(value)[:80]!r}, but must be {what}; fix the row")
    if not value.strip():
        raise DataError(f"'{column}' is empty, but must be {what}; fix the row")
    return value.strip()


def _label(record: Mapping[str, Any], column: str) -> Label:
    """Words and lists of words as they are, true and false as words, every number a float."""
    value = _cell(record, column)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and abs(value) <= sys.float_info.max:
        return float(value)
    if isinstance(value, list) and all(isinstance(word, str) and word.strip() for word in value):
        return tuple(dict.fromkeys(word.strip() for word in value))
    return _word(record, column, "a word, a finite number or a list of words")


def _plain(cell: Any) -> str | float:
    """A word or a number as it is, anything else as nothing."""
    if isinstance(cell, str):  # first, for most are
        return cell.strip()
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, int | float):
        return float(cell) if abs(cell) <= sys.float_info.max else ""  # nor what is not a number
    return ""


def _group(cell: Any) -> str:
    """What a group is called; a whole number is so in any file, however that writes it."""
    whole = isinstance(cell, float) and cell.is_integer()
    return "" if cell is None else str(int(cell) if whole else cell).strip()


def _cell(record: Mapping[str, Any], column: str) -> Any:
    if column not in record:
        raise DataError(f"the column '{column}' is missing, found {', '.join(map(str, record)) or 'none'}")
    value = record[column]
    return "" if value is None else value


def _drawn(lines: Sequence[Line], selection: Selection) -> dict[str, list[Line]]:
    """{picture name: its rows} of the pictures drawn, in the order of the file."""
    names = sorted({line.picture for line in lines})
    if selection.n is not None:
        names = Random(f"select/{selection.seed}").sample(names, min(selection.n, len(names)))
    drawn = set(names)
    found: dict[str, list[Line]] = {}
    for line in lines:
        if line.picture in drawn:
            found.setdefault(line.picture, []).append(line)
    return found


def _pictures(
    file: Path, folder: Path, rows: Mapping[str, Sequence[Line]], digests: Digests, selection: Selection
) -> tuple[dict[str, Picture], list[str]]:
    """{name: picture} of those that decode, one for all names with the same bytes, and a sentence for each other."""
    by_digest: dict[str, Picture] = {}
    found: dict[str, Picture] = {}
    skipped = []
    for (name, lines), seen in ahead(
        rows.items(), lambda one: _checked(folder, one[0], selection.links, digests), LOOKERS
    ):
        if isinstance(seen, DataError):
            more = f" and {len(lines) - 1} more" if len(lines) > 1 else ""
            error = DataError(f"{file.name}, row {lines[0].number}{more}: {seen}")
            skipped.append(_said(error, selection))
        else:
            path, content = seen
            found[name] = by_digest.setdefault(content, Picture(name, path, content))
    return found, skipped


def _checked(folder: Path, name: str, links: str, digests: Digests) -> tuple[Path, str] | DataError:
    """The picture's file and its digest, or what is wrong with it."""
    try:
        path = named_file(folder, name, links)
        return path, look_at(path, digests)
    except DataError as error:
        return error


def _grouped(pictures: Mapping[str, Picture], lines: Sequence[Line]) -> dict[str, Picture]:
    """The pictures with the group of all that they are connected to by values of the group column."""
    groups = joined((picture.digest for picture in pictures.values()), _pairs(pictures, lines))
    return {name: replace(picture, group=groups[picture.digest]) for name, picture in pictures.items()}


def _pairs(pictures: Mapping[str, Picture], lines: Sequence[Line]) -> Iterator[tuple[str, str]]:
    first: dict[str, str] = {}
    for line in lines:
        if line.group:
            content = pictures[line.picture].digest
            yield first.setdefault(line.group, content), content
