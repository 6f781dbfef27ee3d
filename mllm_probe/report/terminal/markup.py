"""Names that users give, among Rich's own words for styles: shown as they are, whatever they look like."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    import pandas as pd


def screen(stderr: bool = False) -> Console:
    """Where a command prints. `:car:` is a name here and no picture of a car."""
    return Console(stderr=stderr, emoji=False)


def escaped(table: "pd.DataFrame") -> "pd.DataFrame":
    """A table whose texts can stand in Rich's markup."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    texts = [name for name in table if not (is_numeric_dtype(table[name]) or is_bool_dtype(table[name]))]
    return table.assign(**{name: [escape(v) if isinstance(v, str) else v for v in table[name]] for name in texts})
