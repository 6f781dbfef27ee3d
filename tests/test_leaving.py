"""A refused command leaves no folder, and `latest` is what ran last."""

import json
from pathlib import Path

import pytest
from conftest import QUICK, Run
from PIL import Image

from mllm_probe.errors import ProbeError

REFUSED = {  # {what is wrong: words, what is said of them}
    "a number": (("layers.stride=0",), "layers.stride=0 must be 1 or more"),
    "a name": (("guards=maybe",), "guards=maybe is unknown"),
    "no such tower": (("layers.towers=[qformer]",), "layers.towers names qformer, which this model lacks"),
    "no such layer": (("layers.towers=[lm]", "layers.range=[4,99]"), "layers.range=[4, 99] is out of range"),
    "no such position": (
        ("layers.towers=[vision]", "extract.positions=[last]"),
        "extract.positions=['last'] exist in none of the towers",
    ),
    "no checkpoint": (("model=custom", "model.path=nowhere"), "nowhere does not exist"),
    "a probe of tokens": (("probe=attention",), "probe=attention reads a row for every token"),
    "a number for a probe of labels": (("task=count", "probe=logistic"), "task=count has targets of kind number"),
    "questions for a probe of pairs": (("probe=ccs",), "task=entailment asks each question once; set task.answers"),
    "bits of margins": (("probe=mean_difference", "sweep.analyses=[mdl]"), "says is no log-odds"),
    "no such baseline": (("sweep.analyses=[v_information]", "sweep.baseline=lm.99@last"), "is not among the keys"),
    "no file of splits": (("splits.file=nowhere.csv",), "splits.file=nowhere.csv cannot be read"),
    "a disk of no size": (("extract.max_disk_gb=-1",), "extract.max_disk_gb=-1.0 must be 0 or more"),
    "a seed that no generator takes": (("sweep.seeds=[0,-1]",), "sweep.seeds=-1 must be 0 or more"),
    "a blank text": (("prompt.system=' '",), "prompt.system=' ' must not be empty"),
    "no text": (("prompt.system=''",), "prompt.system='' must not be empty"),
    "a blank revision": (("model.revision=' '",), "model.revision=' ' must not be empty"),
    "a blank word": (("sweep.baseline=' '",), "sweep.baseline=' ' must not be empty"),
    "what is done with bad rows": (("data.on_bad_row=drop",), "data.on_bad_row=drop is unknown"),
    "no card": (("device=cuda",), "torch sees no CUDA device here"),
    "nothing to spread over": (("device=cpu", "model.placement=spread"), "and device is cpu"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_command_opens_no_picture_and_leaves_no_folder(
    probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words, said = REFUSED[case]
    code, _, err = probe("run", *QUICK, *words)
    assert code == 1 and said in err, err
    left = [path for path in (tmp_path / "outputs").rglob("*") if "cache" not in path.parts]
    assert not left, "the pictures would be drawn there"


@pytest.mark.parametrize("words", [("paths.outputs=deep/new",), ("hydra.run.dir=deep/new/dir",)])
def test_a_refused_command_leaves_no_folder_that_it_made(probe: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    assert probe("run", *QUICK, "guards=maybe", *words)[0] == 1
    assert not list(tmp_path.iterdir())
    (tmp_path / "deep").mkdir()
    assert probe("run", *QUICK, "guards=maybe", *words)[0] == 1
    assert list(tmp_path.rglob("*")) == [tmp_path / "deep"], "it was there before"


@pytest.mark.parametrize(
    ("labels", "probe_name", "kind"),
    [
        (("a", "b", "c"), "ridge", "classes"),
        ((1, 2, 3.5), "logistic", "number"),
    ],
)
def test_a_probe_is_held_against_the_labels_of_a_table_before_a_picture_is_opened(
    probe: Run, tmp_path: Path, labels: tuple[object, ...], probe_name: str, kind: str
) -> None:
    rows = [{"picture": f"{i}.png", "text": "What?", "label": labels[i % 3]} for i in range(40)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))  # the pictures are not there
    words = ("task=custom", "dataset=table", f"dataset.root={tmp_path}", "dataset.file=rows.json")
    code, _, err = probe("run", *words, f"probe={probe_name}")
    assert code == 1 and f"task=custom has targets of kind {kind}" in err, err
    code, _, err = probe("run", *words, f"probe={probe_name}", "data.on_bad_row=skip")
    assert code == 1 and "no usable row is left" in err, "which rows are used is for the pictures to say"


def test_words_that_decide_the_label_are_refused_before_the_weights(
    probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllm_probe.stages.extract.Models.get", lambda *_: pytest.fail("the weights are loaded"))
    rows = []
    for i in range(40):
        Image.new("RGB", (40, 40), (6 * i, 90, 200 - 5 * i)).save(tmp_path / f"{i}.png")
        rows.append({"picture": f"{i}.png", "text": ("Yes?", "No?")[i % 2], "label": ("yes", "no")[i % 2]})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    words = ("task=custom", "dataset=table", f"dataset.root={tmp_path}", "dataset.file=rows.json", "layers=lm")
    code, _, err = probe("run", *words, "splits.near_duplicates=false", "splits.blocks=4")
    assert code == 1 and "guards=note goes on all the same" in err, err
    assert not (tmp_path / "outputs" / "run").exists()


def test_latest_is_what_ran_last(probe: Run, tmp_path: Path) -> None:
    latest = tmp_path / "outputs" / "latest"
    assert probe("inspect", *QUICK)[0] == 0
    first = latest.resolve()
    assert first.parent.parent == tmp_path / "outputs" / "inspect" and not latest.readlink().is_absolute()
    assert probe("inspect", *QUICK, "n=0")[0] == 1
    assert latest.resolve() == first, "a refused command does not count"
    assert probe("inspect", *QUICK)[0] == 0
    assert latest.resolve() != first and latest.resolve().parent.parent == first.parent.parent
    assert probe("inspect", "-m", *QUICK, "n=1,2")[0] == 0
    assert latest.resolve().parent.parent.name == "multirun"


def test_a_folder_that_holds_more_is_left(probe: Run, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "notes.txt").write_text("mine")
    assert probe("inspect", *QUICK, "n=0", f"hydra.run.dir={own}")[0] == 1
    assert (own / "notes.txt").read_text() == "mine"
    (tmp_path / "outputs" / "latest").mkdir(parents=True)
    assert probe("inspect", *QUICK)[0] == 0 and (tmp_path / "outputs" / "latest").is_dir()


def test_what_failed_at_its_work_keeps_its_folder(probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its status says how far it came."""

    def fails(*_: object) -> None:
        raise ProbeError("no curve")

    monkeypatch.setattr("mllm_probe.stages.run.sweep_cached", fails)
    code, _, err = probe("run", *QUICK)
    assert code == 1 and "no curve" in err
    latest = tmp_path / "outputs" / "latest"
    assert json.loads((latest / "status.json").read_text())["state"] == "failed"
