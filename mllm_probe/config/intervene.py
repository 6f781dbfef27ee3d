"""What a user may set of `intervene`, which changes states and attention and reads what that does to the answers."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from mllm_probe.config.run import RunConfig


@dataclass
class InterveneSettings:
    """On which prompts: those about at most `pictures` test pictures (null = all), drawn by `seed`, which also starts
    the random draws of the controls. Fewer than `least` pictures with a right answer (of patching: pairs) end the
    command."""

    pictures: int | None = 50
    least: int = 10
    seed: int = 0


@dataclass
class InterveneConfig(RunConfig):
    """`intervene`: the settings of a run, whose training pictures give directions and whose test pictures show effects,
    and what is changed: `intervention` is a `_target_` node. `probe_run` is the folder of a run of the same model and
    task, whose probes are then shown above the effects (null: none)."""

    intervention: Any = MISSING
    probe_run: str | None = None
    intervene: InterveneSettings = field(default_factory=InterveneSettings)
