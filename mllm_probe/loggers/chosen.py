"""The loggers that `loggers=[...]` names: checked before a run, called after it."""

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.errors import ConfigError, choices, first_line
from mllm_probe.files.paths import OutputPaths, RunPaths
from mllm_probe.records.protocols import Reporter

if TYPE_CHECKING:
    from mllm_probe.loggers.told import Logger

LOGGERS = {"tensorboard": "TensorBoard", "wandb": "WandB", "mlflow": "MLflow"}  # {module of this package: its class}


def chosen_loggers(given: Any) -> tuple[str, ...]:
    """The names in a list, or the one that stands alone; none for null. Raises ConfigError for a name that is unknown,
    or whose package is not installed."""
    names = tuple(map(str, given if isinstance(given, list) else [given] * (given is not None)))
    for name in names:
        if name not in LOGGERS:
            raise ConfigError(f"loggers names '{name}', which is unknown; {choices(name, LOGGERS)}")
        lacking = [module for module in logger_of(name).needs if not _installed(module)]
        if lacking:
            raise ConfigError(f"loggers=[{name}] needs {', '.join(lacking)}: pip install 'mllm-probe[{name}]'")
    return names


def logger_of(name: str) -> "Logger":
    logger: Logger = getattr(import_module(f"mllm_probe.loggers.{name}"), LOGGERS[name])()
    return logger


def log_runs(names: Sequence[str], runs: Sequence[RunPaths], outputs: str, reporter: Reporter) -> None:
    """Tell each logger of each finished run. Nothing is raised: the runs are whole, whatever becomes of this."""
    for paths in runs:
        for name in names:
            try:
                from mllm_probe.loggers.told import recorded

                said = logger_of(name).log(recorded(paths, OutputPaths(Path(outputs))))
            except Exception as error:  # packages of others, and services, fail in as many ways as there are of them
                said = f"not logged, {type(error).__name__}: {first_line(error)}"
            reporter.note(f"{name}: {said}")


def _installed(module: str) -> bool:
    """Whether there is a package: a folder of that name, such as W&B leaves in the working directory, is none."""
    found = find_spec(module)
    return found is not None and found.origin is not None
