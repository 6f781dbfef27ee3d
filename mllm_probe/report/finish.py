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

from mllm_probe.paths import replacing
from mllm_probe.report.letters import set_letters
from mllm_probe.report.style import STYLES, without_title
from mllm_probe.report_settings import DEFAULT, ReportSettings

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

    if settings.size is not None:
        figure.set_size_inches(settings.size[0], settings.size[1])
    lacking = set_letters(figure, settings.font)
    own = {"pdf.fonttype": TRUETYPE, "svg.hashsalt": "mllm-probe"}
    family = [settings.font, *mpl.rcParams["font.family"]] if settings.font else mpl.rcParams["font.family"]
    with mpl.rc_context({**own, "font.family": family}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")
        yield lacking


def undated(kind: str) -> dict[str, Any]:
    """No clock time in the file: equal scores give equal figures."""
    return {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind, {"Software": "mllm-probe"})
