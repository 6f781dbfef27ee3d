"""What is known of a vision encoder before its weights are loaded, and the checks that all kinds share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mllm_probe.errors import ConfigError, MllmProbeError, ModelError
from mllm_probe.models.loading.reasons import because


@dataclass(frozen=True)
class EncoderPlan:
    """An encoder without its weights: pictures are `size` pixels a side, cut into `grid` x `grid` patches of `width`
    features, the state `layer` of `blocks`, counted from what enters the first block (0). `step` is the noise of a
    diffusion model, None for other encoders."""

    name: str
    folder: Path
    size: int
    grid: int
    width: int
    layer: int
    blocks: int
    step: int | None = None


def check_size(name: str, size: int, patch: int) -> None:
    """Raises ConfigError where a side of `size` pixels is not cut into patches of `patch` pixels."""
    if size % patch or size < 2 * patch:
        raise ConfigError(
            f"encoders.{name}.size={size} is cut into patches of {patch} pixels; give a multiple of {patch}, "
            "two of them or more"
        )


def pick_layer(name: str, layer: int, blocks: int) -> int:
    """The layer counted from 0. Raises ConfigError."""
    if not -blocks - 1 <= layer <= blocks:
        raise ConfigError(
            f"encoders.{name}.layer={layer} does not exist: the encoder has {blocks} blocks, so layers 0 to {blocks}, "
            f"or -1 to {-blocks - 1} from the top"
        )
    return layer % (blocks + 1)


def guarded(name: str, folder: Path, load: Callable[[], Any], group: str = "encoders") -> Any:
    """The libraries raise anything here; the border turns it into one sentence, about `group`.`name` of the settings.
    Raises ModelError."""
    try:
        return load()
    except MllmProbeError:
        raise
    except Exception as error:
        why = because(folder, error, "encoder")
        raise ModelError(f"{group}.{name}: {folder} cannot be used as an encoder ({why})") from error
