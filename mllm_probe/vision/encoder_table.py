"""A table of vision representations, one a row: A score, C score, and what was measured on benchmarks.

Says which cell is wrong; knows no fit. An empty benchmark cell is a representation that was not trained yet.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np

from mllm_probe import __version__
from mllm_probe.config.vision import FitSettings, PolicySettings
from mllm_probe.data.coco import BAD_ROW
from mllm_probe.data.pictures import lacking
from mllm_probe.data.readers import read_records
from mllm_probe.errors import ConfigError, DataError, choices
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import digest
from mllm_probe.vision.law import FEWEST, min_max

BUNDLED = Path(__file__).resolve().parent.parent / "bundled" / "law" / "representations.csv"
MEASURED = "perf_"  # what a benchmark's column may begin with


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: scores [N, 2] = A and C of the representations as they stand in the table, `unit` [N, 2] the same
    scaled to [0, 1] over all of them, y [N] performance in the benchmark's own unit, nan where nobody trained; `column`
    is where that stands."""

    name: str
    column: str
    scores: np.ndarray
    unit: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Table:
    """N representations by name, the benchmarks, and a sentence for each row that was left out."""

    names: tuple[str, ...]
    benchmarks: tuple[Benchmark, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Columns:
    """Where things stand: {benchmark: column} of A and of performance; A may have one column for all of them."""

    a: Mapping[str, str]
    y: Mapping[str, str]


def read_table(settings: FitSettings) -> Table:
    """The table of `fit.table`. Raises ConfigError for settings and columns, DataError for rows."""
    file = Path(settings.table) if settings.table is not None else BUNDLED
    if settings.on_bad_row not in BAD_ROW:
        raise ConfigError(f"fit.on_bad_row={settings.on_bad_row} is unknown; {choices(settings.on_bad_row, BAD_ROW)}")
    if said := lacking(file):
        raise DataError(f"fit.table={file} {said}; name a CSV, or leave it out for the published table")
    records = read_records(file)
    columns = _columns(file, [record for _, record in records if not isinstance(record, DataError)], settings)
    rows: dict[str, Mapping[str, float]] = {}
    skipped = []
    for number, record in records:
        try:
            name, cells = _row(f"{file.name}, row {number}", record, columns, settings)
            if name in rows:
                raise DataError(f"{file.name}, row {number}: '{name}' is there twice; give each row its own name")
            rows[name] = cells
        except DataError as error:
            if settings.on_bad_row == "stop":
                raise DataError(f"{error}, or leave such rows out with fit.on_bad_row=skip") from error
            skipped.append(str(error))
    if len(rows) < FEWEST:
        left = f" ({len(skipped)} left out)" if skipped else ""
        raise DataError(f"{file} holds {len(rows)} representations{left}, but the law needs {FEWEST} or more")
    return Table(tuple(rows), tuple(_benchmarks(list(rows.values()), columns, settings.c)), tuple(skipped))


def open_table(settings: FitSettings, reporter: Reporter) -> Table:
    """The table, and a note for each row that was left out. Raises ConfigError, DataError."""
    table = read_table(settings)
    for sentence in table.skipped:
        reporter.note(f"left out: {sentence}")
    return table


def table_digest(table: Table, *settings: FitSettings | PolicySettings) -> str:
    """What every number follows from; where the file lies does not count."""
    cells = [(benchmark.name, benchmark.scores.tolist(), benchmark.y.tolist()) for benchmark in table.benchmarks]
    asked = [{**asdict(group), "table": None} for group in settings]
    return digest(__version__, table.names, cells, asked)


def table_name(settings: FitSettings) -> str:
    return Path(settings.table if settings.table is not None else BUNDLED).stem


def _columns(file: Path, records: list[Mapping[str, Any]], settings: FitSettings) -> Columns:
    seen = list(dict.fromkeys(name for record in records for name in record))

    def column(setting: str, *options: str) -> str:
        for option in options:
            if option in seen:
                return option
        raise ConfigError(f"{file} has no column '{options[0]}' ({setting}); {choices(options[0], seen)}")

    column("fit.representation", settings.representation)
    column("fit.c", settings.c)
    asked = settings.benchmarks
    if asked is None:
        asked = [name.removeprefix(MEASURED) for name in seen if name.startswith(MEASURED)]
    if not asked or len(set(asked)) < len(asked):
        raise ConfigError(
            f"fit.benchmarks={settings.benchmarks} must name at least one column of {file}, each once (null: all that "
            f"begin with {MEASURED}); the columns are {', '.join(seen)}"
        )
    y = {name: column("fit.benchmarks", MEASURED + name, name) for name in asked}
    return Columns({name: column("fit.a", settings.a, f"{settings.a}_{name}") for name in asked}, y)


def _row(where: str, record: Any, columns: Columns, settings: FitSettings) -> tuple[str, Mapping[str, float]]:
    """A row's name and its numbers by column. Raises DataError."""
    if isinstance(record, DataError):
        raise record
    name = str(record[settings.representation] or "").strip()
    if not name:
        raise DataError(f"{where}: '{settings.representation}' is empty, but every row needs a name; fix the row")
    scores = (settings.c, *columns.a.values())
    cells = {column: _number(where, record, column) for column in (*scores, *columns.y.values())}
    for column in scores:
        if cells[column] != cells[column]:
            raise DataError(f"{where}: '{column}' of {name} is empty, but A and C are needed in every row; fix the row")
    return name, cells


def _number(where: str, record: Mapping[str, Any], column: str) -> float:
    text = str("" if record.get(column) is None else record[column]).strip()
    try:
        value = float(text) if text else nan
    except ValueError:
        value = float("inf")
    if text and not isfinite(value):
        raise DataError(f"{where}: '{column}' is {text[:80]!r}, but must be a finite number; fix the row")
    return value


def _benchmarks(rows: list[Mapping[str, float]], columns: Columns, c: str) -> Iterator[Benchmark]:
    def values(column: str) -> np.ndarray:
        return np.array([row[column] for row in rows])

    for name, measured in columns.y.items():
        scores = np.stack([values(columns.a[name]), values(c)], axis=-1)
        unit = np.stack([min_max(scores[:, 0], columns.a[name]), min_max(scores[:, 1], c)], axis=-1)
        yield Benchmark(name, measured, scores, unit, values(measured))
