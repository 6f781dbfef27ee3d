"""The settings of a command, composed inside a process: what the command line would make of the same words."""

from collections.abc import Sequence
from typing import Any

from mllm_probe.config import register_schemas, typed
from mllm_probe.errors import ConfigError
from mllm_probe.paths import config_dir
from mllm_probe.sentences import sentence


def composed(job: str, overrides: Sequence[str]) -> Any:
    """The config dataclass of a job such as `run` or `vision_score`. Raises ConfigError."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    register_schemas()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3", job_name=job):
            return typed(compose(job, list(overrides)), job)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(sentence(job.replace("_", " "), error)) from error
