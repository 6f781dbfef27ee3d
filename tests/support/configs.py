"""Configs composed from the project's own files."""

from typing import Any

from hydra import compose, initialize_config_dir

from mllm_probe.config.schemas import register_schema, typed
from mllm_probe.files.paths import config_dir

CONF = config_dir()


def composed(*overrides: str, command: str = "run") -> Any:
    register_schema(command)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return typed(compose(command, overrides=list(overrides)), command)
