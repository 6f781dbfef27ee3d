"""The command line: takes the command, one word or two, off the front of the arguments and hands the rest to Hydra.

The only file that calls hydra.main, and where an error ends as one sentence and exit code 1. Nothing heavy is
imported before a command is known: `mllm-probe --help` and every Tab press must be quick.
"""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mllm_probe.cli.perform import job_name, perform, set_up_process, stop_as_ctrl_c
from mllm_probe.config.sentences import kept, quoted
from mllm_probe.config.verbosity import QUIET, VARIABLE, VERBOSE, verbosity
from mllm_probe.errors import MllmProbeError, behind

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMANDS = {
    "run": "extract activations, sweep probes over them, print and draw the result",
    "extract": "only fill the cache",
    "sweep": "only fit and score probes on a filled cache",
    "report": "print and draw a finished run again: report FOLDER",
    "compare": "finished runs side by side: one CSV, a figure and a ranking a task",
    "geometry": "compare the layers of a filled cache with each other",
    "fidelity": "what quantisation, or an adapter, changes in the layers and their probes",
    "intervene": "is it used? cut, patch, steer or erase, layer by layer, and see what the answers do",
    "lens": "the words that single picture tokens stand for, layer by layer, judged by what lies there",
    "align": "how well pictures and captions match, layer by layer: retrieval, documents, quadruples",
    "tune": "train a connector, or adapters of the language model",
    "check": "how a run would read your table of questions, or a folder in COCO's layout; loads no weights",
    "inspect": "show what the model will read, and where: pictures, prompts, tokens, labels; loads no weights",
    "vision score": "how well vision encoders suit a multimodal model: A score, C score and others",
    "vision fit": "how well A and C scores of vision representations explain benchmarks",
    "vision policy": "which vision representations to train next, and how well that finds the best",
    "status": "state of the jobs of a multirun, and the command that repeats failed ones",
    "cache": "list, verify, prune and compare caches",
    "list": "the models, tasks, datasets, probes, experiments, launchers and more to choose from",
    "doctor": "is this machine ready for a run? and the commands that fix what is missing",
}
# {command: its module}; all others are Hydra jobs, see perform.job_name
PLAIN = {name: f"commands.{name}" for name in ("check", "compare", "status", "cache", "list", "doctor")}
LONGEST = 4000  # letters of an error on the screen
FLAGS = f"--{QUIET}", f"--{VERBOSE}"
USAGE = """usage: mllm-probe {command} [GROUP=OPTION ...] [key=value ...] [-m] [--quiet | --verbose]

commands:
{commands}

--quiet prints only results and, as the last line, their folder on stdout, and errors on stderr;
--verbose prints more, with times.
"""
ABOUT = "mllm-probe: find which layers of a multimodal language model hold global meaning, and which local\n"
EXAMPLES = """
examples:
  mllm-probe inspect task=objects                     what the model will read, before anything is computed
  mllm-probe run                                      both questions to the bundled model, on drawn scenes, offline
  mllm-probe run model=llava task=objects dataset=coco dataset.root=COCO
  mllm-probe run -m task=entailment,objects           a sweep: every combination is a run
  mllm-probe compare outputs/multirun/DATE/TIME       the runs of a sweep side by side
  mllm-probe run -m hydra/launcher=slurm model=...    the same on a cluster
  mllm-probe status outputs/multirun/DATE/TIME        state of its jobs
  mllm-probe list models                              the models to choose from
  mllm-probe doctor                                   is this machine ready for a run?
  mllm-probe cache ls                                 what is in outputs/cache, and its size
  mllm-probe COMMAND --help                           its groups and settings: meaning and allowed values
  eval "$(mllm-probe run -sc install=bash)"           tab completion (bash; also zsh and fish)
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The console script. Exits 0, 1 (an error of the run) or 2 (no such command)."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not sys.warnoptions:  # what libraries warn their programmers of; python -W shows it
        warnings.simplefilter("ignore")
    stop_as_ctrl_c()
    if "COMP_LINE" in os.environ and any(arg.startswith("query=") for arg in args):
        args = _completion(args)
    if args[:1] == ["--version"]:
        from mllm_probe import __version__

        print(f"mllm-probe {__version__}")
        sys.exit(0)
    command, rest = _command(_told_how_much(args))
    if command in PLAIN:
        _run_plain(PLAIN[command], rest)
    elif {"-h", "--help"}.isdisjoint(rest):
        _run_hydra(command, as_settings(command, rest))
    else:
        _run_plain("cli.help", [command, *rest])


def as_settings(command: str, words: list[str]) -> list[str]:
    """The arguments with what `report` takes as `status` and `compare` take it, a bare folder, as a setting."""
    if command != "report":
        return words
    bare = [not word.startswith("-") and ("=" not in word or Path(word).is_dir()) for word in words]
    return [f"run={quoted(word)}" if alone else word for word, alone in zip(words, bare, strict=True)]


def _told_how_much(args: list[str]) -> list[str]:
    """The arguments without --quiet and --verbose, which are set for this process and those it starts."""
    for flag in FLAGS:
        if flag in args:
            os.environ[VARIABLE] = flag.removeprefix("--")
    try:
        verbosity()
    except MllmProbeError as error:
        _fail(str(error))
    return [arg for arg in args if arg not in FLAGS]


def _command(args: list[str]) -> tuple[str, list[str]]:
    """The command that the arguments begin with, and the arguments behind it. Exits where they name none."""
    words = 2 if args and _next_words(args[:1]) else 1
    name = " ".join(args[:words])
    if name in COMMANDS:
        return name, args[words:]
    if len(args) < words or args[words - 1] in ("-h", "--help"):
        print(_usage(args[: words - 1]))
        sys.exit(2 if len(args) < words else 0)
    hint = "; flags go after the command" if args[words - 1].startswith("-") else ""
    print(f"'{name}' is no command{hint}; choose one of: {', '.join(_next_words(args[: words - 1]))}", file=sys.stderr)
    sys.exit(2)


def _next_words(words: Sequence[str]) -> list[str]:
    """What may follow the first words of a command."""
    named = [name.split() for name in COMMANDS]
    return list(dict.fromkeys(name[len(words)] for name in named if name[:-1][: len(words)] == list(words)))


def _usage(words: Sequence[str]) -> str:
    """The help of all commands, or of those that begin with `words`."""
    below = {name: what for name, what in COMMANDS.items() if name.split()[: len(words)] == list(words)}
    listed = "\n".join(f"  {name:{max(map(len, below))}} {what}" for name, what in below.items())
    usage = USAGE.format(command=" ".join([*words, "COMMAND"]), commands=listed)
    return usage if words else f"{ABOUT}\n{usage}{EXAMPLES}"


def _completion(args: list[str]) -> list[str]:
    """Words of commands while these are typed, then what --help lists; for all else Hydra's own completion, the command
    taken out of the line. Plain commands are none of Hydra's and may have subcommands instead."""
    line = os.environ["COMP_LINE"]
    first, *done, typed = line.split(" ") if " " in line else ("", "")
    done = [word for word in done if word not in FLAGS]
    command = next((name for n in (1, 2) if (name := " ".join(done[:n])) in COMMANDS), "")
    if not command or command in PLAIN:
        plain = getattr(_tool(PLAIN[command]), "COMMANDS", ()) if done == [command] else ()
        print("\n".join(word for word in plain or _next_words(done) if word.startswith(typed)))
        sys.exit(0)
    words = command.split()
    from mllm_probe.cli.completion import completions

    if found := completions(command, done[len(words) :], typed):
        print("\n".join(found))
        sys.exit(0)
    os.environ["COMP_LINE"] = " ".join([first, *done[len(words) :], typed])
    if "COMP_POINT" in os.environ:
        gone = len(line) - len(os.environ["COMP_LINE"])
        os.environ["COMP_POINT"] = str(max(0, int(os.environ["COMP_POINT"]) - gone))
    return [*words, *args]


