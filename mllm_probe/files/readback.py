"""Tables as CSV files, written in one way, and the files of a finished run, read back.

A file that was cut or edited by hand is named, and is no traceback. In the cells of a CSV, what a spreadsheet would
take for a formula stands behind an apostrophe.
"""

import csv
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mllm_probe.errors import DataError, count, first_line
from mllm_probe.files.seals import check_entries, check_sealed, read_object
from mllm_probe.files.store_paths import replacing

if TYPE_CHECKING:
    import pandas as pd

REPEAT = "repeat the run, its cache is still used"
LAST = "plugins"  # what a config.yaml ends with
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
CRLF = "\r\n"


def damaged(path: Path, why: object) -> DataError:
    return DataError(f"{path} is damaged ({why}); {REPEAT}")


def read_entries(path: Path, kinds: Mapping[str, Any], optional: Collection[str] = ()) -> dict[str, Any]:
    """The JSON object in a file, whose entries are of these kinds; the `optional` may lack. Raises DataError."""
    try:
        found = read_object(path)
        check_entries(found, {name: kind for name, kind in kinds.items() if name in found or name not in optional})
    except ValueError as error:
        raise damaged(path, error) from error
    check_sealed(path)
    return found


def read_config(path: Path) -> dict[str, Any]:
    """The settings in config.yaml, nested. Raises DataError where it was cut."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        found = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; {REPEAT}") from error
    except (YAMLError, ValueError, OSError, RecursionError) as error:
        raise damaged(path, first_line(error)) from error
    if not isinstance(found, dict) or not isinstance(found.get(LAST), list):
        raise damaged(path, f"it was cut off: its last setting, {LAST}, is missing")
    return found  # type: ignore[return-value]


def read_table(
    path: Path, texts: Mapping[str, type], numbers: Mapping[str, Any], optional: Collection[str] = ()
) -> "pd.DataFrame":
    """A CSV with these columns, of which the `optional` may lack; empty texts are "", empty numbers nan. Raises
    DataError where a number is none, a line was cut, or the file is no table."""
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    try:
        _check_lines(path)
        others = [name for name in pd.read_csv(path, nrows=0).columns if name not in texts]
        empty = {name: [""] for name in others}  # of a text nothing is missing: a model may be called nan
        table = pd.read_csv(path, dtype=dict(texts), low_memory=False, keep_default_na=False, na_values=empty)
    except (OSError, ValueError, csv.Error) as error:  # of pandas, too, and of bytes that are no text
        raise damaged(path, error) from error
    if absent := (texts.keys() | numbers.keys()) - {*table.columns, *optional}:
        raise damaged(path, f"it lacks the column {min(absent)}, or is from another release")
    for name in texts.keys() & set(table.columns):
        table[name] = table[name].map(bare)
    for name in numbers.keys() & set(table.columns):
        values = table[name].dropna()
        if len(values) and not is_numeric_dtype(values.infer_objects()):
            wrong = values[pd.to_numeric(values, errors="coerce").isna()]
            if len(wrong):
                raise damaged(path, f"{wrong.iloc[0]!r} in column {name} is no number")
    check_sealed(path)
    return table


def _check_lines(path: Path) -> None:
    """Every line ends, and has as many cells as the first, or none. Raises ValueError, csv.Error."""
    with path.open("rb") as raw:
        ends = [line.endswith(b"\n") for line in raw]
    if not all(ends):
        raise ValueError(f"line {len(ends)} has no end: the file was cut off there")
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        width, line = len(next(rows, ())), rows.line_num
        if not width:
            raise ValueError("it is empty")
        for row in rows:
            if len(row) not in (0, width):
                raise ValueError(f"line {line + 1} has {count(len(row), 'cell')} and the first line {width}")
            line = rows.line_num


@contextmanager
def blamed(folder: Path) -> Iterator[None]:
    """Whatever goes wrong here is the fault of a run's own files: they were written without it. Raises DataError."""
    from jinja2 import TemplateError

    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, TemplateError) as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise DataError(f"a file in {folder} is damaged or was changed by hand ({why}); {REPEAT}") from error


def cell(value: object) -> object:
    """A value as it is written: no number, and what is missing is empty."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULAS) else value
    return "" if value is None or value != value else value


def bare(value: str) -> str:
    """A text as it was before it was written."""
    return value[1:] if value.startswith("'") and value[1:].startswith(FORMULAS) else value


def columns(kind: type) -> tuple[str, ...]:
    """The fields of a record, in order; `lambda_` is the column lambda."""
    return tuple(field.name.rstrip("_") for field in fields(kind))


def lines_of(records: Iterable[Any]) -> Iterable[list[object]]:
    """The values of each record, in the order of its columns."""
    return ([getattr(record, field.name) for field in fields(record)] for record in records)


def write_lines(file: TextIO, lines: Iterable[Iterable[object]], digits: int | None = None, end: str = CRLF) -> None:
    """None and nan are empty cells; a number that is not whole has so many digits, or with None all that it has."""
    written = cell if digits is None else partial(_written, digits=digits)
    csv.writer(file, lineterminator=end).writerows(map(written, line) for line in lines)


def _written(value: object, digits: int) -> object:
    if not isinstance(value, Real) or isinstance(value, Integral) or value != value:
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


def load_filled(path: Path, kind: type, of: str) -> "pd.DataFrame":
    """What `save_rows` wrote, some rows at least; `of` is what leaves the file. Raises DataError, also without it."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; name the folder of a finished {of}")
    table = load_rows(path, kind)
    if table.empty:
        raise damaged(path, "it has no row")
    return table


def load_rows(path: Path, kind: type) -> "pd.DataFrame":
    """What `save_rows` wrote; an empty number is nan, an empty text a text. Raises DataError for a damaged file."""
    types = {field.name: field.type for field in fields(kind)}
    texts = {name: str for name, declared in types.items() if declared is str}
    table = read_table(path, texts, {name: declared for name, declared in types.items() if name not in texts})
    try:
        return table.astype({name: declared for name, declared in types.items() if declared in (int, float)})
    except ValueError as error:
        raise damaged(path, error) from error
