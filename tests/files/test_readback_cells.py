"""Names that users give are shown and stored as they are, whatever Rich, a browser or a spreadsheet makes of them."""

import csv
import json
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from mllm_probe.files.readback import FORMULAS, bare, cell, load_rows, save_rows
from mllm_probe.report.html.skeleton import without_codes
from mllm_probe.report.terminal.law import SHOWN, print_laws
from mllm_probe.report.terminal.layers.geometry import print_relations
from mllm_probe.report.terminal.printing import escaped, screen
from mllm_probe.report.terminal.vision import print_vision
from mllm_probe.results.geometry import Relation
from mllm_probe.results.score_file import load_scores
from mllm_probe.results.vision import GroupRow, LawRow, VisionScore
from mllm_probe.vision.law import RANDOM
from tests.support.runs import QUICK, Run, tiny

NAMES = ("A[/bold]", "[red]A", "A :car:", "=1+1", "nan", "é 模")


def test_a_run_ends_whatever_it_is_called(probe: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    less = ("layers.stride=4", "controls=none", "hydra.run.dir=run")
    for name in (NAMES[0], NAMES[3]):
        monkeypatch.setattr("mllm_probe.data.scenes.Scenes.name", name)
        code, out, err = probe("run", *tiny(checkpoint), *QUICK, *less, f"model.name='{name}'")
        assert code == 0 and f"{name} (nf4)" in out and f"on {name}: " in out, err
        table = load_scores(Path("run/scores.csv"))
        assert set(table.model) == set(table.dataset) == {name} and Path("run/report.html").is_file()
        with Path("run/scores.csv").open(newline="") as handle:
            assert not [row for row in csv.reader(handle) if any(value.startswith(("=", "@")) for value in row)]
        assert json.loads(Path("run/summary.json").read_text())["model"] == name


@pytest.mark.parametrize("name", NAMES)
def test_texts_of_tables_are_read_as_they_were(tmp_path: Path, name: str) -> None:
    rows = [filled(VisionScore, name)]
    save_rows(tmp_path / "vision.csv", VisionScore, rows)
    assert load_rows(tmp_path / "vision.csv", VisionScore).representation.tolist() == [name]
    assert escaped(pd.DataFrame({"a": [name], "n": [1]})).n.tolist() == [1]


def filled(kind: type, name: str, **values: object) -> object:
    """A record whose texts are `name` and whose numbers are 1."""
    made = {f.name: name if f.type is str else 1 if f.type in (int, bool) else 1.0 for f in fields(kind)}
    return kind(**made | values)


def test_cells_are_no_formulas() -> None:
    for text in [*FORMULAS, "=1+1", "@SUM(A1)", "-x", "\t=1"]:
        assert str(cell(text)).startswith("'") and bare(str(cell(text))) == text
    for value in ("name", "'quoted'", "", 1, -1.5, True):
        assert cell(value) == value and (not isinstance(value, str) or bare(value) == value)
    assert cell(None) == cell(float("nan")) == ""


def shown(printer, *tables: object) -> str:
    console = screen()
    console.width = 240
    with console.capture() as said:
        printer(*tables, console)
    return said.get()


@pytest.mark.parametrize("name", NAMES[:3])
def test_tables_show_names_as_they_are(name: str, tmp_path: Path) -> None:
    def read(kind: type, **values: object) -> pd.DataFrame:
        save_rows(tmp_path / "rows.csv", kind, [filled(kind, name, **values)])
        return load_rows(tmp_path / "rows.csv", kind)

    assert name in shown(print_vision, read(VisionScore, measure="c_pck", subset="", over="image"))

    relation = {f.name: name if f.type is str else 1.0 for f in fields(Relation)}
    pair = pd.DataFrame([relation | {"site_a": a, "site_b": b, "n": 3} for a in ("x", "y") for b in ("x", "y")])
    assert f"{name}: layers against" in shown(print_relations, pair)
    assert f"{name}: layers alone" in shown(print_relations, pair.assign(site_b="").drop_duplicates("site_a"))
    first = pd.DataFrame([filled(LawRow, name, model=model) for model in (*SHOWN, RANDOM)])
    group = pd.DataFrame([filled(GroupRow, name, model=model) for model in (*SHOWN, RANDOM)])
    assert shown(print_laws, first, group).count(name) > 3


def test_a_page_holds_no_codes(tmp_path: Path) -> None:
    assert without_codes("a\x1b[31mb\x07\x9b\tc\nd é") == "a\\x1b[31mb\\x07\\x9b\tc\nd é"


def test_no_console_of_ours_draws_emoji() -> None:
    with (console := screen()).capture() as said:
        console.print("a :car:")
    assert ":car:" in said.get() and isinstance(console, Console)
