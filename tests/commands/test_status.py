"""Multiruns in processes of their own, what each job says of itself, and what `mllm-probe status` makes of it."""

import itertools
import json
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from mllm_probe.cli.job_folder import Heartbeat
from mllm_probe.cli.multirun import check_limits, left
from mllm_probe.errors import ConfigError, DataError, PendingError
from mllm_probe.files import job_states as standing
from mllm_probe.files.jobs import Asked, Job, now, read, write
from mllm_probe.files.paths import MultirunPaths, RunPaths
from mllm_probe.files.rerun import again
from tests.support.runs import QUICK, Run, Silent, tiny

LONG_AGO = "2020-01-01T00:00:00+00:00"


def said(folder: Path) -> dict[str, object]:
    return json.loads(RunPaths(folder).status.read_text())


def test_a_multirun_with_a_job_that_fails(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    """Real processes: one job has no checkpoint, the next batch ends well; once it has one, the command that status
    prints ends it."""
    base = ("hydra/launcher=local", "hydra.sweeper.max_batch_size=1", "model=custom", "model.dtype=float32", *QUICK)
    code, _, err = probe("extract", "-m", *base, f"model.path=there,{checkpoint}", "hydra.sweep.dir=sweep")
    assert code == 1 and "1 of 2 jobs not done; `mllm-probe status sweep` says more" in err
    assert "model.path=there: the checkpoint folder there does not exist" in err and "Traceback" not in err
    assert [said(tmp_path / "sweep" / n)["state"] for n in "10"] == ["done", "failed"]
    good = said(tmp_path / "sweep" / "1")
    assert good["stage"] == "extract" and good["done"] == good["total"] > 0

    code, out, _ = probe("status", "sweep")
    assert code == 1 and "2 jobs: 1 done, 1 failed" in out and "failed (0): the checkpoint folder there does not" in out
    words = shlex.split(out.splitlines()[-1])
    assert words == ["mllm-probe", "extract", "-m", *base, "model.path=there"]
    (tmp_path / "there").symlink_to(checkpoint)
    code, _, err = probe(*words[1:])
    assert code == 0, err
    (later,) = map(str, tmp_path.glob("outputs/multirun/*/*"))
    code, out, _ = probe("status", "sweep", later)
    assert code == 0 and "2 jobs: 2 done" in out, "a later job stands in for an earlier one"


def test_a_single_run_says_how_it_ended(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    for n, setting in enumerate(("data.n=30", "layers.range=[2,99]", "+typo=1")):
        assert probe("extract", *tiny(checkpoint), *QUICK, setting, f"hydra.run.dir=run/{n}")[0] == (n > 0)
    good = said(tmp_path / "run" / "0")
    assert good["state"] == "done" and good["number"] is None and good["pid"] == os.getpid()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["0"], "a refused command leaves no folder"
    code, out, _ = probe("status", "run")
    assert code == 0 and "1 job: 1 done" in out and "again" not in out


def test_report_leaves_no_status_where_it_is_called(probe: Run, tmp_path: Path) -> None:
    assert probe("report", "run=nowhere")[0] == 1
    assert not list(tmp_path.iterdir())


def beat(folder: Path, error: BaseException | None) -> Job:
    path = RunPaths(folder).status
    with (
        suppress(PendingError, DataError, SystemExit, KeyboardInterrupt),
        Heartbeat(Silent(), path, Job("run", []), str) as reporter,
    ):
        reporter.progress("sweep", 3, 10, "keys")
        if error:
            raise error
    found = read(Job, path)
    assert found is not None
    return found


def test_what_a_job_says_last(tmp_path: Path) -> None:
    ends = [
        beat(tmp_path, end)
        for end in (
            None,
            DataError("bad row"),
            PendingError("another fills it"),
            KeyboardInterrupt("SIGTERM"),
            SystemExit(1),
        )
    ]
    assert [(job.state, job.error, bool(job.ended)) for job in ends] == [
        ("done", "", True),
        ("failed", "bad row", True),
        ("incomplete", "another fills it", True),
        ("stopped", "SIGTERM", True),
        ("pending", "", False),  # in SLURM's queue again
    ]
    assert [job.restarts for job in ends] == [0, 1, 2, 3, 4]
    assert (ends[0].stage, ends[0].done, ends[0].total, ends[0].unit) == ("sweep", 3, 10, "keys")
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


def test_a_job_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllm_probe.cli.job_folder.EVERY", 0.01)
    path, seen = RunPaths(tmp_path).status, threading.Event()
    with Heartbeat(Silent(), path, Job("run", [], beat=LONG_AGO), str) as reporter:
        reporter.note("loading")
        for _ in range(500):
            job = read(Job, path)
            assert job is not None, "a reader finds the file whole at every moment"
            if job.beat != LONG_AGO and job.note == "loading" and job.state == "running":
                break
            seen.wait(0.01)
        else:
            pytest.fail("no heartbeat")


@pytest.fixture
def multirun(tmp_path: Path) -> MultirunPaths:
    """One that was typed in a process that is gone: two jobs of three have begun."""
    paths = MultirunPaths(tmp_path / "sweep")
    jobs = [[f"data.seed={n}", "model=mini"] for n in range(3)]
    write(Asked("run", "basic", [], jobs, str(tmp_path), pid=gone()), paths.asked)
    for number in range(2):
        job = Job("run", jobs[number], number, slurm=None)
        write(job, RunPaths(paths.root / str(number)).status)
    return paths


def gone() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def change(paths: MultirunPaths, number: int, **changes: object) -> None:
    path = RunPaths(paths.root / str(number)).status
    job = read(Job, path)
    assert job is not None
    write(replace(job, **changes), path)  # type: ignore[arg-type]


def states(paths: MultirunPaths) -> list[str]:
    return [job.state for job in standing.standings(paths.root)]


def test_jobs_that_say_nothing_any_more_are_lost(multirun: MultirunPaths, probe: Run) -> None:
    assert states(multirun) == ["running", "running", "lost"]
    change(multirun, 0, pid=gone())
    change(multirun, 1, host="elsewhere", beat=LONG_AGO)
    assert states(multirun) == ["lost", "lost", "lost"]
    change(multirun, 0, host="elsewhere", beat=now())
    change(multirun, 1, state="done", ended=now())
    asked = read(Asked, multirun.asked)
    assert asked is not None
    write(replace(asked, pid=os.getpid()), multirun.asked)
    assert states(multirun) == ["running", "done", "pending"]
    code, out, _ = probe("status", "sweep")
    assert code == 0 and "3 jobs: 1 done, 1 running, 1 pending" in out and "again" not in out
    assert "data.seed=2" in out and "model=mini" not in out, "what all jobs share says nothing"


def test_a_job_that_leaves_the_work_to_another_is_incomplete(multirun: MultirunPaths, probe: Run) -> None:
    change(multirun, 0, state="incomplete", error="run abc fills it", ended=now(), pid=gone(), beat=LONG_AGO)
    change(multirun, 1, state="done", ended=now())
    code, out, _ = probe("status", "sweep")
    assert code == 1 and "incomplete (0): run abc fills it" in out
    assert out.splitlines()[-1] == "mllm-probe run -m data.seed=0,2 model=mini"
    change(multirun, 0, state="pending")
    assert states(multirun) == ["incomplete", "done", "lost"], "earlier releases called it pending"


def test_a_job_of_another_sweep_in_the_same_folder_is_none_of_this_one(multirun: MultirunPaths, probe: Run) -> None:
    """Also where its number fits: jobs are known by their overrides."""
    change(multirun, 0, state="done", ended=now(), overrides=["data.seed=7", "model=mini"])
    change(multirun, 1, state="done", ended=now())
    assert states(multirun) == ["lost", "done", "lost"]
    code, out, _ = probe("status", "sweep")
    assert code == 1 and "data.seed=7" not in out and "3 jobs: 1 done, 2 lost" in out


@pytest.fixture
def queue(multirun: MultirunPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a squeue lists in which these jobs are 24_0, 24_1 and 24_2; it fails where there is no such file."""
    asked = read(Asked, multirun.asked)
    assert asked is not None
    write(replace(asked, launcher="slurm", names=["24_0", "24_1", "24_2"]), multirun.asked)
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\nexec cat {tmp_path}/queue\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path / "queue"


def test_slurm_has_the_last_word_where_it_can_be_asked(multirun: MultirunPaths, queue: Path) -> None:
    """Where it cannot, heartbeats decide."""
    for number in range(2):
        change(multirun, number, slurm=f"24_{number}", host="node1", beat=LONG_AGO)
    queue.write_text("24_1|RUNNING|None\n24_2|PENDING|Priority\n")
    assert states(multirun) == ["lost", "running", "pending"]
    queue.write_text("24_0|PENDING|BeginTime\n24_1|RUNNING|None\n")
    assert states(multirun) == ["pending", "running", "lost"]
    queue.unlink()
    assert states(multirun) == ["lost", "lost", "pending"]


def test_a_job_that_slurm_can_never_start_is_blocked(multirun: MultirunPaths, queue: Path, probe: Run) -> None:
    change(multirun, 0, state="done", ended=now(), slurm="24_0")
    RunPaths(multirun.root / "1").status.unlink()
    queue.write_text("24_1|PENDING|PartitionTimeLimit\n24_2|PENDING|Resources\n")
    jobs = standing.standings(multirun.root)
    assert [job.state for job in jobs] == ["done", "blocked", "pending"] and jobs[1].over and not jobs[2].over
    code, out, _ = probe("status", "sweep")
    assert code == 1 and "run them again" not in out, "the same command would be blocked again"
    assert "SLURM never starts it (PartitionTimeLimit): `scancel` it, and change hydra.launcher.timeout_min" in out
    assert "pending (2): SLURM's reason is Resources" in out
    assert left(multirun.root) == (
        "stopped waiting; the jobs 24_2 continue: `scancel 24` ends them, `mllm-probe status "
        f"{multirun.root}` shows their progress"
    ), "an array that has ended needs no scancel"


def test_a_job_that_never_began_names_its_log(multirun: MultirunPaths, queue: Path, probe: Run) -> None:
    RunPaths(multirun.root / "1").status.unlink()
    queue.write_text("24_0|RUNNING|None\n")
    multirun.log("24_1").parent.mkdir(parents=True)
    multirun.log("24_1").write_text("ModuleNotFoundError")
    why = [job.why for job in standing.standings(multirun.root)]
    assert why[1] == f"SLURM has no job 24_1 any more, and it never started; its log is {multirun.log('24_1')}"
    assert why[2] == "SLURM has no job 24_2 any more, and it never started"


def test_status_says_which_jobs_ran_other_code(multirun: MultirunPaths, probe: Run) -> None:
    asked = read(Asked, multirun.asked)
    assert asked is not None
    write(replace(asked, code="1.0 (aa)"), multirun.asked)
    change(multirun, 0, code="1.0 (aa)")
    change(multirun, 1, code="1.0 (bb)")
    _, out, _ = probe("status", "sweep")
    assert "1 ran other code than when it was submitted: 1.0 (bb), 1.0 (aa)" in out and "0 ran other" not in out


VALUES = (("a", "'b, c'"), ("[1,2]", "[3]"), ("'it\\'s'", "{x:1,y:[2]}", "null"))


@pytest.mark.parametrize("mask", [1, 0b11, 0b101, 0b111000, 0b101101, 0b110111011101, 0b111111111111])
def test_the_commands_run_just_the_failed_jobs(mask: int, tmp_path: Path) -> None:
    """Hydra itself reads them, after a shell's splitting; values hold commas, quotes and brackets."""
    names = ("task.template", "layers.range", "+more")
    grid = [[f"{n}={v}" for n, v in zip(names, vs, strict=True)] for vs in itertools.product(*VALUES)]
    asked = Asked("run", "slurm", ["hydra/launcher=slurm"], grid, str(tmp_path))
    failed = [job for i, job in enumerate(grid) if mask >> i & 1]
    commands = again([standing.Standing("run", tuple(j), "failed", "", None, None, asked) for j in failed])
    found = [job for command in commands for job in swept(command, tmp_path)]
    assert sorted(found) == sorted(failed)
    assert len(commands) < max(2, len(failed))


def swept(command: str, folder: Path) -> Sequence[list[str]]:
    words = shlex.split(command)
    assert words[:7] == ["cd", str(folder), "&&", "mllm-probe", "run", "-m", "hydra/launcher=slurm"]
    [jobs] = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words[7:]), None)
    return jobs


def test_limits_that_no_job_survives_are_refused() -> None:
    check_limits(240, 120, 5)
    check_limits(4, 120, 1)
    check_limits(11, 120, 0)
    with pytest.raises(ConfigError, match=r"timeout_min=3 leaves no time to work: .* allow 4 or more"):
        check_limits(3, 120, 5)
    with pytest.raises(ConfigError, match=r"timeout_min=10 with hydra.launcher.max_num_timeout=0"):
        check_limits(10, 120, 0)


def test_a_refused_limit_ends_the_command(probe: Run, tmp_path: Path) -> None:
    code, _, err = probe("run", "-m", "data.seed=0,1", "hydra/launcher=slurm", "hydra.launcher.timeout_min=2")
    assert code == 1 and err.startswith("mllm-probe: hydra.launcher.timeout_min=2 leaves no time")
    assert not list(tmp_path.iterdir())


def test_without_submitit_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['hydra_plugins'] = None; from mllm_probe.cli.entry import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "run", "-m", "hydra/launcher=slurm", "data.seed=0,1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().endswith("need submitit: pip install 'mllm-probe[slurm]'")


def test_status_of_nothing_is_one_sentence(probe: Run) -> None:
    code, _, err = probe("status", "nowhere")
    assert code == 1 and "mllm-probe: nowhere does not exist; name the folder of a multirun" in err


def test_a_pipe_is_no_record_and_keeps_nobody_waiting(probe: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "status.json")
    code, _, err = probe("status", ".")
    assert code == 1 and "status.json is damaged" in err


def test_status_imports_neither_torch_nor_hydra(multirun: MultirunPaths) -> None:
    code = (
        "import sys; from mllm_probe.cli import entry as cli\n"
        f"try: cli.main(['status', {str(multirun.root)!r}])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'hydra', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
