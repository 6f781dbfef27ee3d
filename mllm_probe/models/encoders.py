"""Frozen vision encoders: the patch features of one hidden state, for square pictures. The only door to them.

CLIP (OpenCLIP's weights too), SigLIP, SigLIP 2 and DINOv2 as transformers has them, and the vision tower of a
multimodal checkpoint. Which of the tokens are patches is proven with the loaded weights and not known by name. Knows no
data set and no score.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedModel

from mllm_probe.errors import ConfigError, MllmProbeError, ModelError
from mllm_probe.models.checkpoint import find_checkpoint
from mllm_probe.models.processor import first_line
from mllm_probe.vision_settings import EncoderSettings

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

NORMALISATIONS: dict[str, dict[str, Any]] = {  # what the processor is told
    "own": {},
    "compat": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},  # the released code's (x / 255 - 0.5) * 2, for all
}


@dataclass(frozen=True)
class EncoderPlan:
    """An encoder without its weights: pictures are `size` pixels a side, cut into `grid` x `grid` patches of `width`
    features, the hidden state `layer` of `blocks`, counted from the embeddings (0)."""

    name: str
    folder: Path
    size: int
    grid: int
    width: int
    layer: int
    blocks: int


def plan_encoder(name: str, settings: EncoderSettings) -> EncoderPlan:
    """Everything that can be wrong is found without weights. Raises ConfigError, ModelError."""
    if settings.path is not None and (Path(settings.path) / "model_index.json").is_file():
        raise ModelError(
            f"encoders.{name}: {settings.path} is a diffusion pipeline; its features need diffusers and are not built"
        )
    folder = find_checkpoint(settings, f"encoders.{name}.path")
    config = _guarded(name, folder, lambda: AutoConfig.from_pretrained(folder))
    with torch.device("meta"):
        tower = _tower(name, _guarded(name, folder, lambda: AutoModel.from_config(config)))
        patch, own = _sides(name, tower)
        size = settings.size or own
        if size % patch or size < 2 * patch:
            raise ConfigError(
                f"encoders.{name}.size={size} is cut into patches of {patch} pixels; give a multiple of {patch}, "
                "two of them or more"
            )
        states = _guarded(name, folder, lambda: _states(tower, torch.zeros(1, 3, size, size)))
    blocks, layer = len(states) - 1, settings.layer
    if not -len(states) <= layer <= blocks:
        raise ConfigError(
            f"encoders.{name}.layer={layer} does not exist: the encoder has {blocks} blocks, so layers 0 to {blocks}, "
            f"or -1 to {-len(states)} from the top"
        )
    return EncoderPlan(name, folder, size, size // patch, states[layer].shape[-1], layer % len(states), blocks)


def _tower(name: str, model: Any) -> Any:
    """The outermost part that takes pixels and nothing else."""
    towers = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    found = next((tower for tower in towers if tower.main_input_name == "pixel_values"), None)
    if found is None:
        raise ModelError(f"encoders.{name}: {type(model).__name__} has no vision tower; choose a vision encoder")
    return found


def _sides(name: str, tower: Any) -> tuple[int, int]:
    """Of a patch and of the pictures the tower was trained at, in pixels."""
    found: list[Any] = [getattr(tower.config, key, None) for key in ("patch_size", "image_size")]
    if None in found:
        raise ModelError(
            f"encoders.{name}: {type(tower).__name__} cuts no patches of one size; choose a vision transformer"
        )
    patch, size = (int(side if isinstance(side, int) else side[0]) for side in found)
    return patch, size


def _states(tower: Any, pixels: torch.Tensor) -> Sequence[torch.Tensor]:
    """The hidden states [B, L, D] of embeddings and blocks; positions are interpolated where the size is not the
    tower's own, which DINOv2 does unasked."""
    more = {}
    if "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters:
        more["interpolate_pos_encoding"] = pixels.shape[-1] != _sides("", tower)[1]
    return tower(pixel_values=pixels, output_hidden_states=True, **more).hidden_states


def _guarded(name: str, folder: Path, load: Callable[[], Any]) -> Any:
    """transformers raises anything here; the border turns it into one sentence."""
    try:
        return load()
    except MllmProbeError:
        raise
    except Exception as error:
        raise ModelError(f"encoders.{name}: {folder} cannot be used as an encoder ({first_line(error)})") from error


class Encoder:
    """A loaded encoder; `plan` says what it gives, `normalisation` is one of NORMALISATIONS.

    Raises ModelError where its states are no grid of patches.
    """

    def __init__(self, plan: EncoderPlan, normalisation: str, device: str) -> None:
        self.plan, self._device, self._scaling = plan, device, NORMALISATIONS[normalisation]
        folder = plan.folder
        self._processor = _guarded(plan.name, folder, lambda: AutoImageProcessor.from_pretrained(folder))
        model = _guarded(plan.name, folder, lambda: AutoModel.from_pretrained(folder, dtype=torch.float32))
        self._tower = _tower(plan.name, model).eval().to(device)
        self._leading = self._proven()

    def features(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """RGB pictures of the plan's size [B] -> patch features [B, P * P, D] float32 on the CPU, row by row."""
        return self._read(pictures)[self.plan.layer][:, self._leading :].cpu()

    def _read(self, pictures: Sequence[Image.Image]) -> Sequence[torch.Tensor]:
        """Scaled as the checkpoint's own processor does it, but neither resized nor cropped."""
        pixels = self._processor(
            images=list(pictures), do_resize=False, do_center_crop=False, return_tensors="pt", **self._scaling
        )["pixel_values"]
        if pixels.shape != (len(pictures), 3, self.plan.size, self.plan.size):
            raise ModelError(
                f"encoders.{self.plan.name}: {type(self._processor).__name__} makes pixel values {tuple(pixels.shape)} "
                f"of {len(pictures)} pictures of {self.plan.size} pixels a side, and must leave their size alone"
            )
        with torch.inference_mode():
            return _states(self._tower, pixels.to(self._device))

    def _proven(self) -> int:
        """How many tokens (class, registers) stand before the patches. A change of the second and of the last patch of
        a picture must change the second and the last patch token at the embeddings, and no other token."""
        side, patch = self.plan.size, self.plan.size // self.plan.grid
        pictures = [Image.new("RGB", (side, side)) for _ in range(3)]
        pictures[1].paste((255, 255, 255), (patch, 0, 2 * patch, patch))
        pictures[2].paste((255, 255, 255), (side - patch, side - patch, side, side))
        embedded = self._read(pictures)[0]
        changed = (embedded[1:] - embedded[0]).abs().amax(dim=2) > 1e-4 * embedded.abs().max()
        leading = embedded.shape[1] - self.plan.grid**2
        expected = [[0, leading + 1], [1, embedded.shape[1] - 1]]
        if leading < 0 or changed.nonzero().tolist() != expected:
            raise ModelError(
                f"encoders.{self.plan.name}: the {embedded.shape[1]} tokens of {type(self._tower).__name__} do not end "
                f"in {self.plan.grid} x {self.plan.grid} patches, row by row, so no patch features can be read"
            )
        return leading
