"""A global and a local task in one run: both are whole runs, and their curves are judged together."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mllm_probe.api import load_cache
from mllm_probe.fitting.readout import Readout
from mllm_probe.records.problems import LayerData, Problem
from mllm_probe.report.figures import study as study_figures
from mllm_probe.results.score_file import load_scores
from tests.support.families import FAMILIES
from tests.support.runs import REAL, Run, tiny

STUDY = ("experiment=tao2024", "splits.blocks=3", "sweep.seeds=[0]", "sweep.draws=60", "sweep.permutations=60")


def studied(tmp_path: Path) -> Path:
    return next((tmp_path / "outputs" / "run").glob("*/*"))


def check_study(folder: Path) -> None:
    """Both tasks, three hypotheses with a verdict each, every control in either table."""
    study = json.loads((folder / "study.json").read_text())
    assert study["position"] == "last" and [one["name"] for one in study["statements"]] == ["H1", "H2", "H3"]
    assert {one["verdict"] for one in study["statements"]} <= {"holds", "does not hold", "undecided"}
    check_headlines(folder, study["headlines"])
    assert (folder / "study.png").stat().st_size > 10_000
    for side, task in (("global", "entailment"), ("local", "objects")):
        table = load_scores(folder / side / "scores.csv")
        assert set(table.task) == {task}
        shown = {"text_only", "blank_picture", "shuffled_picture", "random_weights", "vision_only", "connector_only"}
        assert shown <= set(table.control)


def check_headlines(folder: Path, headlines: list[dict[str, Any]]) -> None:
    """The local one tells the mean over categories beside what pools their decisions."""
    for side, told in zip(("global", "local"), headlines, strict=True):
        table = load_scores(folder / side / "scores.csv")
        rows = table[table.headline & (table.seed == "all") & (table.split == "test") & (table.control == "")]
        rows = rows[(rows.site == told["site"]) & (rows.position == "last") & (rows.features == "single")]
        assert told["pooled"]["value"] == pytest.approx(rows[rows.subset == ""].value.item())
        categories = rows[rows.subset.str.startswith("category=")].value
        assert ("macro" in told) == (side == "local") == (len(categories) > 1)
        if len(categories):
            assert told["macro"]["value"] == pytest.approx(categories.mean())


def test_a_study_runs_both_tasks_and_is_printed_again(
    probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = probe("run", *STUDY, "data.n=48", "layers=every4", "layers.stride=2", "dataset.pictures=60")
    assert code == 0, err
    folder = studied(tmp_path)
    check_study(folder)
    assert "H3" in out and "objects at last comes within 1 point of its best" in " ".join(out.split())
    loaded = [line for line in err.splitlines() if line.startswith("loading ")]
    assert [line.split()[1] for line in loaded] == ["mini", *3 * ["mini-random"]], (
        "both tasks are read by one loaded model"
    )
    drawn: list[str] = []
    draw = study_figures._draw_task
    monkeypatch.setattr(study_figures, "_draw_task", lambda *given: (drawn.append(given[2]), draw(*given))[1])
    again = probe("report", f"run={folder}")
    assert again[0] == 0 and "H1" in again[1]
    assert drawn == ["global", "local"], "one figure for its files and the page"


SMALL = ("data.n=48", "dataset.pictures=48", "splits.blocks=3", "sweep.seeds=[0]", "sweep.draws=60")
LESS = (*SMALL, "sweep.permutations=60", "layers.stride=2", "controls=none", "guards=note")


def test_without_a_task_both_questions_are_answered_and_the_next_commands_named(
    probe: Run, checkpoint: Path, tmp_path: Path
) -> None:
    code, out, err = probe("run", *tiny(checkpoint), *LESS)
    assert code == 0, err
    folder, notes = studied(tmp_path), err.splitlines()
    assert "a study of two tasks on the same pictures: entailment (global) and objects (local)" in notes[0]
    assert "task=entailment or task=objects" in notes[0]
    first = " ".join(out.split("\u250f")[0].split())
    assert first.startswith("Global meaning (does this caption describe this picture?) is read ")
    assert "Local meaning (is this object there?) is read " in first
    heading = re.search(r"<h1.*?</h1>", (folder / "report.html").read_text(), re.DOTALL)
    assert heading and heading[0].count("meaning (") == 2
    assert sum("none of the requested positions exists there" in line for line in notes) == 1
    assert [line.split(":")[0].strip() for line in notes[-2:]] == ["your pictures", "your questions"]
    again = [shlex.split(line.partition(": ")[2])[1:] for line in notes[-2:]]
    assert again[0][:3] == ["run", *tiny(checkpoint)[:2]], "the model is the user's own already"
    assert probe("inspect", *again[0][1:], "n=1")[0] == 0
    code, out, err = probe(*again[1])
    assert code == 0 and "task=custom" in out, err


def test_the_halves_of_a_study_leave_what_the_whole_does(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    args = (*tiny(checkpoint), *LESS)
    assert probe("extract", *args)[0] == 0
    code, _, err = probe("sweep", *args)
    assert code == 0, err
    code, _, err = probe("run", *args)
    assert code == 0 and err.count("samples are there") == 2 and "loading" not in err
    swept, run = (next((tmp_path / "outputs" / name).glob("*/*")) for name in ("sweep", "run"))
    for name in ("study.json", "global/scores.csv", "local/tests.csv", "local/predictions.safetensors"):
        assert (swept / name).read_bytes() == (run / name).read_bytes(), name
    code, _, err = probe("geometry", *args, "geometry.measures=[entropy]", "geometry.permutations=0")
    assert code == 0 and "compares the layers of the first task" in err, err
    loaded = load_cache(next((tmp_path / "outputs" / "extract").glob("*/*")), tmp_path / "outputs")
    assert "lm.02@mark:object" in loaded.keys


def test_what_is_said_of_next_steps_is_for_a_bundled_model_and_for_no_job_of_a_multirun(
    probe: Run, checkpoint: Path
) -> None:
    words = ("data.n=30", "dataset.pictures=30", "layers=lm", "layers.range=[1,1]", "extract.positions=[last]")
    quick = ("task=entailment", "splits.blocks=3", "sweep.seeds=[0]", "sweep.draws=50", "sweep.permutations=50")
    code, _, err = probe("run", *words, *quick, "controls=none", "guards=note")
    assert code == 0, err
    (model,) = [line for line in err.splitlines() if line.startswith("  your model: ")]
    assert Path(shlex.split(model)[-1].removeprefix("model.path=")).is_dir()
    code, _, err = probe("run", "-m", *words, *quick, "controls=none", "guards=note", "data.seed=0")
    assert code == 0 and "your model" not in err
    code, _, err = probe("run", "--quiet", *words, *quick, "controls=none", "guards=note")
    assert code == 0 and not err


def test_a_study_killed_at_its_end_fits_nothing_again(
    probe: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = ("run", *tiny(checkpoint), *STUDY, "data.n=30", "dataset.pictures=60", "layers.range=[0,1]", "controls=none")
    args += ("extract.positions=[last]", "local.extract.positions=[last]", "guards=note")
    monkeypatch.setattr("mllm_probe.scoring.study._judged", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        probe(*args)
    unfinished = tmp_path / "outputs" / "unfinished"
    assert len(list(unfinished.iterdir())) == 2
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mllm_probe.fitting.trials.Fitted.on", None)
    assert probe(*args)[0] == 0
    assert not unfinished.exists()


@pytest.mark.parametrize(
    ("arg", "said"),
    [
        ("+local.extract.micro_batch=4", "'local.extract.micro_batch' is set for both tasks by extract.micro_batch"),
        ("local.task.template=x", "must hold"),
        ("regions_run=nowhere", "regions_run=nowhere holds no regions.csv"),
    ],
)
def test_a_wrong_local_task_is_refused_before_anything_is_read(probe: Run, tmp_path: Path, arg: str, said: str) -> None:
    code, _, err = probe("run", *STUDY, "data.n=30", "dataset.pictures=60", arg)
    assert code == 1 and said in err
    assert not list((tmp_path / "outputs" / "cache").glob("*/groups"))


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of PaliGemma's processor under numpy 2
@pytest.mark.skipif(not (REAL / "coco_subset").is_dir(), reason="no COCO pictures beside the checkout")
@pytest.mark.parametrize("family", ["mini", "paligemma"])
def test_a_study_of_real_pictures(probe: Run, tmp_path: Path, family: str) -> None:
    model = ["model=mini", "layers=every4", "layers.stride=2"]
    if family != "mini":
        path = FAMILIES[family](tmp_path / family)
        model = ["model=custom", f"model.path={path}", "model.dtype=float32", "layers.towers=[lm]"]
    photographs = ("dataset=coco", f"dataset.root={REAL / 'coco_subset'}", "data.n=60", "random_draws=1")
    args = (*STUDY, *photographs, *model)
    code, _, err = probe("run", *args)
    assert code == 0, err
    check_study(studied(tmp_path))
    if family == "paligemma":
        assert "text_only: not applicable: PaliGemmaProcessor needs a picture in every prompt" in err


def test_categories_too_rare_for_an_output_are_named(probe: Run, checkpoint: Path) -> None:
    common = (*tiny(checkpoint), "task=objects", "task.prompt=none", "extract.positions=[last]", "layers.towers=[lm]")
    few = (*common, "data.n=40", "dataset.pictures=60", "splits.blocks=4", "sweep.seeds=[0,1]", "guards=note")
    code, _, err = probe("run", *few, "task.rare=keep")
    assert code == 0, err
    assert re.search(r"\d+ of \d+ categories lack a label in training .* of some seed \(\w+ \w+, .* more\)", err)
    _, _, err = probe("run", *few, "task.prompt=single")
    assert "categories lack a label" not in err, "each prompt has a row of its own"


def test_before_the_name_each_category_has_an_output_of_its_own(probe: Run, tmp_path: Path) -> None:
    """`mini` knows in the middle which shapes are there, and an output for each reads it before one is named."""
    args = ("task=objects", "data.n=150", "task.categories=[red circle,blue square]", "task.per_category=null")
    read = ("extract.positions=['before:object']", "layers.towers=[lm]", "layers.range=[5,5]", "sweep.seeds=[0]")
    code, _, err = probe("run", *args, *read, "splits.blocks=3", "sweep.draws=50", "guards=note")
    assert code == 0, err
    table = load_scores(next((tmp_path / "outputs" / "run").glob("*/*")) / "scores.csv")
    scores = table[
        (table.site == "lm.05") & (table.metric == "accuracy") & (table.seed == "all") & (table.subset == "")
    ]
    assert scores[scores.control == ""].value.item() > 0.7


def test_several_outputs_read_one_row() -> None:
    """Two pictures, three categories: each decision meets its own output, dead outputs say nothing."""
    y = np.asarray([0, 1, 1, 0, 1, 1, 0, 1])
    heads = np.asarray([0, 0, 1, 1, 2, 2, 0, 1])
    train = np.asarray([True, True, True, True, True, True, False, False])
    val = ~train
    readout = Readout(LayerData(np.zeros((8, 2))), np.arange(8), 8, heads)  # type: ignore[arg-type]
    problem = Problem(y, train, val)
    asked = readout.problem(problem)
    assert asked.kind == "labels" and asked.y.shape == (8, 2), "category 2 is never absent, so it has no output"
    assert asked.mask is not None and asked.mask.sum() == 6
    for row in range(8):
        if heads[row] < 2:
            assert asked.mask[row].nonzero()[0].tolist() == [heads[row]] and asked.y[row, heads[row]] == y[row]
    logits = readout.logits(np.arange(16.0).reshape(8, 2), problem)
    assert logits.tolist() == [0, 2, 5, 7, 0, 0, 12, 15]


def test_a_decision_without_a_row_has_no_logit() -> None:
    readout = Readout(LayerData(np.zeros((2, 2))), np.asarray([0, 2]), 3)  # type: ignore[arg-type]
    problem = Problem(np.asarray([1, 0, 1]), np.ones(3, bool), np.zeros(3, bool))
    assert readout.problem(problem).y.tolist() == [1, 1]
    np.testing.assert_array_equal(readout.logits(np.asarray([3.0, 4.0]), problem), [3, np.nan, 4])
