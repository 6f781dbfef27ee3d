"""What a folder of interventions is shown as: figures, table, sentences and page, every number one of effects.csv."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from mllm_probe.commands.report import report
from mllm_probe.config.report import ReportSettings
from mllm_probe.config.run import ReportConfig
from mllm_probe.errors import ConfigError
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.interventions import Condition
from mllm_probe.report.tables.effects import band, headed, lines, metrics
from mllm_probe.report.terminal.layers.effects import effect_views, print_effects
from mllm_probe.report.terminal.progress import RichReporter
from mllm_probe.results.effects import ABOVE, Sweep, load_effects
from mllm_probe.results.score_file import load_summary
from mllm_probe.results.selection import outline
from mllm_probe.scoring.effect_results import save_results
from mllm_probe.scoring.effects import Scored
from tests.support.probe_runs import probe_run
from tests.support.score_tables import PEAKED
from tests.support.score_tables import drawn as drawn
from tests.support.sweeps import NAMED, nothing, patched, replace, steered, sweep_of, windows


def used(one: Condition) -> float:
    return 2.0 * ((one.what, one.layer, one.control) == ("statement->last", 5, ""))


def folder(root: Path, sweep: Sweep, probe: Path | None = None) -> RunPaths:
    root.mkdir()
    paths = RunPaths(root)
    save_results(paths, Scored(sweep, NAMED, permutations=999), probe, {})
    return paths


def shown(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> str:
    with RichReporter() as reporter:
        report(ReportConfig(run=str(paths.root)), reporter)
    said = capsys.readouterr()
    return " ".join((said.out + said.err).split())


def test_a_knockout_is_shown_beside_what_a_probe_reads(
    tmp_path: Path, drawn: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    run = probe_run(tmp_path / "probe", [4, 5])
    paths = folder(tmp_path / "a", sweep_of(windows(), used), run.root)
    text = shown(paths, capsys)
    assert "H4, global meaning is read in the middle layers and used there: read best at lm.04, lm.05" in text
    assert "no window takes more from the right answer than as many random edges" in text and "report.html" in text
    table = load_effects(paths.effects)
    margin = table[(table.metric == "margin") & (table.control == "") & (table.what == "statement->last")]
    still = {line.get_label(): list(line.get_ydata()) for line in drawn[0].axes[0].lines}  # type: ignore[arg-type]
    assert still["statement->last"] == pytest.approx(margin.value.tolist())
    above, below = drawn[2].axes
    curve = next(line for line in above.lines if line.get_label() == "probe at last")
    assert list(curve.get_ydata()) == PEAKED  # type: ignore[arg-type]
    effect = next(line for line in below.lines if line.get_label() == "statement->last")
    assert list(effect.get_xdata()) == pytest.approx(margin.depth.tolist())  # type: ignore[arg-type]
    bars = [line for line in below.lines if line.get_gid() == "may be the largest"]
    assert [list(bar.get_xdata()) for bar in bars] == [[0.625, 0.625]]  # type: ignore[arg-type]
    for name in ("effects.png", "effects.pdf", "read_and_used.png", "read_and_used.pdf"):
        assert (paths.root / name).stat().st_size > 1000
    page = paths.page.read_text()
    assert "Read and used" in page and "statement-&gt;last: cutting it in blocks 4 to 6, the window of lm.05" in page


def test_the_charts_of_the_page_have_the_same_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("plotly")
    run = probe_run(tmp_path / "probe", [4, 5])
    paths = folder(tmp_path / "a", sweep_of(windows(), used), run.root)
    shown(paths, capsys)
    page = paths.page.read_text()
    blocks = [
        part.split("</script>")[0].split(">", 1)[1] for part in page.split("<script")[1:] if '"hovertemplate"' in part
    ]
    charts = [chart for block in blocks for chart in json.loads(block)]
    by_name = {chart["name"]: chart for chart in charts}
    assert list(by_name) == ["read and used", "margin", "p change", "flips"]
    table = load_effects(paths.effects)
    rows = table[(table.metric == "margin") & (table.control == "") & (table.what == "statement->last")]
    live = next(
        one
        for one in by_name["margin"]["data"]
        if "statement" in str(one.get("name")) and one["y"][0] == rows.value.iloc[0]
    )
    assert live["y"] == rows.value.tolist() and live["x"][0] == "lm.01"
    joined = by_name["read and used"]
    moved = next(one for one in joined["data"] if one["y"] == rows.value.tolist())
    assert moved["x"] == rows.depth.tolist() and moved["yaxis"] == "y2" and joined["layout"]["yaxis2"]["domain"][0] == 0


def test_a_probe_run_that_is_gone_is_told_and_one_that_moved_along_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old").mkdir()
    run = probe_run(tmp_path / "old" / "probe", [5])
    paths = folder(tmp_path / "old" / "a", sweep_of(windows(), used), run.root)
    shutil.move(tmp_path / "old", tmp_path / "new")
    moved = RunPaths(tmp_path / "new" / "a")
    assert "is not there any more" not in shown(moved, capsys) and moved.read_and_used("png").is_file()
    shutil.rmtree(tmp_path / "new" / "probe")
    assert "no figure of read and used" in shown(moved, capsys)
    assert not (tmp_path / "old").exists() and paths.root != moved.root


def test_lines_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    table = load_effects(folder(tmp_path / "a", patched(nothing)).effects)
    assert [line.label for line in lines(table, "restored")] == [
        f"{a}, {b}" for a in ("image", "last") for b in ("denoise", "noise")
    ]
    assert metrics(table) == ["restored", "flips"] and band(table, "restored").empty
    base = steered(nothing)
    strong = [replace(one, strength=a) for one in base.every if not one.control for a in (-1.0, 2.0)]
    table = load_effects(folder(tmp_path / "b", replace(sweep_of(strong), slopes=base.slopes)).effects)
    assert metrics(table)[0] == "slope" and {line.label for line in lines(table, "d")} == {"class_mean", "pattern"}
    assert all((line.rows.strength == 2.0).all() for line in lines(table, "d"))
    assert headed(table, "d") == "change of the answer's log-odds in nats, strength 2"
    assert headed(table, "slope") == "slope in nats a unit"


def test_a_star_stands_where_p_is_small(tmp_path: Path) -> None:
    paths = folder(tmp_path / "a", sweep_of(windows(), used))
    written = io.StringIO()
    table = load_effects(paths.effects)
    print_effects(table, load_summary(paths.summary), Console(file=written, width=200))
    starred = [line for line in written.getvalue().splitlines() if line.rstrip().endswith("* │")]
    assert len(starred) == 1 and starred[0].startswith("│ 4 to 6 │")
    row = table[
        (table.what == "statement->last") & (table.layer == 5) & (table.metric == "margin") & (table.control == "")
    ]
    assert f"{row.value.iloc[0]:+.3f}*" in starred[0] and row.p_max_t.iloc[0] <= 0.05


def test_a_setting_that_does_nothing_here_is_refused(tmp_path: Path) -> None:
    paths = folder(tmp_path / "a", sweep_of(windows(), used))
    with pytest.raises(ConfigError, match="report.metric does nothing here"), RichReporter() as reporter:
        report(ReportConfig(run=str(paths.root), report=ReportSettings(metric="auroc")), reporter)


def test_a_pair_is_no_picture_and_has_no_right_answers(tmp_path: Path) -> None:
    paths, written = folder(tmp_path / "a", patched(nothing)), io.StringIO()
    table, summary = load_effects(paths.effects), load_summary(paths.summary)
    print_effects(table, summary, Console(file=written, width=200))
    pairs = int(table.n_groups.max())
    assert f"{pairs} test pairs of pictures:" in written.getvalue() and "answered_rightly" not in summary


def test_bars_of_blocks_have_the_colours_of_their_lines(
    tmp_path: Path, drawn: list[Figure], capsys: pytest.CaptureFixture[str]
) -> None:
    run, sweep = probe_run(tmp_path / "probe", [4, 5]), patched(lambda one: 4.0 * (one.what == "last"))
    shown(folder(tmp_path / "a", sweep, run.root), capsys)
    below = drawn[2].axes[1]
    colours = {line.get_label(): line.get_color() for line in below.lines}
    bars = {line.get_color() for line in below.lines if line.get_gid() == "may be the largest"}
    assert bars == {colours["last, denoise"]}


def test_the_band_of_a_line_is_left_out_where_intervals_are() -> None:
    rows = pd.DataFrame({"low": [np.nan, 1, 2, np.nan, 4, np.nan], "high": [np.nan, 11, 12, np.nan, 14, np.nan]})
    assert outline(list("abcdef"), rows) == {"x": [*"bccb", None, *"ee"], "y": [11, 12, 2, 1, None, 14, 4]}


def test_what_is_cut_in_all_higher_blocks_has_a_table_of_its_own(tmp_path: Path) -> None:
    above = [Condition("knockout", ABOVE, "", layer + 1, 4, layer, layer / 4) for layer in range(4)]
    paths = folder(tmp_path / "a", sweep_of([*windows(layers=4), *above]))
    first, second = effect_views(load_effects(paths.effects), "margin")
    heads = [[str(column.header) for column in view.columns] for view in (first, second)]
    assert heads == [
        ["blocks", "image->\nstatement", "image->\nlast", "statement->\nlast"],
        ["blocks", "image->\nbehind above"],
    ]
    assert list(first.columns[0].cells) == ["1 to 2", "1 to 3", "2 to 4", "3 to 4"]
    assert list(second.columns[0].cells) == ["1 to 4", "2 to 4", "3 to 4", "4"] and all(second.columns[1].cells)
