"""The command line: takes the command off the front of the arguments and hands the rest to Hydra.

The only file that calls hydra.main, and where an error ends as one sentence and exit code 1. Nothing heavy is
imported before a command is known: `mllm-probe --help` and every Tab press must be quick.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mllm_probe.jobs import Job

COMMANDS = {
    "run": "extract activations, sweep probes over them, print and draw the result",
    "extract": "only fill the cache",
    "sweep": "only fit and score probes on a filled cache",
    "report": "print and draw a finished run again: report run=FOLDER",
    "geometry": "compare the layers of a filled cache with each other",
    "status": "how the jobs of a multirun stand, and the command that runs the failed ones again",
    "cache": "list, verify, prune and compare caches",
    "list": "models, tasks, datasets, probes, layers, experiments or launchers to choose from",
    "doctor": "what this machine has for a run, and the command that mends what it lacks",
}
# {command: module of tools}; all others are Hydra jobs, modules of stages with their names
PLAIN = {"status": "status", "cache": "cache", "list": "catalogue", "doctor": "doctor"}
USAGE = """mllm-probe: which layers of a multimodal language model hold global meaning, and which local

usage: mllm-probe COMMAND [GROUP=OPTION ...] [key=value ...] [-m]

commands:
{commands}

examples:
  mllm-probe run                                      the bundled model on drawn scenes, offline
  mllm-probe run model=llava task=objects dataset=coco dataset.root=COCO
  mllm-probe run -m task=entailment,objects           a sweep: every combination is a run
  mllm-probe run -m hydra/launcher=slurm model=...    the same on a cluster
  mllm-probe status outputs/multirun/DATE/TIME        how its jobs stand
  mllm-probe list models                              what there is to choose from
  mllm-probe doctor                                   is everything in place?
  mllm-probe cache ls                                 what lies in outputs/cache, and how large it is
  mllm-probe COMMAND --help                           its groups and settings
  eval "$(mllm-probe run -sc install=bash)"           tab completion (bash; zsh and fish alike)
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The console script. Exits 0, 1 (an error of the run) or 2 (no such command)."""
    args = list(sys.argv[1:] if argv is None else argv)
    if "COMP_LINE" in os.environ and any(arg.startswith("query=") for arg in args):
        args = _completion(args)
    if not args or args[0] in ("-h", "--help"):
        print(USAGE.format(commands="\n".join(f"  {name:9}{what}" for name, what in COMMANDS.items())))
        sys.exit(0 if args else 2)
    if args[0] == "--version":
        from mllm_probe import __version__

        print(f"mllm-probe {__version__}")
        sys.exit(0)
    if args[0] not in COMMANDS:
        hint = "; flags go after the command" if args[0].startswith("-") else ""
        print(f"'{args[0]}' is no command{hint}; choose one of: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    if args[0] in PLAIN:
        _run_plain(args[0], args[1:])
    else:
        _run_hydra(args[0], args[1:])


def _completion(args: list[str]) -> list[str]:
    """Command names while the first word is typed; then Hydra's own completion, the command taken out of the line;
    plain commands are none of Hydra's and may have subcommands instead."""
    words = os.environ["COMP_LINE"].split(" ")
    typed = words[1] if len(words) > 1 else ""
    if len(words) <= 2 or typed not in COMMANDS:
        print("\n".join(name for name in COMMANDS if name.startswith(typed)))
        sys.exit(0)
    if typed in PLAIN:
        below = getattr(_plain(typed), "COMMANDS", ())
        print("\n".join(name for name in below if len(words) == 3 and name.startswith(words[2])))
        sys.exit(0)
    os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
    if "COMP_POINT" in os.environ:
        os.environ["COMP_POINT"] = str(max(0, int(os.environ["COMP_POINT"]) - len(typed) - 1))
    return [typed, *args]


def _limit_threads() -> None:
    """One thread unless the user or the SLURM allotment says more; read by BLAS and torch when they are imported.

    Two threads beside one busy core make the same forward pass some twenty times slower, so the cautious number is
    the default.
    """
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))


def _plain(command: str) -> Any:
    return import_module(f"mllm_probe.tools.{PLAIN[command]}")


