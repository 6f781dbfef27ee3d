"""Multiruns on a real SLURM of one node: what ends well, what fails, what is killed, preempted or left alone."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.support.cluster import MISSING, cluster, until
from tests.support.killed import DATA, cache, finish, shards, start
from tests.support.runs import QUICK, tiny

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} not installed: make test-slurm"),
]
SMALL = ("cpus_per_task=1", "mem_gb=null", "mem_per_cpu=200M", "timeout_min=30")
LAUNCHER = ("hydra/launcher=slurm_cpu", *(f"hydra.launcher.{setting}" for setting in SMALL), "hydra.sweep.dir=sweep")
Environment = dict[str, str]
Drive = Callable[..., subprocess.Popen[str]]
NOTED = """
import torch
from mllm_probe.data.scenes import Scenes

class Noted(Scenes):
    def load(self, *given):
        with open("threads.txt", "a") as file:
            print(torch.get_num_threads(), file=file)
        torch.set_num_threads(1)  # two are slow beside another busy process
        return super().load(*given)
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    with cluster(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture(scope="module")
def alone(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same extraction in one process, without SLURM."""
    folder = tmp_path_factory.mktemp("alone")
    code, err = finish(start(folder, checkpoint))
    assert code == 0, err
    return folder


@pytest.fixture
def drive(checkpoint: Path, slurm: Environment, tmp_path: Path) -> Iterator[Drive]:
    """Start `mllm-probe extract -m`, which waits for its jobs; none is left waiting when a test has failed."""
    command = [sys.executable, "-m", "mllm_probe", "extract", "-m", *LAUNCHER, *tiny(checkpoint), *DATA]
    driven: list[subprocess.Popen[str]] = []

    def drive(*args: str, **more: str) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        driven.append(subprocess.Popen([*command, *args], cwd=tmp_path, env=slurm | more, text=True, **pipes))
        return driven[-1]

    yield drive
    for process in driven:
        if process.poll() is None:
            process.kill()
            process.communicate()


def call(folder: Path, slurm: Environment, *command: str) -> tuple[int, str]:
    done = subprocess.run(command, cwd=folder, env=slurm, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def status(folder: Path, slurm: Environment) -> tuple[int, str]:
    return call(folder, slurm, sys.executable, "-m", "mllm_probe", "status", "sweep")


def said(folder: Path, number: int) -> dict[str, object]:
    path = folder / "sweep" / str(number) / "status.json"
    return json.loads(path.read_text()) if path.exists() else {}


def test_slurm_calls_a_failed_job_completed_and_status_does_not(
    drive: Drive, slurm: Environment, tmp_path: Path
) -> None:
    code, err = finish(drive("layers.range=[2,3],[2,99]"))
    assert code == 1 and "1 of 2 jobs not done" in err and "layers.range=[2, 99] is out of range" in err
    name = str(said(tmp_path, 1)["slurm"])
    assert "JobState=COMPLETED" in call(tmp_path, slurm, "scontrol", "show", "job", name)[1]
    code, out = status(tmp_path, slurm)
    assert code == 1 and "2 jobs: 1 done, 1 failed" in out and "failed (1): layers.range=[2, 99] is out" in out
    again = shlex.split(out.splitlines()[-1])
    assert again[:3] == ["mllm-probe", "extract", "-m"] and again[-1] == "layers.range=[2,99]"
    assert set(LAUNCHER[:-1]) <= set(again) and not [word for word in again if "sweep.dir" in word]


def test_a_killed_job_is_lost_and_one_that_waits_is_pending(drive: Drive, slurm: Environment, tmp_path: Path) -> None:
    driver = drive("data.seed=0,1", "hydra.launcher.array_parallelism=1")
    until(lambda: said(tmp_path, 0), "the first job")
    code, out = status(tmp_path, slurm)
    assert code == 0 and "2 jobs: 1 running, 1 pending" in out
    assert call(tmp_path, slurm, "scancel", str(said(tmp_path, 0)["slurm"]))[0] == 0
    code, err = finish(driver)
    assert code == 1 and "1 of 2 jobs not done; `mllm-probe status sweep` says more" in err
    assert said(tmp_path, 1)["state"] == "done", "one cancelled job does not end the wait for the other"
    code, out = status(tmp_path, slurm)
    assert code == 1 and "2 jobs: 1 done, 1 lost" in out and "cancelled, or killed" in out
    assert out.splitlines()[-1].endswith(" data.seed=0")


def test_a_preempted_job_goes_on_behind_its_shards(
    drive: Drive, slurm: Environment, alone: Path, tmp_path: Path
) -> None:
    """The warning that comes before a preemption; SLURM would let it wait for two minutes before it starts again."""
    (tmp_path / "noted.py").write_text(NOTED)
    there = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    more = ("dataset._target_=noted.Noted", "plugins=[noted]", "hydra.launcher.cpus_per_task=2")
    driver = drive(*more, PYTHONPATH=there)
    until(lambda: len(shards(tmp_path)) > 1, "two shards")
    name = str(said(tmp_path, 0)["slurm"])
    call(tmp_path, slurm, "scancel", "--signal=USR2", name)
    until(lambda: said(tmp_path, 0)["state"] == "pending", "the job to leave")
    before = {path: path.stat().st_mtime_ns for path in shards(tmp_path)}
    until(lambda: "PENDING" in call(tmp_path, slurm, "squeue", "-h", "-o", "%T", "-j", name)[1], "the queue")
    code, out = status(tmp_path, slurm)
    assert code == 0 and "1 job: 1 pending" in out and "back in SLURM's queue" in out
    call(tmp_path, slurm, "scontrol", "update", f"JobId={name}", "StartTime=now")
    code, err = finish(driver)
    assert code == 0, err
    assert cache(tmp_path) == cache(alone) and 1 < len(before) < 6
    assert all(path.stat().st_mtime_ns == moment for path, moment in before.items()), "no shard was made twice"
    code, out = status(tmp_path, slurm)
    assert code == 0 and "1 job: 1 done" in out and "(1 restart)" in out
    threads = (tmp_path / "threads.txt").read_text().split()
    assert threads == [str(min(2, os.cpu_count() or 1))] * 2, "torch has the threads that SLURM allotted"


def test_shard_jobs_leave_the_bytes_of_one_job(drive: Drive, slurm: Environment, alone: Path, tmp_path: Path) -> None:
    code, err = finish(drive("extract.shard=range(3)", "extract.num_shards=3"))
    assert code == 0, err
    assert cache(tmp_path) == cache(alone)
    assert "3 jobs: 3 done" in status(tmp_path, slurm)[1]


def test_ctrl_c_says_how_to_end_the_jobs(drive: Drive, slurm: Environment, tmp_path: Path) -> None:
    held = "hydra.launcher.additional_parameters.hold=true"
    driver = drive("data.seed=0,1", f"+{held}")
    until(lambda: len(list(tmp_path.glob("sweep/.submitit/*_1"))), "the jobs to be submitted")
    driver.send_signal(signal.SIGINT)
    code, err = finish(driver)
    (array,) = {folder.name.partition("_")[0] for folder in tmp_path.glob("sweep/.submitit/*_[01]")}
    assert code == 1 and f"the jobs {array}_0, {array}_1 continue: `scancel {array}` ends them" in err
    assert "2 jobs: 2 pending" in status(tmp_path, slurm)[1]
    assert call(tmp_path, slurm, "scancel", array)[0] == 0
    until(lambda: status(tmp_path, slurm)[0] == 1, "SLURM to forget them")
    assert "2 jobs: 2 lost" in status(tmp_path, slurm)[1]


def test_what_sbatch_refuses_is_one_sentence(drive: Drive, slurm: Environment, tmp_path: Path) -> None:
    code, err = finish(drive("data.seed=0,1", "hydra.launcher.partition=gpu"))
    assert code == 1 and "mllm-probe: sbatch refused the jobs (Invalid partition" in err and "Traceback" not in err
    assert "change hydra.launcher.partition" in err and not list(tmp_path.iterdir()), "it leaves nothing"


def test_a_job_that_can_never_start_is_not_waited_for(drive: Drive, slurm: Environment, tmp_path: Path) -> None:
    code, err = finish(drive("data.seed=0", "hydra.launcher.partition=brief"))
    assert code == 1 and "SLURM never starts it (PartitionTimeLimit)" in err and "hydra.launcher.timeout_min" in err
    code, out = status(tmp_path, slurm)
    assert code == 1 and "1 job: 1 blocked" in out
    code, err = finish(drive("data.seed=0", "hydra.launcher.partition=brief"))
    assert (
        code == 1
        and "holds this same sweep, and 1 of its 1 job are not finished; wait for them, end them with `sc" in err
    )
    (name,) = json.loads((tmp_path / "sweep" / "multirun.json").read_text())["names"]
    assert call(tmp_path, slurm, "scancel", name)[0] == 0


def test_what_a_job_does_is_settled_when_it_is_sent(drive: Drive, slurm: Environment, tmp_path: Path) -> None:
    """A file of settings is edited while the job waits, which then begins in another folder."""
    option = tmp_path / "conf" / "layers" / "few.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("towers: [lm]\nrange: [2, 3]\n")
    more = [f"+hydra.launcher.additional_parameters.{given}" for given in ("hold=true", f"chdir={tmp_path.parent}")]
    driver = drive("layers=few", *more, "--config-dir", "conf")
    until(lambda: list(tmp_path.glob("sweep/.submitit/*/*_submitted.pkl")), "the job to be submitted")
    option.write_text("towers: [lm]\nrange: [1, 1]\n")
    (name,) = json.loads((tmp_path / "sweep" / "multirun.json").read_text())["names"]
    assert "JobHeldUser" in status(tmp_path, slurm)[1]
    call(tmp_path, slurm, "scontrol", "release", name)
    code, err = finish(driver)
    assert code == 0, err
    saved = (tmp_path / "sweep" / "0" / "config.yaml").read_text()
    assert "range:\n  - 2\n  - 3\n" in saved and (tmp_path / "outputs" / "cache").is_dir()


def test_three_models_by_two_tasks_end_in_one_table(checkpoint: Path, slurm: Environment, tmp_path: Path) -> None:
    """Six jobs share three caches; compare finds all of them in the sweep's folder."""
    models = ("model.quantization=none,nf4,int8", "task=entailment,objects")
    few = (*QUICK, "layers.towers=[lm]", "extract.positions=[last]", "controls=none", "guards=note")
    command = (sys.executable, "-m", "mllm_probe", "run", "-m", *LAUNCHER, *tiny(checkpoint), *few, *models)
    code, _ = call(tmp_path, slurm, *command)
    assert code == 0
    code, out = status(tmp_path, slurm)
    assert code == 0 and "6 jobs: 6 done" in out
    names = json.loads((tmp_path / "sweep" / "multirun.json").read_text())["names"]
    assert len({name.partition("_")[0] for name in names}) == 2, "an array takes five here"
    assert len(list(tmp_path.glob("outputs/cache/*/identity.json"))) == 3
    compare = (sys.executable, "-m", "mllm_probe", "compare", "sweep", "--out", "table")
    code, out = call(tmp_path, slurm, *compare)
    assert code == 0 and "entailment at last" in out and "objects at last" in out
    ranking = pd.read_csv(tmp_path / "table" / "ranking.csv")
    assert ranking.groupby("task").label.nunique().to_dict() == {"entailment": 3, "objects": 3}
    assert {path.name for path in (tmp_path / "table").iterdir()} >= {"compare.csv", "entailment.png", "objects.png"}
