"""geometry.csv: its rows, written and read back."""

import csv
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.files.cells import cell
from mllm_probe.files.paths import replacing
from mllm_probe.files.readback import read_table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Relation:
    """One row of geometry.csv; the fields are its columns, in order.

    `site_b` is empty where one layer is measured alone. `value` is nan, an empty cell, where nothing can be measured;
    `null_mean` and `null_high` are mean and 95 % quantile of the value over shuffles of the rows, nan without.
    """

    run: str
    cache: str
    model: str
    measure: str
    position: str
    site_a: str
    site_b: str
    value: float
    null_mean: float
    null_high: float
    n: int


COLUMNS = tuple(field.name for field in fields(Relation))


def save_relations(path: Path, relations: Iterable[Relation]) -> None:
    """Six digits a number: more are rounding of the float32 the layers were compared in."""
    with replacing(path) as part, part.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(COLUMNS)
        writer.writerows([_cell(value) for value in astuple(relation)] for relation in relations)


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return cell(value)


def load_relations(path: Path) -> "pd.DataFrame":
    """The tidy table; empty numbers are nan, and an empty `site_b` is an empty text. Raises DataError."""
    numbers = {"value": float, "null_mean": float, "null_high": float, "n": int}
    texts = {name: str for name in COLUMNS if name not in numbers}
    return read_table(path, texts, numbers)
