"""How a figure becomes a file or a part of a page: its size, its letters, no title on paper, no clock time.

Every figure is written here. Names may be in any script, so the fonts are those that have its letters. Knows no data.
"""

import logging
import unicodedata
import warnings
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from mllm_probe.config.report import DEFAULT, ReportSettings, installed_fonts
from mllm_probe.files.store_paths import replacing
from mllm_probe.report.figures.style import STYLES, without_title, wrapped

TRUETYPE = 42  # matplotlib's own choice, Type 3, is refused by journals
UNSEEN = ("Cc", "Cf", "Zs", "Zl", "Zp")  # categories of what has no shape of its own
SELECTORS = range(0xFE00, 0xFE10)  # say which shape the character before them has
MOST = 12  # characters that a sentence names


def save(figure: Any, paths: Sequence[Path], settings: ReportSettings = DEFAULT) -> str:
    """The figure as PNG, PDF or SVG files; a sentence on characters that no font draws, empty where all are drawn."""
    if STYLES[settings.style].paper:
        without_title(figure)
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells each table of each font it cuts down
    with _finished(figure, settings) as lacking:
        for path in paths:
            with replacing(path) as part:
                figure.savefig(part, format=path.suffix[1:], dpi=160, metadata=undated(path.suffix[1:]))
    return lacking


def svg_uri(figure: Any, settings: ReportSettings = DEFAULT) -> str:
    """A figure as the address of an SVG; the same scores give the same text."""
    written = BytesIO()
    with _finished(figure, settings):
        figure.savefig(written, format="svg", metadata=undated("svg"))
    return f"data:image/svg+xml;base64,{b64encode(written.getvalue()).decode()}"


@contextmanager
def _finished(figure: Any, settings: ReportSettings) -> Iterator[str]:
    """The figure in the size and the letters that were asked for; what its fonts lack, which is not told twice."""
    import matplotlib as mpl

    size = settings.size or figure.get_size_inches()
    figure.set_size_inches(size[0], size[1])
    more = _fit_title(figure)
    if settings.size is None:
        figure.set_figheight(figure.get_figheight() + more)  # else it would take it from the panels
    lacking = set_letters(figure, settings.font)
    own = {"pdf.fonttype": TRUETYPE, "svg.hashsalt": "mllm-probe"}
    family = [settings.font, *mpl.rcParams["font.family"]] if settings.font else mpl.rcParams["font.family"]
    with mpl.rc_context({**own, "font.family": family}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")
        yield lacking


def _fit_title(figure: Any) -> float:
    """In as many lines as it takes; the inches that the further ones need."""
    title = figure.get_suptitle()
    if not title:
        return 0.0
    size = float(figure._suptitle.get_fontsize())
    lines = wrapped(title, figure.get_figwidth() - 0.1, size)
    figure.suptitle(lines, fontsize=size)
    return (lines.count("\n") - title.count("\n")) * 1.3 * size / 72


def undated(kind: str) -> dict[str, Any]:
    """No clock time in the file: equal scores give equal figures."""
    return {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind, {"Software": "mllm-probe"})


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
