"""The multirun command itself: it lists the requested jobs and reports how they ended.

Hydra calls `Multirun` through `hydra.callbacks`. The jobs themselves may run in other processes, on other machines.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from mllm_probe.cli.job_folder import keep, note_absent, note_before, remove_made, take_back
from mllm_probe.cli.perform import check, words_of
from mllm_probe.config.verbosity import QUIET, verbosity
from mllm_probe.errors import ConfigError, MllmProbeError, behind, count
from mllm_probe.files.job_states import BLOCKED, standings
from mllm_probe.files.jobs import DONE, Asked, code_here, read, write
from mllm_probe.files.model_names import namesakes
from mllm_probe.files.paths import MultirunPaths

LAUNCHERS = {"BasicLauncher": "basic", "LocalLauncher": "local", "SlurmLauncher": "slurm"}
COUNTED = 10  # minutes; in jobs with no higher limit submitit takes every signal for a time-out
EARLY = 60  # seconds by which SLURM's warning may come before its time
LEAST = {  # of settings of a launcher
    "array_parallelism": 1,
    "cpus_per_task": 1,
    "jobs_per_task": 1,
    "mem_gb": 1,
    "timeout_min": 1,
    "gpus_per_node": 0,
    "max_num_timeout": 0,
    "signal_delay_s": 0,
}
NAMED = 5  # jobs that are named when the command ends
MODE = re.compile(r"\b(mode|searchpath)\b")  # of settings that say how jobs run, or where more files are
OWN = ("hydra.mode=", "hydra.sweep.dir=")  # what the command that runs jobs again must not share


class Multirun(Callback):  # type: ignore[misc]
    """Writes multirun.json before the first job, and looks which folders Hydra will make for a job of its own.
    `folder`: that of the multirun that this process has begun, if any; `lock`: see job_folder.keep."""

    folder: ClassVar[Path | None] = None
    lock: ClassVar[int] = -1

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        note_absent(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra makes warnings of exceptions raised here, so a refusal ends the process as the command line would."""
        launcher = config.hydra.launcher
        name = str(launcher._target_).rpartition(".")[2]
        asked = _asked(config, LAUNCHERS.get(name, name))
        folder = Path(config.hydra.sweep.dir)
        try:
            if asked.launcher != "basic":
                check_launcher(launcher)
            _check_jobs(config, asked)
            known = _taken(folder, asked)
        except MllmProbeError as error:
            print(f"mllm-probe: {error}", file=sys.stderr)
            sys.exit(1)
        Multirun.folder = folder
        if verbosity() != QUIET:
            if known:
                print(
                    f"{folder} holds this sweep already; its jobs run again and continue where they can",
                    file=sys.stderr,
                )
            if asked.launcher != "basic":
                print(f"`mllm-probe status {shlex.quote(str(folder))}` shows the progress of the jobs", file=sys.stderr)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Where nothing was started nothing is left."""
        folder = Path(config.hydra.sweep.dir)
        asked = read(Asked, MultirunPaths(folder).asked)
        refused = asked.refused if asked and not asked.names else ""
        if refused:
            take_back(folder)
        os.close(Multirun.lock)
        if refused:
            print(f"mllm-probe: {refused}", file=sys.stderr)
            sys.exit(1)


def _taken(folder: Path, asked: Asked) -> bool:
    """Take the folder of a multirun for this process; whether it held the same one. Raises ConfigError."""
    known = check_folder(folder, asked)
    note_before(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        Multirun.lock = keep(folder)
    except ConfigError:
        remove_made()
        raise
    for status in MultirunPaths(folder).statuses():
        status.unlink()  # of the same jobs, which begin anew
    write(asked, MultirunPaths(folder).asked)
    return known


def check_launcher(launcher: Any) -> None:
    """Refuse settings of a launcher under which no job can end well. Raises ConfigError."""
    for name in ("nodes", "tasks_per_node"):
        if (value := launcher[name]) != 1:
            raise ConfigError(
                f"hydra.launcher.{name}={value} would start every job {value} times in one folder; set it to 1, and "
                "split one extraction with extract.shard and extract.num_shards"
            )
    for name, least in LEAST.items():
        if (value := launcher.get(name)) is not None and value < least:
            raise ConfigError(f"hydra.launcher.{name}={value} must be {least} or more")
    per_cpu, whole = launcher.get("mem_per_cpu"), launcher.get("mem_gb")
    if per_cpu and whole:
        raise ConfigError(
            f"hydra.launcher.mem_per_cpu={per_cpu} and hydra.launcher.mem_gb={whole} both set the memory of a job; "
            "with the first, set hydra.launcher.mem_gb=null"
        )
    if "signal_delay_s" in launcher:
        check_limits(launcher.timeout_min, launcher.signal_delay_s, launcher.max_num_timeout)


def check_folder(folder: Path, asked: Asked) -> bool:
    """Whether the folder of a multirun holds the same one already, with no job that still goes on.

    Raises ConfigError where it holds another one, or jobs that are not over.
    """
    paths = MultirunPaths(folder)
    if not paths.asked.exists() and not paths.statuses():
        return False
    before = read(Asked, paths.asked)
    if before is None or not asked.jobs or (before.command, before.jobs) != (asked.command, asked.jobs):
        raise ConfigError(f"hydra.sweep.dir={folder} holds the jobs of another sweep; name another folder")
    jobs = standings(folder)
    if going := [job for job in jobs if not job.over or job.state == BLOCKED]:
        arrays = dict.fromkeys(job.name.partition("_")[0] for job in going if job.name and asked.launcher == "slurm")
        end = f"end them with `scancel {' '.join(arrays)}`, " if arrays else ""
        raise ConfigError(
            f"hydra.sweep.dir={folder} holds this same sweep, and {len(going)} of its {count(len(jobs), 'job')} are "
            f"not finished; wait for them, {end}or name another folder"
        )
    return True


def _check_jobs(config: DictConfig, asked: Asked) -> None:
    """The settings of every combination, before the first of them is begun. Raises ConfigError, OSError."""
    loader = GlobalHydra.instance().config_loader()
    common = set.intersection(*map(set, asked.jobs)) if len(asked.jobs) > 1 else set()
    models = []
    places = []
    for number, overrides in enumerate(asked.jobs):
        try:
            job = loader.load_sweep_config(config, list(overrides))
            with open_dict(job):
                job.hydra.job.num = number
                places.append(str(job.hydra.sweep.subdir))
                del job["hydra"]
            settings = check(asked.command, job, overrides)
        except (MllmProbeError, HydraException, OmegaConfBaseException) as error:
            apart = " ".join(part for part in overrides if part not in common)
            from mllm_probe.config.sentences import sentence

            raise ConfigError(f"{behind(apart, sentence(asked.command, error))}; no job was started") from error
        if model := getattr(settings, "model", None):
            models.append((model.label, vars(model)))
    if len(set(places)) < len(places):
        raise ConfigError(
            f"hydra.sweep.subdir={places[0]} is one folder for several jobs; leave it out, or include "
            "${hydra.job.num}; no job was started"
        )
    if alike := namesakes(models):
        name, setting = alike
        raise ConfigError(
            f"models with different model.{setting} would all be called {name}; add "
            f"'model.name=${{model.{setting}}}', or run a separate command with a model.name for each; no job was "
            "started"
        )


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
    """Which of the jobs that were sent away from here are not done; None where none was, or all are."""
    asked = read(Asked, MultirunPaths(folder).asked) if folder else None
    if folder is None or asked is None or not (asked.names or asked.refused):
        return None
    if not asked.names:
        return asked.refused
    jobs = standings(folder)
    bad = [job for job in jobs if job.state != DONE]
    if not bad:
        return None
    named = [behind(" ".join(job.overrides), job.why or job.state) for job in bad[:NAMED]]
    rest = [f"and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
    where = shlex.quote(str(folder))
    said = f"{len(bad)} of {count(len(jobs), 'job')} not done; `mllm-probe status {where}` says more"
    return "\n  ".join([said, *named, *rest])


def left(folder: Path | None) -> str | None:
    """What to do about jobs in a queue for which nobody waits any more; None where there are none."""
    asked = read(Asked, MultirunPaths(folder).asked) if folder else None
    if folder is None or asked is None or asked.launcher != "slurm":
        return None
    names = list(dict.fromkeys(job.name for job in standings(folder) if job.name and not job.over))
    if not names:
        return None
    arrays = dict.fromkeys(name.partition("_")[0] for name in names)
    return (
        f"stopped waiting; the jobs {', '.join(names)} continue: `scancel {' '.join(arrays)}` ends them, "
        f"`mllm-probe status {shlex.quote(str(folder))}` shows their progress"
    )


@contextmanager
def composed_once(words: Sequence[str], folder: Path) -> Iterator[None]:
    """Hydra composes all settings a first time to read hydra.mode, which it need not where nothing can set it: neither
    the words of the command nor a file of the folder, which users may add to."""
    before = Hydra.get_mode
    if not _may_set_mode(words, folder):
        Hydra.get_mode = lambda *_, **__: None
    try:
        yield
    finally:
        Hydra.get_mode = before


def _may_set_mode(words: Sequence[str], folder: Path) -> bool:
    flags = {word for word in words if word.startswith("-")} - {"-m", "--multirun"}
    texts = chain(words, (file.read_text(encoding="utf-8") for file in folder.rglob("*.yaml")))
    return bool(flags) or any(MODE.search(text) for text in texts)


def _asked(config: DictConfig, launcher: str) -> Asked:
    own = config.hydra
    folders = [source.path for source in own.runtime.config_sources if source.provider == "command-line"]
    options = [option for option in own.overrides.hydra if not option.startswith(OWN)]
    return Asked(
        command=own.job.config_name.replace("_", " "),
        launcher=launcher,
        options=[*(part for folder in folders for part in ("--config-dir", folder)), *options],
        jobs=_jobs(own),
        folder=own.runtime.cwd,
        code=code_here(),
    )


def _jobs(own: DictConfig) -> list[list[str]]:
    """The overrides of every job, as Hydra's own sweeper will find them; another one chooses as it goes."""
    if not str(own.sweeper._target_).endswith("BasicSweeper"):
        return []
    given = [f"{name}={value}" for name, value in (own.sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    [jobs] = BasicSweeper.split_arguments(parser.parse_overrides([*given, *words_of(own)]), None)
    return jobs
