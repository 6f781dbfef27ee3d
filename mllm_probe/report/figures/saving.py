"""How a figure becomes a file or a part of a page: its size, its letters, no title on paper, no clock time.

Every figure is written here. Knows no data.
"""

import logging
import warnings
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.files.paths import replacing
from mllm_probe.report.figures.letters import set_letters
from mllm_probe.report.figures.style import STYLES, without_title, wrapped

TRUETYPE = 42  # matplotlib's own choice, Type 3, is refused by journals


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
