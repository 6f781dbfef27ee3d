"""Tables and figures for a paper: the numbers of the CSV, nothing that LaTeX trips over, a column wide."""

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from mllm_probe.config.report import ReportSettings
from mllm_probe.report.figures.style import COLOURS
from mllm_probe.report.tables.paper import latex, markdown, save_tables
from mllm_probe.results.score_file import load_scores, load_tests
from mllm_probe.results.selection import headline, real
from tests.support.score_tables import PEAKED, PLATEAU, draw_layers, draw_study, write
from tests.support.score_words import reading, table

ENTRY = {"site": "lm.05", "value": 0.93, "low": 0.91, "high": 0.95}
SUMMARY = {"chosen": {"last": ENTRY, "mean_text": ENTRY}}


@pytest.fixture
def scores(tmp_path: Path) -> pd.DataFrame:
    return load_scores(write(tmp_path / "run", "entailment", PEAKED))


@pytest.fixture
def tables(scores: pd.DataFrame, tmp_path: Path) -> Path:
    save_tables(scores, SUMMARY, load_tests(tmp_path / "none"), lambda kind: tmp_path / f"table.{kind}")
    return tmp_path


def cells(line: str, between: str) -> list[str]:
    return [cell.strip() for cell in re.split(between, line)]


def check(rows: list[list[str]], scores: pd.DataFrame) -> None:
    """Rows of plain cells against the CSV: every site and floor, each number with its interval, the chosen bold."""
    sites, read = real(headline(scores)), rows[0][1:]
    assert read == ["last", "mean_text", "mean_image"]
    found = {(row[0], position): text for row in rows[1:] for position, text in zip(read, row[1:], strict=True) if text}
    wanted = {
        (r.site, r.position): f"{100 * r.value:.1f} [{100 * r.low:.1f}, {100 * r.high:.1f}]" for r in sites.itertuples()
    }
    assert {key: text.strip("*") for key, text in found.items() if key in wanted} == wanted
    assert {key for key, text in found.items() if text.startswith("**")} == {("lm.05", "last"), ("lm.05", "mean_text")}
    floors = {key[0] for key in found if key not in wanted}
    assert floors == {"majority", "question only", "zero shot", "copy ceiling", "vision only"}


def test_markdown_has_the_numbers(tables: Path, scores: pd.DataFrame) -> None:
    lines = (tables / "table.md").read_text().splitlines()
    lines = [*lines[:2], *(line for line in lines if line.startswith("|"))]
    assert lines[0].startswith("mini (nf4), entailment on scenes: accuracy in % [95 % interval")
    assert lines[3] == "|---|---:|---:|---:|" and len({line.count("|") for line in lines[2:]}) == 1
    rows = [cells(line.strip("|"), r"(?<!\\)\|") for line in (lines[2], *lines[4:])]
    check([[cell.replace("\\_", "_") for cell in row] for row in rows], scores)


def test_latex_has_the_numbers(tables: Path, scores: pd.DataFrame) -> None:
    text = (tables / "table.tex").read_text()
    assert "\\begin{tabular}{lrrr}\n\\toprule\n" in text and text.endswith("\\bottomrule\n\\end{tabular}\n")
    assert text.count("\\midrule") == 2 and text.count("{") == text.count("}")
    lines = [line for line in text.splitlines() if line.endswith("\\\\")]
    rows = [cells(line.removesuffix("\\\\"), r"(?<!\\)&") for line in lines]
    assert {len(row) for row in rows} == {4}
    check([[re.sub(r"\\textbf\{(.*)\}", r"**\1**", c).replace("\\_", "_") for c in row] for row in rows], scores)


def test_signs_of_latex_and_markdown_are_words() -> None:
    assert latex(r"a_b & 50 % of #1 ~ \x {^}") == (
        r"a\_b \& 50 \% of \#1 \textasciitilde{} \textbackslash{}x \{\textasciicircum{}\}"
    )
    assert markdown("a|b *c* <b>_") == r"a\|b \*c\* \<b\>\_"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tables: Path) -> None:
    document = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table.tex}\end{document}"
    (tables / "paper.tex").write_text(document)
    subprocess.run(["pdflatex", "-halt-on-error", "paper.tex"], cwd=tables, check=True, capture_output=True)


def test_figures_on_paper_are_a_column_wide(tmp_path: Path, scores: pd.DataFrame, drawn: list[Figure]) -> None:
    local = load_scores(write(tmp_path / "local", "objects", PLATEAU))
    draw_layers(scores, [tmp_path / "layers.pdf"], ReportSettings(style="paper"))
    best = [reading(one, table({"lm.03": 0.4, "lm.08": 1.0})) for one in (scores, local)]
    draw_study(scores, local, best, [tmp_path / "study.pdf"], ReportSettings(style="paper"))
    for figure, name in zip(drawn, ("layers", "study"), strict=True):
        box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", (tmp_path / f"{name}.pdf").read_bytes())
        assert box is not None and float(box[1]) == pytest.approx(3.3 * 72)
        texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert {text.get_fontsize() for text in texts} <= {7.0, 8.0}
        assert not any("nf4" in text.get_text() for text in texts)
        said = [
            text for panel in figure.axes for text in (panel.title, panel.xaxis.label, panel.yaxis.label, *panel.texts)
        ]
        said += [text for legend in figure.legends for text in legend.get_texts()]
        inside = figure.bbox.padded(1.0)
        out = [t.get_text() for t in said if t.get_text() and not inside.containsx(t.get_window_extent().x1)]
        assert len(said) > 9 and not out
    lines = {line.get_label(): line for panel in drawn[0].axes for line in panel.lines}
    assert list(lines["last"].get_ydata()) == PEAKED and lines["last"].get_color() == COLOURS[0]
    assert {"majority of training", "question only", "zero shot"} <= set(lines)
