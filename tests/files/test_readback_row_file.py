"""One writer for all tables: missing cells are empty, digits are those asked for, and nothing is a formula."""

import csv
from dataclasses import asdict, dataclass
from math import inf, nan, pi
from pathlib import Path

import numpy as np
import pandas as pd

from mllm_probe.files.readback import columns, save_rows, save_table


@dataclass(frozen=True)
class Row:
    name: str
    n: int
    lambda_: float
    sure: bool


ROWS = [
    Row("a, b", 3, pi * 1e7, True),
    Row('quoted "c"\nand more', -1, nan, False),
    Row("é", 0, -0.0, True),
    Row("", 7, 1e-12 / 3, False),
    Row("d", 7, inf, False),
]


def test_rows_are_written_as_pandas_writes_them(tmp_path: Path) -> None:
    save_rows(tmp_path / "rows.csv", Row, ROWS)
    table = pd.DataFrame(map(asdict, ROWS)).set_axis(["name", "n", "lambda", "sure"], axis=1)
    table.to_csv(tmp_path / "other.csv", index=False, float_format="%.8g", lineterminator="\n")
    assert columns(Row) == tuple(table.columns)
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "other.csv").read_bytes()


def test_a_float_of_any_kind_keeps_its_digits(tmp_path: Path) -> None:
    numbers = (1 / 3, np.float64(1 / 3), np.float32(1 / 3), np.int64(7), 7, None, nan, "=1", "-x")
    save_table(tmp_path / "a.csv", ("a",), [[number] for number in numbers], digits=3)
    with (tmp_path / "a.csv").open(newline="") as file:
        assert [cell for (cell,) in list(csv.reader(file))[1:]] == [*3 * ["0.333"], "7", "7", "", "", "'=1", "'-x"]
    save_table(tmp_path / "b.csv", ("a", "b"), [(1 / 3, 1.0)])
    assert (tmp_path / "b.csv").read_bytes() == f"a,b\r\n{1 / 3!r},1.0\r\n".encode()
