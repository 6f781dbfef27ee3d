"""Names in any script, and with any sign, in figures: drawn as they are, or said not to be."""

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

from mllm_probe.config.report import ReportSettings
from mllm_probe.errors import ConfigError
from mllm_probe.report.figures.saving import save, svg_uri
from mllm_probe.results.score_file import load_scores
from tests.support.runs import Run
from tests.support.score_tables import PEAKED, draw_layers, write

HAN = "\u4f60\u597d"
COST = "cost $5 to $7"


@pytest.fixture
def han(tmp_path: Path) -> Iterator[str]:
    """The family of an installed font that has two Chinese characters, each a box."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = [".notdef", *(f"uni{ord(letter):04X}" for letter in HAN)]
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder(names)
    font.setupCharacterMap({ord(letter): name for letter, name in zip(HAN, names[1:], strict=True)})
    font.setupGlyf(dict.fromkeys(names, pen.glyph()))
    font.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    font.setupHorizontalHeader(ascent=900, descent=-100)
    font.setupNameTable({"familyName": "Two Han", "styleName": "Regular", "psName": "TwoHan-Regular"})
    font.setupOS2(sTypoAscender=900)
    font.setupPost()
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    font.save(tmp_path / "han.ttf")
    fontManager.addfont(tmp_path / "han.ttf")
    yield "Two Han"
    fontManager.ttflist = [one for one in fontManager.ttflist if one.name != "Two Han"]


def titled(*names: str) -> Figure:
    figure = Figure(figsize=(4, 3))
    panel = figure.subplots()
    for name in names:
        panel.plot([1, 2], [1, 2], label=name)
    panel.legend()
    figure.suptitle(" ".join(names))
    return figure


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    """A warning of matplotlib's is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_name_is_no_mathematics(tmp_path: Path) -> None:
    """As the same name with its signs escaped, which matplotlib draws as they are; in a PDF no slanted letter."""
    figure = titled("a $x$ b")
    assert not save(figure, [tmp_path / f"a.{kind}" for kind in ("png", "pdf", "svg")])
    titled("a \\$x\\$ b").savefig(tmp_path / "b.png", dpi=160, metadata={"Software": "mllm-probe"})
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"Oblique" not in (tmp_path / "a.pdf").read_bytes() + (tmp_path / "a.svg").read_bytes()


def test_the_figure_of_a_run_has_the_names_as_they_are(tmp_path: Path, drawn: list[Figure]) -> None:
    scores = load_scores(write(tmp_path / "run", COST, PEAKED)).assign(model=COST, dataset="^{_ $\\frac$")
    assert not draw_layers(scores, [tmp_path / "layers.png", tmp_path / "layers.pdf"])
    title = drawn[0].get_suptitle()
    assert COST in title and not any(text.get_parse_math() for text in drawn[0].findobj(Text))


def test_characters_are_taken_from_the_fonts_that_have_them(tmp_path: Path, han: str) -> None:
    figure = titled(f"mini {HAN}", "\u043c\u0438\u0440")
    for kind in ("png", "pdf", "svg"):
        assert not save(figure, [tmp_path / f"a.{kind}"])
    assert svg_uri(figure)
    assert {tuple(text.get_fontfamily()) for text in figure.findobj(Text)} == {("sans-serif", han)}
    assert b"TwoHan" in (tmp_path / "a.pdf").read_bytes().replace(b" ", b"")


def test_nothing_changes_where_the_usual_font_has_all(tmp_path: Path) -> None:
    figure = titled("mini", "\u00e9\u00df \u043c\u0438\u0440")
    assert not save(figure, [tmp_path / "a.png"])
    assert {tuple(text.get_fontfamily()) for text in figure.findobj(Text)} == {("sans-serif",)}


def test_what_no_font_draws_is_said_in_one_line(probe: Run, folder: Path) -> None:
    table = (folder / "scores.csv").read_text()
    (folder / "scores.csv").write_text(table.replace(",mini,", f",{HAN}\u200d,"))
    code, out, err = probe("report", str(folder))
    said = [line for line in (out + err).splitlines() if "characters" in line]
    assert code == 0 and "Glyph" not in out + err
    why = "no installed font draws them; install one, or name it in report.font"
    assert said == [f"figures lack the characters {' '.join(sorted(HAN))}: {why}"]


def test_a_font_that_is_asked_for_is_taken_or_refused(probe: Run, folder: Path, drawn: list[Figure]) -> None:
    code, _, err = probe("report", str(folder), "report.font=DejaVu Serif")
    assert code == 0, err
    assert {tuple(text.get_fontfamily()) for text in drawn[0].findobj(Text)} == {("DejaVu Serif", "sans-serif")}
    assert b"DejaVuSerif" in (folder / "layers.pdf").read_bytes()
    code, _, err = probe("report", str(folder), "report.font=DejaVu Serf")
    assert code == 1 and err.startswith("mllm-probe: report.font=DejaVu Serf is not installed; did you mean 'DejaVu Se")
    assert len(err.splitlines()) == 1
    with pytest.raises(ConfigError):
        ReportSettings(font="").check()


def test_the_size_is_that_of_figures_in_pages_too() -> None:
    import base64

    written = base64.b64decode(svg_uri(titled("a"), ReportSettings(size=[3.0, 2.0])).partition(",")[2])
    assert b'width="216pt" height="144pt"' in written
