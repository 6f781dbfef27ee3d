"""Tables of rows and lines of words on the terminal, as all commands draw them.

Two looks: framed, with names at the left and numbers at the right, where texts are Rich's markup; and bare, where rows
are long and texts are shown as they are.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd

WIDE = 240  # columns, where the output goes into a file or another program and no line needs to be folded


def screen(stderr: bool = False) -> Console:
    """Where a command prints. `:car:` is a name here and no picture of a car."""
    return Console(stderr=stderr, emoji=False)


def wide_console() -> Console:
    console = Console(highlight=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, emoji=False, width=WIDE)


def framed(
    title: str, names: Iterable[str | Column], numbers: Iterable[str], fold_numbers: bool = False, **more: Any
) -> Table:
    """A name stands in one line, unless its Column says otherwise; so do numbers, unless they may be folded."""
    left = (Column(name, no_wrap=True) if isinstance(name, str) else name for name in names)
    right = (Column(name, justify="right", no_wrap=not fold_numbers) for name in numbers)
    return Table(*left, *right, title=title, **more)


def bare(title: str | None = None, caption: str | None = None) -> Table:
    """Without lines, which leaves a terminal of 80 columns readable."""
    return Table(
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
        title=title and escape(title),
        caption=caption and escape(caption),
        title_justify="left",
        caption_justify="left",
    )


def add_row(table: Table, *cells: str) -> None:
    """As text, because `[lm]` would otherwise be taken for a style; what does not fit goes on in the next line."""
    table.add_row(*(Text(cell, overflow="fold", no_wrap=False) for cell in cells))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]], title: str | None = None) -> None:
    """A bare one, at once."""
    table = bare(title)
    for name in columns:
        table.add_column(name)
    for row in rows:
        add_row(table, *row)
    wide_console().print(table)


def say(console: Console | None, *found: RenderableType) -> None:
    """Tables, and lines as they are, whose brackets are no markup."""
    console = console or screen()
    for one in found:
        if isinstance(one, str):
            console.print(one, highlight=False, markup=False)
        else:
            console.print(one)


def escaped(table: "pd.DataFrame") -> "pd.DataFrame":
    """A table whose texts can stand in Rich's markup."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    texts = [name for name in table if not (is_numeric_dtype(table[name]) or is_bool_dtype(table[name]))]
    return table.assign(**{name: [escape(v) if isinstance(v, str) else v for v in table[name]] for name in texts})
