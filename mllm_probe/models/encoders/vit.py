"""Vision transformers as encoders: the patch features of one hidden state, for square pictures.

CLIP (OpenCLIP's weights too), SigLIP, SigLIP 2 and DINOv2 as transformers has them, and the vision tower of a
multimodal checkpoint. Which of the tokens are patches is proven with the loaded weights and not known by name. Knows no
data set and no score.
"""

import inspect
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PreTrainedModel

from mllm_probe.config.vision import EncoderSettings
from mllm_probe.errors import ModelError
from mllm_probe.models.encoders.encoder_plan import EncoderPlan, check_size, guarded, pick_layer
from mllm_probe.models.loading.classes import check_scaling, sound_config
from mllm_probe.models.loading.weights import Lacking, check_shapes, load_weights
from mllm_probe.models.loading.whole import refuse_quantised

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

NORMALISATIONS: dict[str, dict[str, Any]] = {  # what the processor is told
    "own": {},
    "compat": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},  # the released code's (x / 255 - 0.5) * 2, for all
}


LLAVA = -2  # the hidden state that LLaVA reads


def plan_vit(name: str, settings: EncoderSettings, folder: Path) -> EncoderPlan:
    """Everything that can be wrong is found without weights. Raises ConfigError, ModelError."""
    config = _config(name, folder)
    with torch.device("meta"):
        model = guarded(name, folder, lambda: AutoModel.from_config(config))
    guarded(name, folder, lambda: check_shapes(model, folder))
    with torch.device("meta"):
        tower = _tower(name, model)
        patch, own = _sides(name, tower)
        size = settings.size or own
        check_size(name, size, patch)
        states = guarded(name, folder, lambda: _states(tower, torch.zeros(1, 3, size, size)))
    blocks = len(states) - 1
    layer = pick_layer(name, settings.layer if settings.layer is not None else LLAVA, blocks)
    return EncoderPlan(name, folder, size, size // patch, states[layer].shape[-1], layer, blocks)


def _config(name: str, folder: Path) -> Any:
    guarded(name, folder, lambda: refuse_quantised(folder, f"encoders.{name}"))
    return guarded(name, folder, lambda: sound_config(folder, AutoConfig.from_pretrained(folder)))


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


class VisionTransformer:
    """Loaded; `plan` says what it gives, `normalisation` is one of NORMALISATIONS.

    Raises ModelError where its states are no grid of patches.
    """

    def __init__(self, plan: EncoderPlan, normalisation: str, device: str) -> None:
        self.plan, self._device, self._scaling = plan, device, NORMALISATIONS[normalisation]
        folder = plan.folder
        self._processor = guarded(plan.name, folder, lambda: AutoImageProcessor.from_pretrained(folder))
        check_scaling(folder, self._processor)
        load = partial(load_weights, AutoModel, folder, _config(plan.name, folder), part=True, dtype=torch.float32)
        model, lacking = guarded(plan.name, folder, load)
        self.remarks = lacking.remarks
        self._tower = _tower(plan.name, model).eval().to(device)
        self._leading = self._proven(lacking)

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
                f"encoders.{self.plan.name}: {type(self._processor).__name__} makes pixel values "
                f"{tuple(pixels.shape)} of {len(pictures)} pictures of {self.plan.size} pixels a side, but must "
                "not change their size"
            )
        with torch.inference_mode():
            return _states(self._tower, pixels.to(self._device))

    def _proven(self, lacking: Lacking) -> int:
        """How many tokens (class, registers) stand before the patches. A change of the second and of the last patch of
        a picture must change the second and the last patch token at the embeddings, and no other token."""
        side, patch = self.plan.size, self.plan.size // self.plan.grid
        pictures = [Image.new("RGB", (side, side)) for _ in range(3)]
        pictures[1].paste((255, 255, 255), (patch, 0, 2 * patch, patch))
        pictures[2].paste((255, 255, 255), (side - patch, side - patch, side, side))
        states = self._read(pictures)
        lacking.check(states[self.plan.layer])
        embedded = states[0]
        changed = (embedded[1:] - embedded[0]).abs().amax(dim=2) > 1e-4 * embedded.abs().max()
        leading = embedded.shape[1] - self.plan.grid**2
        expected = [[0, leading + 1], [1, embedded.shape[1] - 1]]
        if leading < 0 or changed.nonzero().tolist() != expected:
            raise ModelError(
                f"encoders.{self.plan.name}: the {embedded.shape[1]} tokens of {type(self._tower).__name__} do not end "
                f"in {self.plan.grid} x {self.plan.grid} patches, row by row, so no patch features can be read"
            )
        return leading
