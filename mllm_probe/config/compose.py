"""The settings of a command, composed inside a process: what the command line would make of the same words."""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mllm_probe.config.schemas import register_schema, typed
from mllm_probe.config.sentences import quoted
from mllm_probe.errors import ConfigError
from mllm_probe.files.paths import config_dir

if TYPE_CHECKING:
    from omegaconf import DictConfig

T = TypeVar("T")
# What the names of settings that name a file or a folder end with; and what is quoted already, or Hydra's own
PATHS = ("path", "adapter", "root", "file", "outputs", "dir", "run", "probe_run", "regions_run", "table")
QUOTED = re.compile(r"""['"].*['"]$|[\[{].*[\]}]$|\w+\(.*\)$|.*\$\{""", re.DOTALL)
SEVERAL = ("features", "encoder", "experiment")  # groups of which several options may be named
MAPPINGS = ("task.labels", "extract.answers")  # settings that are names with names
EDGE = re.compile(r"(?<=[\[,])\s*([\w:]+->[\w:]+)\s*(?=[,\]])")  # in a list, an arrow from one span to another
STRUCTURE = "[]{}(),='\"`"  # of values that are more than a text


def composed(job: str, overrides: Sequence[str]) -> Any:
    """The config dataclass of a job such as `run` or `vision_score`. Raises ConfigError."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with _hydra(job):
            return typed(compose(job, readable(overrides)), job, overrides)
    except (HydraException, OmegaConfBaseException, TypeError, ValueError) as error:
        from mllm_probe.config.sentences import sentence

        raise ConfigError(sentence(job.replace("_", " "), error)) from error


def worked(job: str, overrides: Sequence[str], work: Callable[["DictConfig", "DictConfig"], T]) -> T:
    """What `work` makes of the settings and of Hydra's own part of them, with the folder that the command would make.

    Logging stays as the process has it. Raises ConfigError for the settings; errors of the work pass through.
    """
    from hydra.core.hydra_config import HydraConfig

    begun = False

    def task(config: "DictConfig") -> T:
        nonlocal begun
        begun = True
        return work(config, HydraConfig.get())

    try:
        with _hydra(job) as hydra:
            return hydra.run(job, task, readable(overrides), with_log_configuration=False).return_value
    except Exception as error:
        if begun:
            raise
        from mllm_probe.config.sentences import sentence

        raise ConfigError(sentence(job.replace("_", " "), error)) from error


def readable(words: Sequence[str]) -> list[str]:
    """The words of a command as Hydra's grammar takes them: settings that name files or folders are quoted, and ~ in
    them is the home folder. Raises ConfigError, with what to type, for other words that only quotes make readable."""
    sweeps = not {"-m", "--multirun"}.isdisjoint(words)
    for word in words:
        _check_group(_spelled(word))
    return [_path(word, sweeps) if _names_path(word) else _checked(_spelled(word)) for word in words]


def _check_group(word: str) -> None:
    """Raises ConfigError for what Hydra has no sentence for: a group without the name of an option, or taken out."""
    name, given, value = word.partition("=")
    group = name.lstrip("~+").partition("@")[0]
    if name.startswith("~") and "." not in name:
        raise ConfigError(f"'{group}' cannot be removed with ~; leave that word out")
    if name.startswith("hydra.") and given and not value.strip("'\" "):
        raise ConfigError(f"{name}='' must not be empty")
    options = sorted(path.stem for path in (config_dir() / group).glob("*.yaml")) if given and group else []
    read = _parsed(word) if options else None
    if read is None or read.is_sweep_override():
        return
    named = read.value() if isinstance(read.value(), list) and group in SEVERAL else [read.value()]
    if not named or not all(isinstance(one, str) for one in named):
        raise ConfigError(
            f"{word} must name an option, such as {name}={options[0]}; its settings have a dot, such as "
            "layers.range=[4,8]"
        )


def _spelled(word: str) -> str:
    """As Hydra spells it: a group that stands at another place, arrows in quotes, and names in braces as one text, in
    which its grammar takes few letters and 1 for true."""
    name, _, value = word.partition("=")
    if name == "test.dataset" and value.replace("_", "").isalnum() and value != "null":
        return f"dataset@{word}"
    if "->" in value:
        return EDGE.sub(r"'\1'", word)
    return f"{name}={quoted(value)}" if name in MAPPINGS and value[:1] + value[-1:] == "{}" else word


def _names_path(word: str) -> bool:
    name, given, value = word.partition("=")
    plain = given and value not in ("", "null") and not QUOTED.match(value)
    return bool(plain) and name.rpartition(".")[2] in PATHS


def _path(word: str, sweeps: bool) -> str:
    name, _, value = word.partition("=")
    several = sweeps and "," in value and not Path(value).expanduser().exists()
    return f"{name}={','.join(map(_text, value.split(',') if several else [value]))}"


def _text(value: str) -> str:
    """As typed where the grammar reads it as just that text, else quoted."""
    read = _parsed(f"a={value}")
    plain = read is not None and read.value() == value
    return value if plain and not value.startswith("~") else _quoted(value)


def _quoted(value: str) -> str:
    return quoted(str(Path(value).expanduser()) if value.startswith("~") else value)


def _checked(word: str) -> str:
    name, _, value = word.partition("=")
    if not value or word.startswith("-") or _parsed(word) or not _parsed(whole := f"{name}={_quoted(value)}"):
        return word
    if value.isprintable() and not set(value) & set(STRUCTURE):
        return whole
    typed = shlex.quote(whole) if set(whole) & set('"$`\\!') else f'"{whole}"'
    raise ConfigError(f"{word} cannot be read; if its value is one text, type {typed}")


def _parsed(word: str) -> Any:
    """Hydra's reading of a word, None where it has none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


@contextmanager
def _hydra(job: str) -> Iterator[Any]:
    """A Hydra that knows our settings, in the place of one that the caller may have begun; his is put back."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_schema(job)
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3", job_name=job):
            yield GlobalHydra.instance().hydra
    finally:
        GlobalHydra.instance().hydra = before
