"""One job from its settings to its results, as the command line and the Python interface start it.

Knows which stage a command is and that a job with a folder of its own keeps a status.json in it; where the settings
come from, and what is done about an error, is for the caller.
"""

import gc
import os
import signal
import threading
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.config.verbosity import VERBOSE, name_folder, verbosity

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mllm_probe.files.jobs import Job
    from mllm_probe.files.paths import RunPaths
    from mllm_probe.records.protocols import Reporter

# {job: where its check_JOB is}, of jobs that refuse settings which others take
CHECKS = {
    "align": "sugar.request",
    "fidelity": "geometry.refusals",
    "geometry": "geometry.refusals",
    "intervene": "interventions.request",
    "lens": "spatial.lenses.request",
    "tune": "train.preparation",
}


def limit_threads() -> None:
    """One thread unless the user or the SLURM allotment says more; read by BLAS and torch when they are imported.

    Two threads beside one busy core make the same forward pass some twenty times slower, so the cautious number is
    the default.
    """
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))


def set_up_process() -> None:
    """For a process that is all ours. Python looks through all objects ten times less often: a million of them are the
    code of libraries, and such looks were a tenth of `inspect`. What must give its memory back is collected by hand."""
    limit_threads()
    gc.set_threshold(700, 10, 100)


def stop_as_ctrl_c() -> None:
    """Let the signals by which batch systems and closed terminals end a process end it as Ctrl-C does, in words."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop)


def job_name(command: str) -> str:
    """What its Hydra job, its primary YAML, its schema and its stage are called."""
    return command.replace(" ", "_")


def perform(command: str, config: "DictConfig", here: "DictConfig") -> Path:
    """Do the job in the folder that Hydra has made for it, and say which that is; `here` is Hydra's own part of the
    settings. Errors pass through."""
    from mllm_probe.cli.job_folder import Heartbeat, alone, leaving
    from mllm_probe.config.schemas import typed
    from mllm_probe.config.sentences import reason
    from mllm_probe.files.paths import RunPaths
    from mllm_probe.report.terminal.progress import RichReporter

    job, paths = job_name(command), RunPaths(Path(here.runtime.output_dir))
    words = words_of(here)
    os.chdir(here.runtime.cwd)  # where relative paths are meant from, whatever hydra.job.chdir and sbatch say
    with RichReporter() as bars:
        if verbosity() == VERBOSE:
            bars.note(f"{command} writes to {paths.root}")
        if here.output_subdir is None:
            _dispatch(job, typed(config, job, words), paths, bars)
        else:
            heart = Heartbeat(bars, paths.status, _first(command, here), partial(reason, command))
            left = leaving(heart, paths.root, here, Path(config.paths.outputs))
            with alone(paths.root), left, heart as reporter:
                _dispatch(job, typed(config, job, words), paths, reporter)
            name_folder(paths.root)
    return paths.root


def check(command: str, config: "DictConfig", words: Sequence[str]) -> Any:
    """The settings of a job, once what can be seen to be wrong in them alone is refused. Raises ConfigError."""
    from mllm_probe.config.run import RunConfig, local_side
    from mllm_probe.config.schemas import typed
    from mllm_probe.experiment.prepare import Design

    job = job_name(command)
    settings = typed(config, job, words)
    if job in CHECKS:
        getattr(import_module(f"mllm_probe.{CHECKS[job]}"), f"check_{job}")(settings)
    if isinstance(settings, RunConfig):
        Design.of(settings)
        if settings.local is not None:
            Design.of(local_side(settings))
    return settings


def _first(command: str, here: "DictConfig") -> "Job":
    from omegaconf import OmegaConf

    from mllm_probe.files.jobs import Job, code_here

    number = OmegaConf.select(here, "job.num")  # missing in a run of its own
    return Job(command, words_of(here), number, code=code_here())


def words_of(here: "DictConfig") -> list[str]:
    """The settings as they were typed: `${...}` in them is the job's own, and means nothing in Hydra's settings."""
    from omegaconf import OmegaConf

    words: list[str] = OmegaConf.to_container(here.overrides.task, resolve=False)  # type: ignore[assignment]
    return words


def _dispatch(job: str, settings: Any, paths: "RunPaths", reporter: "Reporter") -> None:
    if job == "report":
        from mllm_probe.commands.report import report

        report(settings, reporter)
        return
    getattr(import_module(f"mllm_probe.commands.{job}"), job)(settings, paths, reporter)
