"""Hydra's launchers `slurm` and `local`: send jobs to SLURM's queue, or to separate processes, and wait for them.

The settings of every job are composed and kept when it is sent; nothing is composed where it runs. How a job ended is
its own word (status.json), so that one that fails or is cancelled ends nothing but itself. Knows no stage.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf, LocalQueueConf, SlurmQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import DictConfig, open_dict

from mllm_probe.config.sentences import reason
from mllm_probe.files.job_states import PATIENCE, standings
from mllm_probe.files.jobs import DONE, Asked, Job, code_here, read, write
from mllm_probe.files.paths import MultirunPaths, RunPaths

PLACE = "hydra_plugins.mllm_probe"  # Hydra takes launchers from this package only
OFTEN, SELDOM = 1.0, 15.0  # seconds between two looks at the jobs, at first and later
ENDING = 30.0  # seconds for a process to end
MENDS = (  # (what sbatch says, settings of hydra.launcher)
    ("account", "account"),
    ("qos", "qos"),
    ("partition", "partition"),
    ("gres", "gpus_per_node or gres"),
    ("memory", "mem_gb"),
    ("time limit", "timeout_min"),
    ("feature", "constraint"),
    ("cpu count", "cpus_per_task"),
    ("node configuration", "mem_gb, cpus_per_task, gpus_per_node or constraint"),
    ("node count", "partition or cpus_per_task"),
)


@dataclass
class SlurmSettings(SlurmQueueConf):  # type: ignore[misc]
    """submitit's, and how many jobs of the sweep one task of the queue runs, one behind the other."""

    _target_: str = f"{PLACE}.SlurmLauncher"
    jobs_per_task: int = 1


@dataclass
class LocalSettings(LocalQueueConf):  # type: ignore[misc]
    """The same for processes of this machine."""

    _target_: str = f"{PLACE}.LocalLauncher"
    jobs_per_task: int = 1


def register() -> None:
    """Make Hydra take ours where submitit's launchers are named."""
    plugins = Plugins.instance()  # looks for plugins the first time, and submitit's then name their own settings
    for name, settings, launcher in (
        ("submitit_slurm", SlurmSettings, SlurmLauncher),
        ("submitit_local", LocalSettings, LocalLauncher),
    ):
        ConfigStore.instance().store(group="hydra/launcher", name=name, node=settings)
        plugins.class_name_to_class[settings._target_] = launcher


class _Launcher(BaseSubmititLauncher):  # type: ignore[misc]
    """What both have in common."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Send the jobs away and wait; their own failures are told by status.json, not by what is returned."""
        folder = Path(self.config.hydra.sweep.dir)
        jobs = [self._frozen(list(job), initial_job_idx + i) for i, job in enumerate(job_overrides)]
        asked = _asked(folder)
        if len(asked.jobs) == initial_job_idx:  # of a sweeper that chooses as it goes
            asked = replace(asked, jobs=[*asked.jobs, *map(list, job_overrides)])
            write(asked, MultirunPaths(folder).asked)
        if not asked.refused:
            size = self.params["jobs_per_task"]
            sent = self._send([jobs[i : i + size] for i in range(0, len(jobs), size)], folder)
            self._wait(sent, folder, slice(initial_job_idx, initial_job_idx + len(jobs)))
        return [JobReturn(status=JobStatus.COMPLETED) for _ in jobs]

    def __call__(self, jobs: Sequence[DictConfig], code: str, state: Mapping[type, Any]) -> None:
        """In a process of its own: these jobs, one behind the other, but those that an earlier start of it has done."""
        Singleton.set_state(state)
        setup_globals()
        signal.signal(signal.SIGINT, _stop_once)
        os.chdir(self.config.hydra.runtime.cwd)
        if code != code_here():
            print(f"the code has changed since the job was submitted: from {code} to {code_here()}", file=sys.stderr)
        for config in jobs:
            folder = Path(config.hydra.sweep.dir) / str(config.hydra.sweep.subdir)
            before = read(Job, RunPaths(folder).status)
            if before is None or before.state != DONE:
                self._run(config)

    def _run(self, config: DictConfig) -> None:
        places = {"job_dir_key": "hydra.sweep.dir", "job_subdir_key": "hydra.sweep.subdir"}
        done = run_job(hydra_context=self.hydra_context, task_function=self.task_function, config=config, **places)
        if done.status == JobStatus.FAILED:
            print(f"mllm-probe: {reason(config.hydra.job.name, done._return_value)}", file=sys.stderr)

    def _frozen(self, overrides: list[str], number: int) -> DictConfig:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
        with open_dict(config.hydra.job):
            config.hydra.job.num, config.hydra.job.id = number, f"job_{number}"
        return config

    def _send(self, tasks: Sequence[Sequence[DictConfig]], folder: Path) -> list[Any]:
        """What submitit has sent, piece by piece until one is refused; multirun.json tells both."""
        import submitit

        sent: list[Any] = []
        for piece in self._pieces(tasks):
            asked, shared = _asked(folder), [[code_here()] * len(piece), [Singleton.get_state()] * len(piece)]
            try:
                new = self._executor(sent).map_array(self, piece, *shared)
            except submitit.core.utils.FailedJobError as error:
                write(replace(asked, refused=refusal(str(error))), MultirunPaths(folder).asked)
                break
            sent += new
            names = [job.job_id for job, jobs in zip(new, piece, strict=True) for _ in jobs]
            write(replace(asked, names=[*asked.names, *names]), MultirunPaths(folder).asked)
        return sent

    def _executor(self, sent: Sequence[Any]) -> Any:
        """submitit's, with our settings."""
        import submitit

        shared, own = {field.name for field in fields(BaseQueueConf)}, f"{self._EXECUTOR}_"
        given = {name if name in shared else own + name: value for name, value in self._settings(sent).items()}
        made = {name: given.pop(name) for name in (own + "max_num_timeout",) if name in given}
        executor = submitit.AutoExecutor(folder=given.pop("submitit_folder"), cluster=self._EXECUTOR, **made)
        executor.update_parameters(**given)
        return executor

    def _settings(self, sent: Sequence[Any]) -> dict[str, Any]:
        """For submitit; `sent`: the pieces before this one."""
        return {name: value for name, value in self.params.items() if name != "jobs_per_task"}

    def _pieces(self, tasks: Sequence[Any]) -> list[Sequence[Any]]:
        return [tasks]

    def _wait(self, sent: Sequence[Any], folder: Path, mine: slice) -> None:
        """Until all jobs are over: by their own word, or as two looks have found."""
        pause, over = OFTEN, False
        while True:
            self._reap(sent)
            jobs = standings(folder)[mine]
            before, over = over, all(job.over for job in jobs)
            if over and (before or all(job.job and job.job.ended for job in jobs)):
                return
            time.sleep(pause)
            pause = min(SELDOM, 1.1 * pause)

    def _reap(self, sent: Sequence[Any]) -> None:
        """Take note of processes that have ended."""


