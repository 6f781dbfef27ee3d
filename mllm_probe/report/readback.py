"""The files of a finished run, read back: one that was cut or edited by hand is named, and is no traceback."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.cells import bare
from mllm_probe.errors import DataError, first_line

if TYPE_CHECKING:
    import pandas as pd

REPEAT = "repeat the run, its cache still serves"


def damaged(path: Path, why: object) -> DataError:
    return DataError(f"{path} is damaged ({why}); {REPEAT}")


def read_object(path: Path, entries: Mapping[str, type] | None = None) -> dict[str, Any]:
    """The JSON object in a file; of `entries` those that are there have these types. Raises DataError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error
    if not isinstance(found, dict):
        raise damaged(path, f"it holds {type(found).__name__} and no object")
    for name, kind in (entries or {}).items():
        if name in found and not isinstance(found[name], kind):
            raise damaged(path, f"its entry '{name}' is no {kind.__name__}")
    return found


def read_table(path: Path, texts: Mapping[str, type], numbers: Mapping[str, Any]) -> "pd.DataFrame":
    """A CSV; empty texts are "", empty numbers nan. Raises DataError where a number is none, or the file no table."""
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    try:
        others = [name for name in pd.read_csv(path, nrows=0).columns if name not in texts]
        empty = {name: [""] for name in others}  # of a text nothing is missing: a model may be called nan
        table = pd.read_csv(path, dtype=dict(texts), low_memory=False, keep_default_na=False, na_values=empty)
    except (OSError, ValueError, pd.errors.ParserError) as error:  # also an empty file, and bytes that are no text
        raise damaged(path, error) from error
    for name in texts.keys() & set(table.columns):
        table[name] = table[name].map(bare)
    for name in numbers.keys() & set(table.columns):
        values = table[name].dropna()
        if len(values) and not is_numeric_dtype(values.infer_objects()):
            wrong = values[pd.to_numeric(values, errors="coerce").isna()]
            if len(wrong):
                raise damaged(path, f"{wrong.iloc[0]!r} in column {name} is no number")
    return table


@contextmanager
def blamed(folder: Path) -> Iterator[None]:
    """Whatever goes wrong here is the fault of a run's own files: they were written without it. Raises DataError."""
    from jinja2 import TemplateError

    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, TemplateError) as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise DataError(f"a file in {folder} is damaged or was changed by hand ({why}); {REPEAT}") from error
