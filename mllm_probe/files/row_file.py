"""Frozen records as the rows of a CSV, their fields its columns in order. Knows no record by name."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.files.cells import cell
from mllm_probe.files.paths import replacing
from mllm_probe.files.readback import damaged, read_table

if TYPE_CHECKING:
    import pandas as pd


def save_rows(path: Path, kind: type, rows: Sequence[Any]) -> None:
    """Rows of the record `kind`; nan is an empty cell, a float has eight digits."""
    import pandas as pd

    table = pd.DataFrame(map(asdict, rows), columns=[field.name for field in fields(kind)])
    for field in fields(kind):
        if field.type is str:
            table[field.name] = table[field.name].map(cell)
    with replacing(path) as part:
        table.to_csv(part, index=False, float_format="%.8g", lineterminator="\n")


def load_rows(path: Path, kind: type) -> "pd.DataFrame":
    """What `save_rows` wrote; an empty number is nan, an empty text a text. Raises DataError for a damaged file."""
    types = {field.name: field.type for field in fields(kind)}
    texts = {name: str for name, declared in types.items() if declared is str}
    table = read_table(path, texts, {name: declared for name, declared in types.items() if name not in texts})
    try:
        return table.astype({name: declared for name, declared in types.items() if declared in (int, float)})
    except ValueError as error:
        raise damaged(path, error) from error
