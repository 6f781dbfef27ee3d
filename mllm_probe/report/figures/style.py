"""How large figures and their letters are: for a screen, or on paper for a column. Knows no data.

On paper no figure has a title, since a caption says it; layers and studies are 3.3 inches wide in letters of 8 points.
"""

from dataclasses import dataclass
from textwrap import fill
from typing import Any

from mllm_probe.config.report import PAPER, SCREEN

LETTER = 0.0078  # inches of a letter for each point, by the wider half of names
COLUMN, PAGE = 3.3, 7.0  # inches: a paper's column, and its page of two columns


@dataclass(frozen=True)
class Style:
    """Points of `title`, `text` (what stands along the axes), `small` (ticks, legend); `entry` inches of the legend;
    `margins` inches beside the panels, of which none is narrower than the share `least`; `norm` what n is called."""

    title: float
    text: float
    small: float
    entry: float
    margins: float
    least: float
    norm: str
    paper: bool


STYLES = {
    SCREEN: Style(11, 10, 8, 1.85, 2.4, 0.09, "after the final norm", paper=False),
    PAPER: Style(8, 8, 7, 1.5, 0.7, 0.26, "norm", paper=True),
}


def wrapped(text: str, inches: float, size: float) -> str:
    """In lines that fit a width in letters of `size` points."""
    return fill(text, max(12, int(inches / (LETTER * size))))


def without_title(figure: Any) -> None:
    """What is not there takes no room."""
    figure.suptitle("").set_in_layout(False)