def _run_plain(command: str, args: list[str]) -> None:
    """A plain command: nothing is composed, so neither Hydra nor torch is imported."""
    from mllm_probe.errors import MllmProbeError
    from mllm_probe.sentences import cannot_use

    try:
        _plain(command).run(args)
        sys.stdout.flush()  # here, where a closed pipe is still expected
    except BrokenPipeError:
        _leave_pipe()
    except (MllmProbeError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR"):  # what the other commands take for it, too
            raise
        _fail(cannot_use(error, "--outputs FOLDER") if isinstance(error, OSError) else str(error))
    except KeyboardInterrupt:
        _fail("stopped; the same command begins anew")


def _leave_pipe() -> None:
    """The reader, `head` for one, has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run_hydra(command: str, args: list[str]) -> None:
    _limit_threads()
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from mllm_probe.config import register_schemas
    from mllm_probe.errors import MllmProbeError
    from mllm_probe.multirun import Multirun, left, told
    from mllm_probe.paths import config_dir
    from mllm_probe.sentences import sentence

    register_schemas()
    Multirun.folder = None
    wants_trace = bool(os.environ.get("HYDRA_FULL_ERROR"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and the sentences below are ours
    sys.argv = [f"mllm-probe {command}", *args]
    failed: list[str] = []
    began: list[str] = []
    task = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=command)(
        _task(command, failed, began, wants_trace)
    )
    try:
        task()
        if failed:
            _fail("\nmllm-probe: ".join(failed))
    except BrokenPipeError:
        _leave_pipe()
    except (MllmProbeError, HydraException, OmegaConfBaseException, OSError) as error:
        if wants_trace:
            raise
        _fail(told(Multirun.folder) or sentence(command, error))
    except KeyboardInterrupt:
        _fail(left(Multirun.folder) or "stopped; finished shards are kept, and the same command goes on behind them")
    except Exception as error:
        if began or wants_trace:  # a fault of ours, not of the composition: it deserves its traceback
            raise
        _fail(told(Multirun.folder) or sentence(command, error))


def _task(command: str, failed: list[str], began: list[str], wants_trace: bool) -> Any:
    """The function Hydra calls for every job. In this process a failed job is noted and the next one runs;
    elsewhere (other launchers) its error must travel back as an exception."""

    def task(config: "DictConfig") -> None:
        from hydra.core.hydra_config import HydraConfig

        from mllm_probe.errors import MllmProbeError
        from mllm_probe.sentences import sentence

        here = HydraConfig.get()
        began.append(here.job.override_dirname)
        away = not str(here.launcher._target_).endswith("BasicLauncher")
        try:
            _job(command, config, here)
        except (MllmProbeError, OSError) as error:
            if wants_trace or away:
                raise
            swept, why = here.mode is not None and here.mode.name == "MULTIRUN", sentence(command, error)
            failed.append(f"{here.job.override_dirname}: {why}" if swept else why)
        except Exception:
            if away:  # what travels back is the exception without its traceback
                traceback.print_exc()
            raise

    task.__name__ = task.__qualname__ = command
    return task


def _job(command: str, config: "DictConfig", here: "DictConfig") -> None:
    """One job from its settings to its results; those with a folder of their own keep a status.json in it."""
    from mllm_probe.config import typed
    from mllm_probe.paths import RunPaths
    from mllm_probe.report.heartbeat import Heartbeat
    from mllm_probe.report.progress import RichReporter
    from mllm_probe.sentences import reason

    paths = RunPaths(Path(here.runtime.output_dir))
    with RichReporter() as bars:
        if here.output_subdir is None:
            _dispatch(command, typed(config, command), paths, bars)
            return
        with Heartbeat(bars, paths.status, _first(command, here), partial(reason, command)) as reporter:
            _dispatch(command, typed(config, command), paths, reporter)


def _first(command: str, here: "DictConfig") -> "Job":
    from omegaconf import OmegaConf

    from mllm_probe.jobs import Job

    number = OmegaConf.select(here, "job.num")  # missing in a run of its own
    return Job(command, list(here.overrides.task), number)


def _dispatch(command: str, settings: Any, paths: Any, reporter: Any) -> None:
    if command == "report":
        from mllm_probe.stages.report import report

        report(settings, reporter)
        return
    getattr(import_module(f"mllm_probe.stages.{command}"), command)(settings, paths, reporter)


def _fail(sentence: str) -> NoReturn:
    print(f"mllm-probe: {sentence}", file=sys.stderr)
    sys.exit(1)
