"""The settings of a command, composed inside a process: what the command line would make of the same words."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from mllm_probe.config import register_schemas, typed
from mllm_probe.errors import ConfigError
from mllm_probe.paths import config_dir
from mllm_probe.sentences import sentence

if TYPE_CHECKING:
    from omegaconf import DictConfig

T = TypeVar("T")


def composed(job: str, overrides: Sequence[str]) -> Any:
    """The config dataclass of a job such as `run` or `vision_score`. Raises ConfigError."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with _hydra(job):
            return typed(compose(job, list(overrides)), job)
    except (HydraException, OmegaConfBaseException) as error:
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
            return hydra.run(job, task, list(overrides), with_log_configuration=False).return_value
    except Exception as error:
        if begun:
            raise
        raise ConfigError(sentence(job.replace("_", " "), error)) from error


@contextmanager
def _hydra(job: str) -> Iterator[Any]:
    """A Hydra that knows our settings, in the place of one that the caller may have begun; his is put back."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_schemas()
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3", job_name=job):
            yield GlobalHydra.instance().hydra
    finally:
        GlobalHydra.instance().hydra = before
