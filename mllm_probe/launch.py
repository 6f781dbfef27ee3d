"""One job from its settings to its results, as the command line and the Python interface start it.

Knows which stage a command is and that a job with a folder of its own keeps a status.json in it; where the settings
come from, and what is done about an error, is for the caller.
"""

import os
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.paths import RunPaths
from mllm_probe.verbosity import VERBOSE, verbosity

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mllm_probe.jobs import Job
    from mllm_probe.protocols import Reporter


def limit_threads() -> None:
    """One thread unless the user or the SLURM allotment says more; read by BLAS and torch when they are imported.

    Two threads beside one busy core make the same forward pass some twenty times slower, so the cautious number is
    the default.
    """
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))


def job_name(command: str) -> str:
    """What its Hydra job, its primary YAML, its schema and its stage are called."""
    return command.replace(" ", "_")


def perform(command: str, config: "DictConfig", here: "DictConfig") -> Path:
    """Do the job in the folder that Hydra has made for it, and say which that is; `here` is Hydra's own part of the
    settings. Errors pass through."""
    from mllm_probe.config import typed
    from mllm_probe.report.heartbeat import Heartbeat
    from mllm_probe.report.progress import RichReporter
    from mllm_probe.sentences import reason

    job, paths = job_name(command), RunPaths(Path(here.runtime.output_dir))
    with RichReporter() as bars:
        if verbosity() == VERBOSE:
            bars.note(f"{command} writes to {paths.root}")
        if here.output_subdir is None:
            _dispatch(job, typed(config, job), paths, bars)
        else:
            with Heartbeat(bars, paths.status, _first(command, here), partial(reason, command)) as reporter:
                _dispatch(job, typed(config, job), paths, reporter)
    return paths.root


def _first(command: str, here: "DictConfig") -> "Job":
    from omegaconf import OmegaConf

    from mllm_probe.jobs import Job

    number = OmegaConf.select(here, "job.num")  # missing in a run of its own
    return Job(command, list(here.overrides.task), number)


def _dispatch(job: str, settings: Any, paths: RunPaths, reporter: "Reporter") -> None:
    if job == "report":
        from mllm_probe.stages.report import report

        report(settings, reporter)
        return
    getattr(import_module(f"mllm_probe.stages.{job}"), job)(settings, paths, reporter)
