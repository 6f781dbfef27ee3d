"""What the typed command does beside its jobs in a multirun: it notes what was asked for and says what became of it.

Hydra calls `Multirun` through `hydra.callbacks`. The jobs themselves may run in other processes, on other machines.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from mllm_probe.errors import ConfigError
from mllm_probe.jobs import DONE, Asked, read, submitted, write
from mllm_probe.paths import MultirunPaths
from mllm_probe.tools.listing import count
from mllm_probe.tools.standing import standings
from mllm_probe.verbosity import QUIET, verbosity

LAUNCHERS = {"BasicLauncher": "basic", "LocalLauncher": "local", "SlurmLauncher": "slurm"}
COUNTED = 10  # minutes; in jobs with no higher limit submitit takes every signal for a time-out
EARLY = 60  # seconds by which SLURM's warning may come before its time
NAMED = 5  # jobs that are named when the command ends
OWN = ("hydra.mode=", "hydra.sweep.dir=")  # what the command that runs jobs again must not share


class Multirun(Callback):  # type: ignore[misc]
    """Writes multirun.json before the first job. `folder`: that of the multirun that this process has begun, if any."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra makes warnings of exceptions raised here, so a refusal ends the process as the command line would."""
        launcher = config.hydra.launcher
        name = str(launcher._target_).rpartition(".")[2]
        asked = _asked(config, LAUNCHERS.get(name, name))
        if asked.launcher == "slurm":
            try:
                check_limits(launcher.timeout_min, launcher.signal_delay_s, launcher.max_num_timeout)
            except ConfigError as error:
                print(f"mllm-probe: {error}", file=sys.stderr)
                sys.exit(1)
            if not _accounted():
                print("sacct does not answer: this command would wait for a killed job for ever", file=sys.stderr)
        Multirun.folder = Path(config.hydra.sweep.dir)
        write(asked, MultirunPaths(Multirun.folder).asked)
        if asked.launcher != "basic" and verbosity() != QUIET:
            print(f"`mllm-probe status {Multirun.folder}` shows how the jobs get on", file=sys.stderr)


def check_limits(timeout_min: int, signal_delay_s: int, max_num_timeout: int) -> None:
    """Refuse a time limit that no job survives. Raises ConfigError."""
    least = (signal_delay_s + EARLY) // 60 + 1
    if timeout_min < least:
        raise ConfigError(
            f"hydra.launcher.timeout_min={timeout_min} leaves no time to work: SLURM warns a job {signal_delay_s} s "
            f"(hydra.launcher.signal_delay_s) before its limit, or up to {EARLY} s sooner; allow {least} or more"
        )
    if timeout_min <= COUNTED and max_num_timeout < 1:
        raise ConfigError(
            f"hydra.launcher.timeout_min={timeout_min} with hydra.launcher.max_num_timeout=0 ends a job that is "
            f"preempted, since up to {COUNTED} minutes every preemption counts as a time-out; allow 1 or more of them"
        )


def told(folder: Path | None) -> str | None:
    """Which of the jobs that were launched from here are not done; None where none was launched, or all are."""
    jobs = standings(folder) if folder and submitted(MultirunPaths(folder)) else []
    bad = [job for job in jobs if job.state != DONE]
    if not bad:
        return None
    named = [f"{' '.join(job.overrides)}: {job.why or job.state}" for job in bad[:NAMED]]
    rest = [f"and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
    said = f"{len(bad)} of {count(len(jobs), 'job')} not done; `mllm-probe status {folder}` says more"
    return "\n  ".join([said, *named, *rest])


def left(folder: Path | None) -> str | None:
    """What to do about jobs in a queue for which nobody waits any more; None where there are none."""
    if folder is None:
        return None
    asked, names = read(Asked, MultirunPaths(folder).asked), submitted(MultirunPaths(folder))
    if asked is None or asked.launcher != "slurm" or not names:
        return None
    arrays = dict.fromkeys(name.partition("_")[0] for name in names)
    return (
        f"stopped waiting; the jobs {', '.join(names)} go on: `scancel {' '.join(arrays)}` ends them, "
        f"`mllm-probe status {folder}` shows how they get on"
    )


def _asked(config: DictConfig, launcher: str) -> Asked:
    own = config.hydra
    folders = [source.path for source in own.runtime.config_sources if source.provider == "command-line"]
    options = [option for option in own.overrides.hydra if not option.startswith(OWN)]
    return Asked(
        command=own.job.config_name,
        launcher=launcher,
        options=[*(part for folder in folders for part in ("--config-dir", folder)), *options],
        jobs=_jobs(own),
        folder=own.runtime.cwd,
    )


def _jobs(own: DictConfig) -> list[list[str]]:
    """The overrides of every job, as Hydra's own sweeper will find them; another one chooses as it goes."""
    if not str(own.sweeper._target_).endswith("BasicSweeper"):
        return []
    given = [f"{name}={value}" for name, value in (own.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    [jobs] = BasicSweeper.split_arguments(parser.parse_overrides([*given, *own.overrides.task]), None)
    return jobs


def _accounted() -> bool:
    """Whether SLURM remembers jobs that have ended."""
    try:
        return subprocess.run(["sacct", "-n", "-X", "-j", "1"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
