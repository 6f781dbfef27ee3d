"""Multiruns before their jobs begin: what is refused, what is kept of the settings, and what becomes of a folder."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mllm_probe.cli.launchers import refusal
from mllm_probe.cli.multirun import check_folder, check_launcher, told
from mllm_probe.cli.perform import stop_as_ctrl_c
from mllm_probe.errors import ConfigError
from mllm_probe.files.jobs import Asked, Job, now, read, write
from mllm_probe.files.paths import MultirunPaths, RunPaths
from tests.support.cluster import until
from tests.support.killed import DATA, finish, shards, start
from tests.support.runs import QUICK, Run, tiny

FEW = (*QUICK, "layers.towers=[lm]", "extract.positions=[last]")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("task.negatives=random,bogus", "mllm-probe: task.negatives=bogus is unknown"),
        ("extract.padding_side=left,up", "mllm-probe: extract.padding_side=up is unknown"),
        ("task.no_such=1,2", "'no_such' is no setting"),
        ("sweep.draws=100,0", "mllm-probe: sweep.draws=0 must be 1 to 1,000,000"),
    ],
)
def test_settings_of_all_jobs_are_checked_before_the_first(probe: Run, tmp_path: Path, setting: str, said: str) -> None:
    setting = "+" * ("no_such" in setting) + setting
    code, _, err = probe("run", "-m", setting, "hydra.sweep.dir=sweep")
    assert code == 1 and said in err and "no job was started" in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("command", "setting"), [("geometry", "geometry.k=1,0"), ("align", "align.delta=1,-1")])
def test_so_are_those_of_other_commands(probe: Run, tmp_path: Path, command: str, setting: str) -> None:
    code, _, err = probe(command, "-m", setting)
    assert code == 1 and "no job was started" in err and not list(tmp_path.iterdir())


def asked(folder: Path, *jobs: str, command: str = "run") -> Asked:
    return Asked(command, "basic", [], [[job] for job in jobs], str(folder))


def test_a_folder_in_use_is_refused_but_for_the_same_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, same = MultirunPaths(tmp_path / "sweep"), asked(tmp_path, "data.seed=0", "data.seed=1")
    assert not check_folder(paths.root, same)
    write(same, paths.asked)
    with pytest.raises(ConfigError, match="holds this same sweep, and 2 of its 2 jobs are not finished"):
        check_folder(paths.root, same)
    with monkeypatch.context() as patch:  # blocked is over for who waits, and still in the queue
        patch.setattr(
            "mllm_probe.files.job_states._queue", lambda _: {f"24_{n}": ("PENDING", "BadConstraints") for n in "01"}
        )
        write(queued := replace(same, launcher="slurm", names=["24_0", "24_1"]), paths.asked)
        with pytest.raises(
            ConfigError, match="2 of its 2 jobs are not finished; wait for them, end them with `scancel 24`"
        ):
            check_folder(paths.root, queued)
        write(same, paths.asked)
    for n in range(2):
        write(Job("run", [f"data.seed={n}"], n, state="done", ended=now()), RunPaths(paths.root / str(n)).status)
    assert check_folder(paths.root, same)
    for other in (
        asked(tmp_path, "data.seed=1", "data.seed=2"),
        asked(tmp_path, "data.seed=0"),
        replace(same, jobs=[]),
    ):
        with pytest.raises(ConfigError, match="holds the jobs of another sweep; name another folder"):
            check_folder(paths.root, other)
    with pytest.raises(ConfigError, match="another sweep"):
        check_folder(paths.root, replace(same, command="extract"))
    paths.asked.unlink()
    with pytest.raises(ConfigError, match="another sweep"):
        check_folder(paths.root, same)


def test_two_sweeps_into_one_folder(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    few = (*tiny(checkpoint), *FEW, "hydra.sweep.dir=sweep")
    assert probe("extract", "-m", *few, "data.seed=0,1")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "sweep").rglob("*.json")}
    code, _, err = probe("extract", "-m", *few, "data.seed=2,3")
    assert code == 1 and "hydra.sweep.dir=sweep holds the jobs of another sweep" in err
    assert before == {path: path.read_bytes() for path in (tmp_path / "sweep").rglob("*.json")}
    code, _, err = probe("extract", "-m", *few, "data.seed=0,1")
    assert code == 0 and "sweep holds this sweep already; its jobs run again" in err
    code, out, _ = probe("status", "sweep")
    assert code == 0 and "2 jobs: 2 done" in out and "restart" not in out


def test_jobs_work_where_the_command_was_typed(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    """Whatever folder Hydra gives them: one cache, and no job is lost."""
    few = (*tiny(checkpoint), *FEW, "hydra.job.chdir=true")
    code, _, err = probe("extract", "-m", *few, "extract.micro_batch=1,2", "hydra.sweep.dir=sweep")
    assert code == 0, err
    assert len(list(tmp_path.rglob("cache/*/identity.json"))) == 1 and (tmp_path / "outputs" / "cache").is_dir()
    assert probe("extract", *few)[0] == 0
    assert len(list(tmp_path.rglob("cache/*/identity.json"))) == 1
    assert "2 jobs: 2 done" in probe("status", "sweep")[1]


@pytest.mark.parametrize(
    ("said", "setting"),
    [
        ("sbatch: error: invalid partition specified: gpu\nsbatch: error: Batch job submission failed: Invalid "
         "partition name specified", "partition"),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
         "account"),
        ("sbatch: error: Batch job submission failed: Invalid generic resource (gres) specification", "gpus_per_node"),
        ("sbatch: error: Memory specification can not be satisfied\nsbatch: error: Batch job submission failed: "
         "Requested node configuration is not available", "mem_gb"),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
         "timeout_min"),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", "qos"),
        ("sbatch: error: Batch job submission failed: Invalid feature specification", "constraint"),
    ],
)  # fmt: skip
def test_what_sbatch_refuses_names_the_setting(said: str, setting: str) -> None:
    found = refusal(said)
    assert found.startswith("sbatch refused the jobs (") and f"change hydra.launcher.{setting}" in found
    assert "\n" not in found and "submission failed" not in found
    assert "docs/cluster.md" in refusal("sbatch: error: something new")


def test_jobs_that_were_refused_are_no_jobs_to_run_again(probe: Run, tmp_path: Path) -> None:
    paths = MultirunPaths(tmp_path / "sweep")
    why = refusal("sbatch: error: Batch job submission failed: Invalid partition name specified")
    write(replace(asked(tmp_path, "data.seed=0", "data.seed=1"), launcher="slurm", refused=why), paths.asked)
    assert told(paths.root) == why
    code, out, _ = probe("status", "sweep")
    assert code == 1 and "2 jobs: 2 failed" in out and "run them again" not in out and why[:60] in out


def test_two_processes_a_job_are_refused(probe: Run, tmp_path: Path) -> None:
    one = {"nodes": 1, "tasks_per_node": 1}
    check_launcher(one)
    with pytest.raises(ConfigError, match="tasks_per_node=2 would start every job 2 times in one folder; set it to 1"):
        check_launcher(one | {"tasks_per_node": 2})
    with pytest.raises(ConfigError, match="nodes=3 would start"):
        check_launcher(one | {"nodes": 3})
    for name, value in (("jobs_per_task", 0), ("array_parallelism", 0), ("timeout_min", 0), ("gpus_per_node", -1)):
        with pytest.raises(ConfigError, match=f"hydra.launcher.{name}={value} must be {value + 1} or more"):
            check_launcher(one | {name: value})
    with pytest.raises(
        ConfigError, match=r"mem_per_cpu=2G and hydra.launcher.mem_gb=64 both set the memory .*mem_gb=null"
    ):
        check_launcher(one | {"mem_per_cpu": "2G", "mem_gb": 64})
    code, _, err = probe("run", "-m", "data.seed=0,1", "hydra/launcher=local", "hydra.launcher.tasks_per_node=2")
    assert code == 1 and "tasks_per_node=2" in err and not list(tmp_path.iterdir())


def statuses(folder: Path) -> list[Job | None]:
    return [read(Job, path) for path in MultirunPaths(folder).statuses()]


def test_jobs_of_one_task_share_a_process(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    """One that fails does not end those behind it."""
    args = (*tiny(checkpoint), *FEW, "hydra/launcher=local", "hydra.launcher.jobs_per_task=3", "hydra.sweep.dir=sweep")
    code, _, err = probe("extract", "-m", *args, "layers.range=[2,99],[2,3],[3,4]")
    assert code == 1 and "1 of 3 jobs not done" in err and "layers.range=[2, 99] is out of range" in err
    jobs = [job for job in statuses(tmp_path / "sweep") if job]
    assert [job.state for job in jobs] == ["failed", "done", "done"] and len({job.pid for job in jobs}) == 1
    found = read(Asked, MultirunPaths(tmp_path / "sweep").asked)
    assert found is not None and len(found.names) == 3 and len(set(found.names)) == 1


def test_local_jobs_stop_with_the_command_that_waits_for_them(checkpoint: Path, tmp_path: Path) -> None:
    """The signal goes to that process alone."""
    args = (*tiny(checkpoint), *DATA, "hydra/launcher=local", "hydra.sweep.dir=sweep", "data.seed=0,1")
    long = ("data.n=1000", "dataset.pictures=1000", "extract.micro_batch=1")
    command = [sys.executable, "-m", "mllm_probe", "extract", "-m", *args, *long]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    driver = subprocess.Popen(command, cwd=tmp_path, text=True, **pipes)  # type: ignore[call-overload]
    until(lambda: len(statuses(tmp_path / "sweep")) == 2, "both jobs")
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 1 and "Traceback" not in err and "go on:" not in err
    assert [job and (job.state, bool(job.ended)) for job in statuses(tmp_path / "sweep")] == [("stopped", True)] * 2


def test_a_signal_ends_a_run_in_words(checkpoint: Path, tmp_path: Path) -> None:
    process = start(tmp_path, checkpoint, "hydra.run.dir=one")
    until(lambda: shards(tmp_path), "a shard")
    process.send_signal(signal.SIGTERM)
    code, err = finish(process)
    job = read(Job, RunPaths(tmp_path / "one").status)
    assert code == 1 and "mllm-probe: stopped" in err and "Traceback" not in err
    assert job and (job.state, bool(job.ended)) == ("stopped", True) and "SIGTERM" in job.error


def test_so_do_the_other_signals_of_batch_systems() -> None:
    """One that is ignored, as under nohup, stays so."""
    mine = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in mine}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop_as_ctrl_c()
        for number in mine[1:]:
            with pytest.raises(KeyboardInterrupt, match=number.name):
                os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGHUP)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_jobs_that_cannot_differ_all_end_with_results(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    """They are one sweep twice, at once."""
    args = (*tiny(checkpoint), *FEW, "controls=none", "guards=note", "hydra/launcher=local", "hydra.sweep.dir=sweep")
    code, _, err = probe("run", "-m", *args, "extract.workers=1,2")
    assert code == 0, err
    scores = [(tmp_path / "sweep" / n / "scores.csv").read_bytes() for n in "01"]
    assert len(set(scores)) == 1 and not (tmp_path / "outputs" / "unfinished").exists()
