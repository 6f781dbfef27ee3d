"""What a training gets, and what it must provide besides its steps. Knows no model of any kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mllm_probe.config.tune import TrainSettings
from mllm_probe.data.documents import Slice
from mllm_probe.records.samples import Picture
from mllm_probe.train.loop import Learner
from mllm_probe.train.memory import Memory


@dataclass(frozen=True)
class Material:
    """A `network` of transformers (None until it is loaded) with its `blueprint`, pictures to learn from and pictures
    held out; `learnt` and `judged` are the target's examples of either. `base` is the digest of the weights, `vectors`
    are those of the slices that the target asked for."""

    blueprint: Any
    network: Any
    device: str
    train: Sequence[Picture]
    test: Sequence[Picture]
    settings: TrainSettings
    base: str = ""
    vectors: Any = None
    learnt: Sequence[Any] = ()
    judged: Sequence[Any] = ()


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
        """The losses on the test pictures of what `save` would leave now, as `run` loads it."""

    def save(self, folder: Path) -> None:
        """A checkpoint that `model.path` (or `model.adapter`) takes."""


class Target(Protocol):
    """What is trained: a frozen set of hyper-parameters."""

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str:
        """What an example is called."""

    @property
    def told(self) -> Mapping[str, Any]:
        """What summary.json says of it."""

    @property
    def probed(self) -> str:
        """The settings of `run` that take what was saved; {model} stands for those that choose the base."""

    def examples(self, material: Material) -> tuple[Sequence[Any], Sequence[Any]]:
        """What is learnt from, and what is held out, made of the pictures. Raises ConfigError, DataError."""

    def slices(self, material: Material) -> Sequence[Slice]:
        """Those of which it needs the vectors of frozen encoders."""

    def memory(self, material: Material) -> Memory | None:
        """What it will take of the device's memory, where that is known. Raises ModelError, DataError."""

    def apprentice(self, material: Material) -> Apprentice:
        """Make the parameters that move. Raises ConfigError, ModelError, DataError."""
