"""What `tune` runs with the model it has made: other commands, each in its own folder of the training.

They read the pictures, splits and seeds of the training, so that their test pictures are those it has not seen.
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

from mllm_probe.config.compose import composed
from mllm_probe.config.model import ModelSettings
from mllm_probe.config.tune import TuneConfig
from mllm_probe.errors import ConfigError, choices
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.protocols import Reporter

COMMANDS = ("run", "fidelity", "geometry", "align")
SHARED = ("dataset", "data", "splits", "paths", "device", "plugins")  # settings that follow the training's

Follower = Callable[[ModelSettings, RunPaths, Reporter], None]


def followers(config: TuneConfig) -> Mapping[str, Follower]:
    """{name: a command that is composed already, and takes the trained model}. Raises ConfigError."""
    found: dict[str, Follower] = {}
    for name, line in config.after.items():
        command, *overrides = shlex.split(line) or [""]
        if command not in COMMANDS:
            raise ConfigError(f"after.{name} begins with '{command}'; {choices(command, COMMANDS)}")
        if not name.isidentifier():
            raise ConfigError(f"after.{name}: the name is that of a folder; give letters, digits and underscores")
        settings = replace(composed(command, overrides), **{one: getattr(config, one) for one in SHARED})
        found[name] = partial(_followed, command, settings)
    return found


def _followed(command: str, settings: Any, model: ModelSettings, paths: RunPaths, reporter: Reporter) -> None:
    stage = getattr(import_module(f"mllm_probe.commands.{command}"), command)
    stage(replace(settings, model=model), paths, reporter)


def follow(
    commands: Mapping[str, Follower], setting: str, model: ModelSettings, paths: RunPaths, reporter: Reporter
) -> None:
    """Run them one by one with the checkpoint of the training, which `setting` of the model takes."""
    trained: dict[str, Any] = {"name": None, setting: str(paths.checkpoint)}
    for name, command in commands.items():
        reporter.note(f"{name}, with the trained model")
        paths.side(name).root.mkdir(parents=True, exist_ok=True)
        command(replace(model, **trained), paths.side(name), reporter)
