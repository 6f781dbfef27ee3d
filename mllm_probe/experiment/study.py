"""The two experiments of a study: what each of its tasks sets."""

from dataclasses import replace
from typing import TypeVar

from mllm_probe.config.report import ReportSettings
from mllm_probe.config.run import ExtractSettings, RunConfig
from mllm_probe.errors import ConfigError, choices
from mllm_probe.records.sites import TOWERS

Config = TypeVar("Config", bound=RunConfig)
OF_A_SIDE = ("positions", "answers")  # what a task sets of `extract`


def sides_of(config: Config) -> tuple[Config, Config]:
    """The global experiment and the local one. Raises ConfigError, also for positions that neither reads and the page
    is to show."""
    sides = replace(config, local=None, report=_of_a_side(config.report)), local_side(config)
    positions = dict.fromkeys(position for side in sides for position in side.extract.positions)
    config.report.check_read(positions, config.layers.towers or TOWERS)
    return sides


def local_side(config: Config) -> Config:
    """The experiment with the other task and what that sets of `extract`. Raises ConfigError."""
    given = config.local
    if not isinstance(given, dict) or not {"task"} <= given.keys() <= {"task", "extract"}:
        raise ConfigError(f"local={given!r} must hold a task, and may hold extract; experiment=tao2024 is an example")
    extract = given.get("extract") or {}
    for name in extract:
        if name not in OF_A_SIDE:
            raise ConfigError(
                f"'local.extract.{name}' is set for both tasks by extract.{name}; {choices(name, OF_A_SIDE)}"
            )
    settings: ExtractSettings = replace(config.extract, **{"answers": None, **extract})
    return replace(config, task=given["task"], extract=settings, local=None, report=_of_a_side(config.report))


def _of_a_side(report: ReportSettings) -> ReportSettings:
    """Without the positions, of which each side reads its own."""
    return replace(report, positions=None)
