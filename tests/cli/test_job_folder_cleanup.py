"""A refused command leaves no folder, and `latest` is what ran last."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mllm_probe.api import run
from mllm_probe.cli.job_folder import alone, note_before, take_back
from mllm_probe.errors import ConfigError, ProbeError
from mllm_probe.files.jobs import Job, write
from mllm_probe.files.paths import RunPaths
from tests.support.runs import QUICK, Run

REFUSED = {  # {what is wrong: words, what is said of them}
    "a number": (("layers.stride=0",), "layers.stride=0 must be 1 or more"),
    "a name": (("guards=maybe",), "guards=maybe is unknown"),
    "no such tower": (("layers.towers=[qformer]",), "layers.towers names qformer, which this model lacks"),
    "no such layer": (("layers.towers=[lm]", "layers.range=[4,99]"), "layers.range=[4, 99] is out of range"),
    "no such position": (
        ("layers.towers=[vision]", "extract.positions=[last]"),
        "extract.positions=['last'] exist in none of the requested towers",
    ),
    "no checkpoint": (("model=custom", "model.path=nowhere"), "nowhere does not exist"),
    "a probe of tokens": (("probe=attention",), "probe=attention reads a row for every token"),
    "a number for a probe of labels": (("task=count", "probe=logistic"), "task=count has targets of kind number"),
    "questions for a probe of pairs": (("probe=ccs",), "task=entailment asks each question once; set task.answers"),
    "bits of margins": (("probe=mean_difference", "sweep.analyses=[mdl]"), "is no log-odds"),
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
    monkeypatch.setattr("mllm_probe.experiment.fill.Models.get", lambda *_: pytest.fail("the weights are loaded"))
    rows = []
    for i in range(40):
        Image.new("RGB", (40, 40), (6 * i, 90, 200 - 5 * i)).save(tmp_path / f"{i}.png")
        rows.append({"picture": f"{i}.png", "text": ("Yes?", "No?")[i % 2], "label": ("yes", "no")[i % 2]})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    words = ("task=custom", "dataset=table", f"dataset.root={tmp_path}", "dataset.file=rows.json", "layers=lm")
    code, _, err = probe("run", *words, "splits.near_duplicates=false", "splits.blocks=4")
    assert code == 1 and "guards=note continues anyway" in err, err
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

    monkeypatch.setattr("mllm_probe.commands.run.sweep_cached", fails)
    code, _, err = probe("run", *QUICK)
    assert code == 1 and "no curve" in err
    latest = tmp_path / "outputs" / "latest"
    assert json.loads((latest / "status.json").read_text())["state"] == "failed"


@pytest.mark.parametrize(
    "setting", ["hydra.run.dir=", "hydra.run.dir=' '", "hydra.sweep.dir=", "hydra.sweep.subdir=''"]
)
def test_a_folder_without_a_name_is_refused(probe: Run, tmp_path: Path, setting: str) -> None:
    """It would be the folder where the command was typed."""
    sweep = ("-m",) * setting.startswith("hydra.sweep")
    code, _, err = probe("inspect", *sweep, *QUICK, "n=1", setting)
    assert (
        code == 1
        and f"mllm-probe: {setting.partition('=')[0]}='' must not be empty" in err
        and not list(tmp_path.iterdir())
    )


def test_neither_is_it_taken_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="hydra.run.dir='' must not be empty"):
        run(*QUICK, out="", quiet=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("probe=logistic,nosuch",), "mllm-probe: probe=nosuch is unknown; "),
        (("sweep.draws=50,few",), "mllm-probe: sweep.draws=few must be a whole number"),
        (("data.seed=0,1", "hydra.sweep.subdir=all"), "hydra.sweep.subdir=all is one folder for several jobs"),
    ],
)
def test_a_refused_multirun_leaves_nothing(probe: Run, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    code, _, err = probe("run", "-m", *QUICK, *words, "hydra.sweep.dir=deep/sweep")
    assert code == 1 and said in err and "no job was started" in err and not list(tmp_path.iterdir()), err


def test_another_command_in_the_folder_is_told_before_any_work(probe: Run, tmp_path: Path) -> None:
    """Whether it holds the folder, or says from another machine that it is at work there."""
    own = tmp_path / "own"
    own.mkdir()
    status = RunPaths(own).status
    words = ("inspect", *QUICK, "n=1", "hydra.run.dir=own")
    with alone(own):
        code, _, err = probe(*words)
        assert code == 1 and f"mllm-probe: another command writes to {own}; wait until it ends, or name another" in err
    write(Job("inspect", [], host="elsewhere"), status)
    before = status.read_bytes()
    code, _, err = probe(*words)
    assert code == 1 and f"another command (process {os.getpid()} on elsewhere) writes to {own}; wait" in err
    assert status.read_bytes() == before, "it is the other's"
    write(Job("inspect", [], host="elsewhere", beat="2020-01-01T00:00:00+00:00"), status)
    assert probe(*words)[0] == 0, "it has died"
    assert probe(*words)[0] == 0, "it is over"


def test_a_job_that_slurm_starts_again_goes_on_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Job("run", [], host="elsewhere", slurm="24"), RunPaths(tmp_path).status)
    monkeypatch.setenv("SLURM_JOB_ID", "24")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    with alone(tmp_path):
        pass
    monkeypatch.setattr("mllm_probe.files.job_states._queue", lambda _: {"24": ("RUNNING", "None")})
    monkeypatch.setenv("SLURM_JOB_ID", "25")
    with pytest.raises(ConfigError, match=r"another command \(job 24 on elsewhere\)"), alone(tmp_path):
        pass


def test_a_multirun_holds_its_folder_until_it_ends_or_is_killed(probe: Run, tmp_path: Path) -> None:
    holds = (
        "import time; from pathlib import Path; from mllm_probe.cli.job_folder import keep; place = keep(Path('own'))"
    )
    (tmp_path / "own").mkdir()
    words = ("inspect", "-m", *QUICK, "n=1,2", "hydra.sweep.dir=own")
    command = [sys.executable, "-c", f"{holds}; print('held', flush=True); time.sleep(600)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        code, _, err = probe(*words)
        other.kill()
    assert code == 1 and "mllm-probe: another command writes to own; wait until" in err
    assert not list((tmp_path / "own").iterdir())
    assert [probe(*words)[0] for _ in range(2)] == [0, 0]


def test_a_refused_launch_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "sweep"

    def launched() -> None:
        (folder / ".submitit").mkdir(parents=True)
        (folder / ".submitit" / "job.pkl").touch()
        (folder / "multirun.yaml").write_text("anew")

    note_before(folder)
    launched()
    take_back(folder)
    assert not list(tmp_path.iterdir())
    status = RunPaths(folder / "0").status
    status.parent.mkdir(parents=True)
    status.write_text("done")
    (folder / "multirun.yaml").write_text("old")
    note_before(folder)
    status.unlink()
    launched()
    take_back(folder)
    left = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert left == {"0/status.json": "done", "multirun.yaml": "old"} and not (folder / ".submitit").exists()
