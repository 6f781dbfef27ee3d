"""What `inspect` prints: the picture in half blocks, the prompt, and bars under the tokens that a position reads.

Colour only helps: bars begin with the letter or number of their spot, so that pipes and NO_COLOR lose nothing.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.cells import cell_len, set_cell_size
from rich.color import Color
from rich.console import Console, Group
from rich.padding import Padding
from rich.rule import Rule
from rich.style import Style
from rich.table import Table
from rich.text import Text

from mllm_probe.data.pictures import open_rgb
from mllm_probe.report.html.prompt_tokens import HINT, PLAIN, Inspection, Piece, Spot, colours, facts, lanes, visible
from mllm_probe.report.terminal.printing import screen

COLUMNS, LINES = 24, 12  # at most, of a picture; a line holds two pixels
INDENT = 2


def print_inspections(shown: Sequence[Inspection], console: Console | None = None) -> None:
    console = console or screen()
    colour = console.is_terminal and not console.no_color and console.color_system in ("256", "truecolor")
    for number, one in enumerate(shown, 1):
        console.print(Rule(f"[bold]{number} of {len(shown)}[/]", align="left", style="dim"))
        console.print(_top(one, colour))
        if one.warning:
            console.print(Text(f"warning: {visible(one.warning, PLAIN)}", style="bold red"))
        console.print()
        for line in token_lines(one, console.width - INDENT):
            console.print(Padding(line, (0, 0, 0, INDENT)), no_wrap=True, crop=False)
        console.print(_legend(one))
        console.print()


def _top(one: Inspection, colour: bool) -> Table:
    """Facts, beside the picture where there is colour."""
    table = Table.grid(padding=(0, 1))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts(one):
        table.add_row(name, Text(value))
    if not colour or not one.pictures:
        return table
    both = Table.grid(padding=(0, 2))
    both.add_row(Group(*(thumbnail(Path(picture.path)) for picture in one.pictures)), table)
    return both


def thumbnail(path: Path) -> Text:
    """A picture in half blocks, two pixels a character."""
    image = open_rgb(path)
    image.thumbnail((COLUMNS, 2 * LINES), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    found = Text(no_wrap=True)
    for upper, lower in zip(pixels[::2], [*pixels[1::2], pixels[-1]], strict=False):
        for above, below in zip(upper, lower, strict=True):
            found.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        found.append("\n")
    return found


def token_lines(one: Inspection, width: int) -> Iterator[Text]:
    """The tokens, broken into lines of at most `width` cells, each with its bars below."""
    rows, style = lanes(one.spots), colours(one.spots)
    line: list[tuple[Piece, str]] = []
    used = 0
    for piece in one.pieces:
        cells = _cells(piece, width)
        if line and used + cell_len(cells) > width:
            yield from _line(line, rows, style)
            line, used = [], 0
        line.append((piece, cells))
        used += cell_len(cells) + 1
    yield from _line(line, rows, style)


def _cells(piece: Piece, width: int) -> str:
    """What stands for a token: at least as wide as the signs below it."""
    text = visible(piece.text) or "∅"
    text += f"×{piece.count}" if piece.count > 1 else ""
    least = max((len(sign) for sign in piece.signs), default=1)
    return set_cell_size(text, max(least, min(cell_len(text), width)))


def _line(
    line: Sequence[tuple[Piece, str]], rows: Sequence[Sequence[Spot]], style: dict[str, tuple[str, str]]
) -> Iterator[Text]:
    top = Text()
    for piece, cells in line:
        top.append(cells, "bold" if piece.signs else "italic dim" if piece.special else "dim")
        top.append(" ")
    yield top
    for lane in rows:
        bar = _bar(line, {spot.sign for spot in lane}, style)
        if bar.plain.strip():
            yield bar


def _bar(line: Sequence[tuple[Piece, str]], lane: set[str], style: dict[str, tuple[str, str]]) -> Text:
    """A sign where a stored row, or the line, begins; the rest of the row goes on from there."""
    bar, before = Text(), ""
    for piece, cells in line:
        sign = next((sign for sign in piece.signs if sign in lane), "")
        goes_on = sign != "" and sign == before and sign not in piece.starts
        if before:
            bar.append("─" if goes_on else " ", _on(style[before]) if goes_on else "")
        elif bar.plain:
            bar.append(" ")
        begun = "" if goes_on else sign
        bar.append(begun.ljust(cell_len(cells), "─" if sign else " "), _on(style[sign]) if sign else "")
        before = sign
    return bar


def _on(colours: tuple[str, str]) -> str:
    ink, colour = colours
    return f"bold {ink} on {colour}"


def _legend(one: Inspection) -> Table:
    style = colours(one.spots)
    table = Table.grid(padding=(0, 1))
    table.add_column(width=INDENT)
    table.add_column(justify="center")
    for _ in range(2):
        table.add_column(overflow="fold")
    for spot in one.spots:
        table.add_row(
            "", Text(f" {spot.sign} ", _on(style[spot.sign])), Text(visible(spot.title, PLAIN)), Text(spot.said)
        )
    table.add_row("", "", f"{one.tokens} tokens", Text(HINT, style="dim"))
    return table
