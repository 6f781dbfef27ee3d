"""The rows of a data file, one mapping each: JSON lines, a list in JSON, CSV or parquet. Knows no column by name."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mllm_probe.data.pictures import lacking
from mllm_probe.errors import DataError, choices, is_whole

Record = Mapping[str, Any]
Numbered = tuple[int, Record | DataError]  # a row that cannot be read stands as its error, for whoever may skip it


def read_records(path: Path) -> list[Numbered]:
    """(where it stands, row) of every row of a file whose ending names its format. Raises DataError.

    Rows count from 1: by lines in text files (a CSV header is line 1), by entries in JSON lists and parquet.
    """
    if path.suffix not in READERS:
        raise DataError(f"{path} has the extension {path.suffix!r}; {choices(path.suffix, READERS)}")
    if said := lacking(path):
        raise DataError(f"{path} {said}; put the file there, or name another one with dataset.file=FILE")
    try:
        rows = list(READERS[path.suffix](path))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text ({error}); save it as UTF-8") from error
    if not rows:
        raise DataError(f"{path} holds no row")
    return rows


def _json(path: Path) -> Iterator[Numbered]:
    """A list of objects, alone or as a part of one object; or, as many published files named .json have it, an object
    a line."""
    text = path.read_text(encoding="utf-8-sig")
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("["):
            raise DataError(f"{path} is not JSON ({error}); a list of objects is expected") from error
        records = None
    if isinstance(records, dict):
        records = _list_in(path, records)
    if not isinstance(records, list):
        yield from _lines(path)
        return
    escaped = _escaped(text)
    for number, record in enumerate(records, 1):
        yield number, _object(path, number, record, escaped)


def _list_in(path: Path, whole: Mapping[str, Any]) -> list[Any] | None:
    """The list of objects that an object holds; None for a row that stands alone. Raises DataError for two lists."""
    lists = {
        key: value for key, value in whole.items() if isinstance(value, list) and value and isinstance(value[0], dict)
    }
    if len(lists) > 1:
        raise DataError(f"{path} holds several lists of rows ({', '.join(lists)}); save the right one in its own file")
    return next(iter(lists.values()), None)


def _lines(path: Path) -> Iterator[Numbered]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, _object(path, number, json.loads(line), _escaped(line))
                except (ValueError, RecursionError) as error:  # too many digits or brackets are refused, too
                    yield number, DataError(f"{path.name}, row {number} is not JSON ({error}); one object a line")


def _escaped(text: str) -> bool:
    """Whether JSON names halves of characters, of which one may be alone."""
    return "\\ud" in text or "\\uD" in text


def _object(path: Path, number: int, record: Any, escaped: bool) -> Record | DataError:
    if escaped and not is_whole(json.dumps(record, ensure_ascii=False)):
        return DataError(f"{path.name}, row {number} holds half a character (a lone surrogate); fix it")
    if isinstance(record, dict):
        return record
    return DataError(f"{path.name}, row {number} is no JSON object, found {str(record)[:80]}")


def _csv(path: Path) -> Iterator[Numbered]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        start = 1
        try:
            header = next(reader, [])
            if twice := [name for name, n in Counter(header).items() if n > 1]:
                raise DataError(f"{path}, row 1 names the column '{twice[0]}' twice; give each its own name")
            start = reader.line_num + 1
            for cells in reader:
                if cells:
                    yield start, _cells(path, start, header, cells)
                start = reader.line_num + 1  # a quoted cell may run over several lines
        except csv.Error as error:
            raise DataError(f"{path}, row {start} is not CSV ({error})") from error


def _cells(path: Path, number: int, header: list[str], cells: list[str]) -> Record | DataError:
    if len(cells) == len(header):
        return dict(zip(header, cells, strict=True))
    return DataError(
        f"{path.name}, row {number} has {len(cells)} cells where the header has {len(header)}; "
        "quote cells that hold a comma"
    )


def _parquet(path: Path) -> Iterator[Numbered]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"{path} needs pyarrow; pip install 'mllm-probe[parquet]'") from error
    try:
        with ParquetFile(path) as file:
            yield from enumerate(file.read().to_pylist(), 1)
    except ArrowException as error:
        raise DataError(f"{path} is not parquet ({error})") from error


READERS: Mapping[str, Callable[[Path], Iterator[Numbered]]] = {
    ".jsonl": _lines,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
