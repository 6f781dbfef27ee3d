"""geometry.csv: its rows, written and read back."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.files.readback import columns, lines_of, read_table, save_table

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


COLUMNS = columns(Relation)


def save_relations(path: Path, relations: Iterable[Relation]) -> None:
    """Six digits a number: more are rounding of the float32 the layers were compared in."""
    save_table(path, COLUMNS, lines_of(relations), digits=6)


def load_relations(path: Path) -> "pd.DataFrame":
    """The tidy table; empty numbers are nan, and an empty `site_b` is an empty text. Raises DataError."""
    numbers = {"value": float, "null_mean": float, "null_high": float, "n": int}
    texts = {name: str for name in COLUMNS if name not in numbers}
    return read_table(path, texts, numbers)