class SlurmLauncher(_Launcher):
    _EXECUTOR = "slurm"

    def _pieces(self, tasks: Sequence[Any]) -> list[Sequence[Any]]:
        """As large as the cluster takes an array."""
        size = array_limit() or len(tasks)
        return [tasks[i : i + size] for i in range(0, len(tasks), size)]

    def _settings(self, sent: Sequence[Any]) -> dict[str, Any]:
        """A later piece begins behind the one before, so that array_parallelism holds for all of them together."""
        found = super()._settings(sent)
        if sent:
            more = dict(found["additional_parameters"])
            behind = f"afterany:{sent[-1].job_id.partition('_')[0]}"
            more["dependency"] = f"{more['dependency']},{behind}" if "dependency" in more else behind
            found["additional_parameters"] = more
        return found


class LocalLauncher(_Launcher):
    _EXECUTOR = "local"

    def _wait(self, sent: Sequence[Any], folder: Path, mine: slice) -> None:
        """Whoever stops the waiting stops the jobs."""
        try:
            super()._wait(sent, folder, mine)
        except KeyboardInterrupt:
            self._stop(folder)
            raise
        finally:
            self._end(sent)

    def _stop(self, folder: Path) -> None:
        """The jobs themselves, which then say so; submitit's own way leaves them a second."""
        for path in MultirunPaths(folder).statuses():
            if (job := read(Job, path)) and not job.ended:
                with suppress(ProcessLookupError):
                    os.kill(job.pid, signal.SIGINT)

    def _end(self, sent: Sequence[Any]) -> None:
        """Processes that are over but for their exit get the time for it; those that have not begun are ended."""
        end = time.monotonic() + ENDING
        while time.monotonic() < end and not all(job.done() for job in sent):
            time.sleep(OFTEN / 10)
        for job in sent:
            job.cancel()

    def _reap(self, sent: Sequence[Any]) -> None:
        for job in sent:
            job.done()


def array_limit() -> int | None:
    """How many tasks SLURM takes in one array; None where it does not say."""
    try:
        said = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=PATIENCE).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"^MaxArraySize\s*=\s*([1-9]\d*)", said, re.MULTILINE)
    return int(found[1]) if found else None


def refusal(said: str) -> str:
    """What sbatch said, in one sentence with the settings that fix it."""
    lines = re.findall(r"sbatch: (?:error|fatal): (.+)", said) or said.strip().splitlines()[-1:]
    why = lines[-1].removeprefix("Batch job submission failed: ")
    low = " ".join(lines).lower()
    setting = next((setting for word, setting in MENDS if word in low), None)
    fix = f"change hydra.launcher.{setting}" if setting else "docs/cluster.md lists the settings of hydra.launcher"
    return f"sbatch refused the jobs ({why}); {fix}, and `sinfo -o '%P %l %c %m %G'` shows what there is"


def _asked(folder: Path) -> Asked:
    found = read(Asked, MultirunPaths(folder).asked)
    assert found is not None, "multirun.json is there when the jobs are launched"
    return found


def _stop_once(number: int, frame: object) -> None:
    """A second Ctrl-C must not disturb how the job says that it was stopped."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
