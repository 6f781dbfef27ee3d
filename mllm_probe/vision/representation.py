"""What an MLLM would see of a picture: the features of one encoder, or of several with their channels side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mllm_probe.errors import ConfigError, choices
from mllm_probe.vision.c_score import unit

JOIN = "+"


@dataclass(frozen=True)
class Representation:
    """`name` is that of its `encoders`, joined by a plus sign."""

    encoders: tuple[str, ...]

    @property
    def name(self) -> str:
        return JOIN.join(self.encoders)

    def features(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """{encoder: patch features [P * P, D]} -> those of the representation. Several are normalised patch by patch,
        concatenated and normalised again, as the released code of Yang et al. (arXiv 2408.16357) does."""
        if len(self.encoders) == 1:
            return parts[self.encoders[0]]
        return unit(np.concatenate([unit(parts[name]) for name in self.encoders], axis=1))


def representations(names: Sequence[str] | None, grids: Mapping[str, int]) -> list[Representation]:
    """The named ones, or each encoder alone; `grids` {encoder: patches a side}. Raises ConfigError."""
    found = [Representation(tuple(name.split(JOIN))) for name in (names if names is not None else grids)]
    for one in found:
        for encoder in one.encoders:
            if encoder not in grids:
                raise ConfigError(f"representation {one.name}: there is no such encoder; {choices(encoder, grids)}")
        if len({grids[encoder] for encoder in one.encoders}) > 1:
            told = ", ".join(f"{encoder} {grids[encoder]} x {grids[encoder]}" for encoder in one.encoders)
            raise ConfigError(
                f"representation {one.name} joins grids of different sizes ({told}); set encoders.NAME.size to make "
                "them equal"
            )
    if not found or len({one.name for one in found}) < len(found):
        raise ConfigError(f"representations={names} must hold at least one, each once")
    return found
