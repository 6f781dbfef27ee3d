"""Which fonts draw the letters of a figure: names of models, tasks, labels and data sets may be in any script.

A text is what it says: nothing in it is mathematics. What the usual font lacks is taken from other installed ones.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from mllm_probe.config.report import installed_fonts

UNSEEN = ("Cc", "Cf", "Zs", "Zl", "Zp")  # categories of what has no shape of its own
SELECTORS = range(0xFE00, 0xFE10)  # say which shape the character before them has
MOST = 12  # characters that a sentence names


def set_letters(figure: Any, font: str | None) -> str:
    """Every text of a matplotlib figure in fonts that have its characters, `font` first where one is asked for; what
    none has, in a sentence."""
    from matplotlib import rcParams
    from matplotlib.text import Text

    texts = figure.findobj(Text)
    for text in texts:
        text.set_parse_math(False)
    families = [*([font] if font else []), *rcParams["font.family"]]
    wanted = {letter for text in texts for letter in text.get_text() if _seen(letter)}
    more, lacking = _beside(families, wanted)
    if font or more:
        for text in texts:
            text.set_fontfamily([*families, *more])
    return _said(sorted(lacking))


def _seen(letter: str) -> bool:
    return unicodedata.category(letter) not in UNSEEN and ord(letter) not in SELECTORS


def _beside(families: Sequence[str], wanted: Iterable[str]) -> tuple[list[str], set[str]]:
    """The fonts that are needed beside `families`, the one with most of the characters first, and what none has."""
    from matplotlib.font_manager import FontProperties, findfont

    have = (_letters(findfont(FontProperties(family=[family]))) for family in families)
    lacking = {ord(letter) for letter in wanted}.difference(*have)
    more: list[str] = []
    while lacking:
        files = installed_fonts()
        best = max(files, key=lambda name: len(lacking & _letters(files[name])))
        if not lacking & _letters(files[best]):
            break
        lacking -= _letters(files[best])
        more.append(best)
    return more, {chr(code) for code in lacking}


@cache
def _letters(file: str) -> frozenset[int]:
    """The characters of a font that can be scaled; those of coloured pictures, as many of emoji are, cannot."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(font.get_charmap()) if font.scalable else frozenset()


def _said(lacking: Sequence[str]) -> str:
    if not lacking:
        return ""
    named = " ".join(lacking[:MOST]) + (f" and {len(lacking) - MOST} more" if len(lacking) > MOST else "")
    return f"figures lack the characters {named}: no installed font draws them; install one, or name it in report.font"
