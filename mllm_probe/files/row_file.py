"""Tables as CSV files: the one way to write them, and frozen records as their rows. Knows no record by name."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mllm_probe.files.paths import replacing
from mllm_probe.files.readback import cell, damaged, read_table

if TYPE_CHECKING:
    import pandas as pd

CRLF = "\r\n"


def columns(kind: type) -> tuple[str, ...]:
    """The fields of a record, in order; `lambda_` is the column lambda."""
    return tuple(field.name.rstrip("_") for field in fields(kind))


def lines_of(records: Iterable[Any]) -> Iterable[list[object]]:
    """The values of each record, in the order of its columns."""
    return ([getattr(record, field.name) for field in fields(record)] for record in records)


def write_lines(file: TextIO, lines: Iterable[Iterable[object]], digits: int | None = None, end: str = CRLF) -> None:
    """None and nan are empty cells; a number that is not whole has so many digits, or with None all that it has."""
    csv.writer(file, lineterminator=end).writerows([_written(value, digits) for value in line] for line in lines)


def _written(value: object, digits: int | None) -> object:
    if digits is None or not isinstance(value, Real) or isinstance(value, Integral) or value != value:
        return cell(value)
    return f"{float(value):.{digits}g}"


def save_table(
    path: Path, names: Iterable[str], lines: Iterable[Iterable[object]], digits: int | None = None, end: str = CRLF
) -> None:
    """A table with these columns, in one move."""
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        write_lines(file, [names], end=end)
        write_lines(file, lines, digits, end)


def save_rows(path: Path, kind: type, rows: Sequence[Any], digits: int | None = 8, end: str = "\n") -> None:
    """Rows of the record `kind`."""
    save_table(path, columns(kind), lines_of(rows), digits, end)


def load_rows(path: Path, kind: type) -> "pd.DataFrame":
    """What `save_rows` wrote; an empty number is nan, an empty text a text. Raises DataError for a damaged file."""
    types = {field.name: field.type for field in fields(kind)}
    texts = {name: str for name, declared in types.items() if declared is str}
    table = read_table(path, texts, {name: declared for name, declared in types.items() if name not in texts})
    try:
        return table.astype({name: declared for name, declared in types.items() if declared in (int, float)})
    except ValueError as error:
        raise damaged(path, error) from error