def _tool(name: str) -> Any:
    return import_module(f"mllm_probe.{name}")


def _run_plain(tool: str, args: list[str]) -> None:
    """A plain command, or help: nothing is composed, so neither Hydra nor torch is imported."""
    from mllm_probe.config.sentences import cannot_use

    try:
        _tool(tool).run(args)
        sys.stdout.flush()  # here, where a closed pipe is still expected
    except BrokenPipeError:
        _leave_pipe()
    except (MllmProbeError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR"):  # what the other commands take for it, too
            raise
        place = getattr(_tool(tool), "PLACE", "--outputs FOLDER")
        _fail(cannot_use(error, place) if isinstance(error, OSError) else str(error))
    except KeyboardInterrupt:
        _fail("stopped; the same command starts again")


def _leave_pipe() -> None:
    """The reader, `head` for one, has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _readable(args: list[str]) -> list[str]:
    from mllm_probe.config.compose import readable

    try:
        return readable(args)
    except MllmProbeError as error:
        _fail(str(error))


def _run_hydra(command: str, args: list[str]) -> None:
    set_up_process()
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from mllm_probe.cli.multirun import Multirun, composed_once, left, told
    from mllm_probe.config.schemas import register_schema
    from mllm_probe.config.sentences import sentence
    from mllm_probe.files.paths import config_dir

    register_schema(job_name(command))
    _register_launchers()
    Multirun.folder = None
    if verbosity() == QUIET:
        logging.getLogger("hydra").setLevel(logging.WARNING)  # which job it launches
    wants_trace = bool(os.environ.get("HYDRA_FULL_ERROR"))
    sys.argv = [f"mllm-probe {command}", *_readable(args)]
    failed: list[str] = []
    began: list[str] = []
    task = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=job_name(command))(
        _task(command, failed, began, wants_trace)
    )
    try:
        with _raising(), composed_once(sys.argv[1:], config_dir()):
            task()
        if bad := "\nmllm-probe: ".join(failed) or told(Multirun.folder):
            _fail(bad)
    except BrokenPipeError:
        _leave_pipe()
    except (MllmProbeError, HydraException, OmegaConfBaseException, OSError) as error:
        if wants_trace:
            raise
        _fail(told(Multirun.folder) or sentence(command, error))
    except KeyboardInterrupt:
        _fail(left(Multirun.folder) or f"stopped; {kept(command)}")
    except Exception as error:
        if began or wants_trace:  # a fault of ours, not of the composition: it deserves its traceback
            raise
        _fail(told(Multirun.folder) or sentence(command, error))


@contextmanager
def _raising() -> Iterator[None]:
    """Hydra raises, so that the sentences are ours. What this process starts later is told nothing of it."""
    before = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        os.environ.pop("HYDRA_FULL_ERROR")
        os.environ.update({} if before is None else {"HYDRA_FULL_ERROR": before})


def _register_launchers() -> None:
    with suppress(ImportError):  # submitit is an extra
        from mllm_probe.cli.launchers import register

        register()


def _task(command: str, failed: list[str], began: list[str], wants_trace: bool) -> Any:
    """The function Hydra calls for every job. In this process a failed job is noted and the next one runs;
    elsewhere (other launchers) its error must travel back as an exception."""

    def task(config: "DictConfig") -> None:
        from hydra.core.hydra_config import HydraConfig

        from mllm_probe.config.sentences import sentence

        here = HydraConfig.get()
        began.append(here.job.override_dirname)
        away = not str(here.launcher._target_).endswith("BasicLauncher")
        try:
            perform(command, config, here)
        except (MllmProbeError, OSError) as error:
            if wants_trace or away:
                raise
            swept, why = here.mode is not None and here.mode.name == "MULTIRUN", sentence(command, error)
            failed.append(behind(here.job.override_dirname, why) if swept else why)
        except Exception:
            if away:  # what travels back is the exception without its traceback
                traceback.print_exc()
            raise

    task.__name__ = task.__qualname__ = job_name(command)
    return task


def _fail(sentence: str) -> NoReturn:
    more = f" ... and {len(sentence) - LONGEST:,} letters more" if len(sentence) > LONGEST else ""
    print(f"mllm-probe: {sentence[:LONGEST]}{more}", file=sys.stderr)
    sys.exit(1)
