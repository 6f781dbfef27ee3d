"""What `report` may be told: the measure, the positions and the towers that are shown, and how large figures are."""

import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from mllm_probe.config.report import METRICS, ReportSettings
from mllm_probe.config.sweep import METRICS as SELECTS
from mllm_probe.errors import ConfigError
from mllm_probe.files.paths import RunPaths
from mllm_probe.report.figures.study import study_figure
from mllm_probe.report.html.run_view import Result
from mllm_probe.results.score_file import load_scores
from mllm_probe.results.selection import check_selection, selected
from mllm_probe.stats import measures
from tests.support.runs import QUICK, Run, tiny
from tests.support.score_tables import PEAKED, PLATEAU, lines, write


def test_every_measure_may_be_shown() -> None:
    assert set(METRICS) == {"auto", *(name for names in measures.METRICS.values() for name in names)}
    assert {*SELECTS} <= {*METRICS}


def test_the_page_figures_tables_and_curves_follow(
    probe: Run, folder: Path, drawn: list[Figure], tmp_path: Path
) -> None:
    wanted = ("report.metric=auroc", "report.positions=[last]", "report.towers=[lm]", "report.size=[5,3]")
    code, out, err = probe("report", str(folder), *wanted)
    assert code == 0, err
    (panel,) = drawn[0].axes
    assert lines(drawn[0])["last"] == pytest.approx([0.5 + 0.05 * i for i in range(9)])
    assert panel.get_title() == "language model" and panel.get_ylabel().startswith("AUROC")
    with Image.open(folder / "layers.png") as image:
        assert image.size == (800, 480)
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", (folder / "layers.pdf").read_bytes())
    assert box is not None and [float(side) for side in box.groups()] == [360, 216]
    assert "AUROC" in out and "0.900" in out and "vision.00" not in out and "mean_text" not in out
    assert re.search(r"lm, last +\S+ +0.500 to 0.900", out)
    assert "reads entailment with accuracy 93.0 %" in out, "what validation chose keeps its measure"
    table = (folder / "table.md").read_text()
    assert "AUROC" in table and "0.900" in table and "mean\\_image" not in table
    page = (folder / "report.html").read_text()
    assert "The same as numbers (AUROC" in page and '<th scope="col">mean_image</th>' not in page
    assert "accuracy\u00a093.0" in page or "accuracy 93.0" in page.replace("\u00a0", " ")
    names = {chart["name"] for chart in Result(RunPaths(folder), ReportSettings(positions=["last"])).charts}
    assert names == {"all positions", "last", "map"}


def test_what_is_not_asked_for_is_as_it_was(folder: Path) -> None:
    scores = load_scores(folder / "scores.csv")
    assert selected(scores, ReportSettings()) is scores


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "report.metric=auc",
            "report.metric=auc is unknown; did you mean 'auroc'? choose one of: accuracy, auroc, aut",
        ),
        ("report.metric=r2", "report.metric=r2 was not measured in this run; choose one of: accuracy, auroc"),
        ("report.positions=[lst]", "report.positions names 'lst', which this run did not read; did you mean 'last'? "),
        ("report.towers=[qformer]", "report.towers names 'qformer', which this run did not read; choose one of: lm, "),
        ("'report.towers=[vision]' 'report.positions=[last]'", "leave no layer of entailment"),
        ("report.towers=[llm]", "report.towers names the unknown tower 'llm'; did you mean 'lm'? choose one of: conn"),
        ("report.size=[7]", "report.size=[7.0] must be width and height in inches, each from 1 to 40"),
        ("report.size=[7,400]", "report.size=[7.0, 400.0] must be width and height in inches"),
        ("report.positions=[]", "report.positions=[] "),
    ],
)
def test_wrong_values_are_one_sentence_and_nothing_is_written(
    probe: Run, folder: Path, setting: str, message: str
) -> None:
    words = [word.strip("'") for word in setting.split(" ")]
    code, out, err = probe("report", str(folder), *words)
    assert code == 1 and err.startswith("mllm-probe: ") and message in err and len(err.splitlines()) == 1 and not out
    assert {path.name for path in folder.iterdir()} == {"scores.csv", "summary.json"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "report.metric=r2",
            "report.metric=r2 is not measured in this run, whose target is of kind binary; choose one",
        ),
        ("report.positions=[mean_all]", "report.positions names 'mean_all', which this run does not read; did you"),
        ("report.towers=[qformer]", "report.towers names 'qformer', which this run does not read; choose one of: conn"),
    ],
)
def test_a_run_refuses_them_before_it_reads_anything(
    probe: Run, checkpoint: Path, tmp_path: Path, setting: str, message: str
) -> None:
    code, _, err = probe("run", *tiny(checkpoint), *QUICK, setting)
    assert code == 1 and message in err and len(err.splitlines()) == 1
    assert not list(tmp_path.rglob("manifest.json")) and not list(tmp_path.rglob("scores.csv"))


@pytest.mark.parametrize(
    ("command", "setting"),
    [("geometry", "report.metric=auroc"), ("fidelity", "report.towers=[lm]"), ("align", "report.pictures=none")],
)
def test_results_that_do_not_follow_a_setting_refuse_it(
    probe: Run, checkpoint: Path, tmp_path: Path, command: str, setting: str
) -> None:
    code, _, err = probe(command, *tiny(checkpoint), *QUICK, setting)
    said = f"mllm-probe: {setting.partition('=')[0]} does nothing here; it is for the results of `mllm-probe run`\n"
    assert (code, err) == (1, said) and not list(tmp_path.rglob("manifest.json"))


def test_figures_of_vision_commands_follow_size_style_and_font(probe: Run, tmp_path: Path, drawn: list[Figure]) -> None:
    """Their folders are drawn again by `report`; what has no figure refuses even these."""
    assert probe("vision", "fit", "fit.benchmarks=[mmbench]", "hydra.run.dir=fit")[0] == 0
    assert probe("vision", "policy", "fit.benchmarks=[mmbench]", "policy.trials=10", "hydra.run.dir=policy")[0] == 0
    for name in ("fit", "policy"):
        told = probe("report", name, "report.style=paper", "report.size=[5,4]", "report.font=DejaVu Serif")
        assert told[0] == 0, told[2]
        assert not drawn[-1].get_suptitle() and drawn[-1].get_size_inches().tolist() == [5, 4]
        code, _, err = probe("report", name, "report.metric=auroc")
        assert (code, err) == (
            1,
            "mllm-probe: report.metric does nothing here; it is for the results of `mllm-probe run`\n",
        )
    (tmp_path / "score").mkdir()
    (tmp_path / "score" / "vision.csv").touch()
    code, _, err = probe("report", "score", "report.style=paper")
    assert (code, err) == (1, "mllm-probe: report.style does nothing here; no figure is drawn\n")


def test_a_study_is_shown_by_the_positions_of_either_side(tmp_path: Path) -> None:
    whole = load_scores(write(tmp_path / "a", "entailment", PEAKED))
    local = load_scores(write(tmp_path / "b", "objects", PLATEAU))
    settings = ReportSettings(positions=["mean_text"])
    check_selection([whole, local], settings)
    figure = study_figure(selected(whole, settings), selected(local, settings), [None, None])
    assert lines(figure)["entailment (global)"] == pytest.approx([value - 0.04 for value in PEAKED])
    for wrong, said in (
        (ReportSettings(towers=["vision"]), "must hold lm, whose blocks a study compares"),
        (ReportSettings(positions=["mark:object"]), "names 'mark:object', which this run did not read"),
    ):
        with pytest.raises(ConfigError, match=said):
            check_selection([whole, local], wrong)
