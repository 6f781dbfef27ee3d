"""What a training is given, and what it must be able to do beside its steps. Knows no model of any kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mllm_probe.settings import TrainSettings
from mllm_probe.train.loop import Learner
from mllm_probe.types import Picture


@dataclass(frozen=True)
class Material:
    """A loaded `network` of transformers with its `blueprint`, pictures to learn from and pictures held out."""

    blueprint: Any
    network: Any
    device: str
    train: Sequence[Picture]
    test: Sequence[Picture]
    settings: TrainSettings


@dataclass(frozen=True)
class HeldOut:
    """One row of held_out.csv: what was not learnt from, and its loss in nats summed over `tokens`."""

    picture: str
    item: int
    tokens: int
    loss: float


class Apprentice(Learner, Protocol):
    """A learner that can be judged and kept."""

    def held_out(self) -> list[HeldOut]:
        """The losses on the test pictures, as the parameters are now."""

    def save(self, folder: Path) -> None:
        """A checkpoint that `model.path` (or `model.adapter`) takes."""


class Target(Protocol):
    """What is trained: a frozen set of hyper-parameters."""

    @property
    def name(self) -> str: ...

    def apprentice(self, material: Material) -> Apprentice:
        """Make the parameters that move. Raises ConfigError, ModelError, DataError."""
