"""The table and the figure show the CSV's numbers, and nothing else."""

import io
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from mllm_probe.errors import DataError
from mllm_probe.records.score import Score
from mllm_probe.report.terminal.progress import RichReporter
from mllm_probe.report.terminal.run import print_table
from mllm_probe.results.score_file import COLUMNS, ScoreFile, load_scores, load_tests
from mllm_probe.results.selection import headline
from tests.support.score_tables import COMMON, draw_layers

ROWS = [
    ("vision.01", "vision", 1, "mean_image", 0.5),
    ("lm.00", "lm", 0, "last", 0.5),
    ("lm.01", "lm", 1, "last", 0.873),
]


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    file = ScoreFile(tmp_path / "scores.csv")
    for site, tower, layer, position, value in ROWS:
        row = {"site": site, "tower": tower, "layer": layer, "depth": 1.0, "position": position}
        bounds = {"value": value, "low": value - 0.05, "high": value + 0.05}
        file.add([Score(**COMMON, **row, **bounds, seed=seed) for seed in ("0", "all")])  # type: ignore[arg-type]
    nothing = {"site": "", "tower": "", "layer": None, "depth": None, "position": "", "value": 0.5, "seed": "all"}
    file.add([Score(**{**COMMON, **nothing, "probe": "majority", "low": 0.5, "high": 0.5})])  # type: ignore[arg-type]
    return load_scores(tmp_path / "scores.csv")


def test_the_csv_round_trips(table: pd.DataFrame) -> None:
    assert tuple(table.columns) == COLUMNS and len(table) == 7
    assert table.train_template.iloc[0] == "t, with a comma" and table.site.iloc[-1] == ""
    assert headline(table).value.tolist() == [0.5, 0.5, 0.873, 0.5]


def test_the_table_shows_the_values(table: pd.DataFrame, tmp_path: Path) -> None:
    written = io.StringIO()
    tests = load_tests(tmp_path / "none")
    chosen = {"site": "lm.01", "value": 0.873, "low": 0.823, "high": 0.923}
    print_table(table, {"chosen": {"last": chosen}}, tests, Console(file=written, width=120))
    text = written.getvalue()
    assert "87.3 [82.3, 92.3]" in text and "majority" in text and "40 test decisions on 10 pictures" in text
    assert "lm.01 at last, chosen on validation, reads entailment with accuracy 87.3 % [82.3, 92.3]" in text


def test_the_figure_draws_the_values(table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **rest: (drawn.append(self), save(self, *args, **rest))[1]
    )
    paths = [tmp_path / "layers.png", tmp_path / "layers.pdf"]
    draw_layers(table, paths)
    lines = {
        (panel.get_title(), line.get_label()): list(line.get_ydata()) for panel in drawn[0].axes for line in panel.lines
    }
    assert lines["language model", "last"] == [0.5, 0.873]
    assert lines["vision tower", "mean_image"] == [0.5]
    floors = {line.get_gid(): list(line.get_ydata()) for panel in drawn[0].axes for line in panel.lines}
    assert floors["majority"] == [0.5, 0.5]
    with Image.open(paths[0]) as image:
        assert image.width > 400 and len(image.convert("RGB").getcolors(2**24)) > 20
    assert paths[1].read_bytes().startswith(b"%PDF")
    first = [path.read_bytes() for path in paths]
    draw_layers(table, paths)
    assert [path.read_bytes() for path in paths] == first


def test_a_foreign_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="it lacks the column cache, or is from another release"):
        load_scores(tmp_path / "scores.csv")


def test_progress_without_a_terminal_is_plain_lines() -> None:
    written = io.StringIO()
    with RichReporter(Console(file=written, width=100)) as reporter:
        reporter.note("[model] loading")
        for done in range(1, 101):
            reporter.progress("extract", done, 100, "samples")
    assert written.getvalue().splitlines()[0] == "[model] loading"
    assert written.getvalue().splitlines()[1].startswith("extract: 100/100 samples, ")


def test_progress_on_a_terminal_shows_rate_and_time_left() -> None:
    written = io.StringIO()
    with RichReporter(Console(file=written, width=100, force_terminal=True)) as reporter:
        for done in range(1, 51):
            reporter.progress("extract", done, 100, "samples")
    assert "50/100" in written.getvalue() and "samples" in written.getvalue() and "/s, left" in written.getvalue()
