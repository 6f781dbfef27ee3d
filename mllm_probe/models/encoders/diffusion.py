"""Diffusion models as encoders: what one step of denoising makes of a picture, inside the net, as a grid of patches.

Yang et al. (arXiv 2408.16357) read them after DIFT (Tang et al., arXiv 2306.03881): x_t = sqrt(a_t) VAE(picture) +
sqrt(1 - a_t) noise enters the net once, without a prompt. The paper's: t = 1 and one draw of noise. Reconstructed from
the released code: the output of the first up block of a U-Net, of the last block of a DiT with 2 x 2 neighbours as one
patch, latents drawn from the VAE and not their mean, and the a_t of DDIM whatever scheduler the checkpoint names. Ours:
noise that a picture's pixels seed, float32, and conditions as in training: the sizes and the pooled prompt of SDXL and
the class "none" of a DiT (the released code leaves both out), and for image variations the picture as the checkpoint's
own processor prepares it (the released code does not standardise it). Knows no data set and no score.
"""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from mllm_probe.config.vision import EncoderSettings
from mllm_probe.errors import ConfigError, ModelError, choices
from mllm_probe.files.seals import read_object
from mllm_probe.models.encoders.encoder_plan import EncoderPlan, check_size, guarded, pick_layer
from mllm_probe.models.loading.checkpoint import WEIGHTED, refuse_adapter
from mllm_probe.models.loading.weights import load_weights

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # diffusers imports it, and it recommends a kernel

UNET = ("vae", "scheduler", "unet")
PARTS = {  # what is read of a pipeline, each part of one class
    "StableDiffusionPipeline": (*UNET, "tokenizer", "text_encoder"),
    "StableDiffusionXLPipeline": (*UNET, "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2"),
    "StableDiffusionImageVariationPipeline": (*UNET, "feature_extractor", "image_encoder"),
    "DiTPipeline": ("vae", "scheduler", "transformer"),
}
TOLD = {  # the file that a part cannot be without
    "scheduler": "scheduler_config.json",
    "tokenizer": "tokenizer_config.json",
    "tokenizer_2": "tokenizer_config.json",
    "feature_extractor": "preprocessor_config.json",
}
WEIGHTS = ("diffusion_pytorch_model", "model")
STACKED = 2  # neighbours a side that are one patch of a diffusion transformer
META = "meta"
FIRST_UP_BLOCK, LAST_BLOCK = 1, -1


def plan_diffusion(name: str, settings: EncoderSettings, folder: Path) -> EncoderPlan:
    """Everything that can be wrong is found without weights. Raises ConfigError, ModelError."""
    _check_parts(name, folder)
    pipeline = guarded(name, folder, lambda: _Pipeline(name, folder, META))
    size = settings.size or pipeline.size
    if size is None:
        raise ConfigError(f"encoders.{name}: {folder} does not give its training size; set encoders.{name}.size")
    check_size(name, size, pipeline.coarsest)
    layer = pick_layer(name, settings.layer if settings.layer is not None else pipeline.layer, pipeline.blocks)
    if not 0 <= settings.step < pipeline.steps:
        raise ConfigError(
            f"encoders.{name}.step={settings.step} is outside the schedule of the checkpoint; "
            f"give 0 to {pipeline.steps - 1}"
        )
    state = guarded(name, folder, lambda: pipeline.state([Image.new("RGB", (size, size))], settings.step, layer))
    return EncoderPlan(name, folder, size, state.shape[-1], state.shape[1], layer, pipeline.blocks, settings.step)


def _check_parts(name: str, folder: Path) -> None:
    """Raises ModelError where the folder holds another pipeline or a part of it is missing."""
    kind = guarded(name, folder, lambda: _kind(folder))
    if kind not in PARTS:
        raise ModelError(f"encoders.{name}: the features of a {kind} are not built ({folder}); {choices(kind, PARTS)}")
    for part in PARTS[kind]:
        refuse_adapter(folder / part)
        if not (folder / part / (told := TOLD.get(part, "config.json"))).is_file():
            raise ModelError(f"encoders.{name}: {folder} lacks {part}/{told}, which a {kind} needs")
        whole = (folder / part / f"{stem}.safetensors{end}" for stem in WEIGHTS for end in ("", ".index.json"))
        if part in WEIGHTED and not any(path.is_file() for path in whole):
            raise ModelError(
                f"encoders.{name}: {folder / part} has no weights ({WEIGHTS[0]} or {WEIGHTS[1]}.safetensors)"
            )


def _kind(folder: Path) -> str:
    """The class of the pipeline, as diffusers writes it."""
    return str(read_object(folder / "model_index.json")["_class_name"])


class DiffusionModel:
    """Loaded; `plan` says what it gives. Raises ModelError."""

    remarks: Sequence[str] = ()

    def __init__(self, plan: EncoderPlan, device: str) -> None:
        self.plan = plan
        self._pipeline: _Pipeline = guarded(plan.name, plan.folder, lambda: _Pipeline(plan.name, plan.folder, device))

    def features(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """RGB pictures of the plan's size [B] -> patch features [B, P * P, D] float32 on the CPU, row by row."""
        assert self.plan.step is not None
        return self._pipeline.state(pictures, self.plan.step, self.plan.layer).flatten(2).transpose(1, 2).cpu()


class _Enough(Exception):
    """Raised in the block that is read: those behind it are not needed."""


class _Pipeline:
    """The parts of a pipeline on a device; on `meta` they have shapes and no weights, and a pass costs nothing."""

    def __init__(self, name: str, folder: Path, device: str) -> None:
        classes = _classes(name, folder)
        parts = {part: _load(folder / part, classes[part], device) for part in PARTS[_kind(folder)]}
        self._vae, self._scheduler, self._device = parts["vae"], parts["scheduler"], device
        self._is_unet = "unet" in parts
        self._net = parts["unet" if self._is_unet else "transformer"]
        self._processor: Any = parts.get("feature_extractor")
        self._image_encoder: Any = parts.get("image_encoder")
        with torch.inference_mode():
            self._unconditional = _unconditional(parts, device)

    @property
    def _blocks(self) -> list[torch.nn.Module]:
        """Whose outputs are the layers."""
        if self._is_unet:
            return [self._net.mid_block, *self._net.up_blocks]
        return [self._net.pos_embed, *self._net.transformer_blocks]

    @property
    def _shrunk(self) -> int:
        """Pixels of a picture a side for each number of its latents."""
        return 2 ** (len(self._vae.config.block_out_channels) - 1)

    @property
    def blocks(self) -> int:
        return len(self._blocks) - 1

    @property
    def layer(self) -> int:
        """The one that Yang et al. read."""
        return FIRST_UP_BLOCK if self._is_unet else LAST_BLOCK

    @property
    def steps(self) -> int:
        return int(self._scheduler.config.num_train_timesteps)

    @property
    def size(self) -> int | None:
        """Of the pictures it was trained at, in pixels, where its config says so."""
        side = self._net.config.sample_size
        side = side if isinstance(side, int | None) else side[0]
        return None if side is None else side * self._shrunk

    @property
    def coarsest(self) -> int:
        """Pixels a side of the largest patch in the net; sizes are multiples of it, or halving would round."""
        if self._is_unet:
            return int(self._shrunk * 2**self._net.num_upsamplers)
        return int(self._shrunk * self._net.config.patch_size * STACKED)

    def state(self, pictures: Sequence[Image.Image], step: int, layer: int) -> torch.Tensor:
        """RGB pictures [B] of equal size -> the output of a layer [B, D, P, P] float32, rows and columns as in the
        picture, whatever else is in the batch."""
        draws = [torch.Generator().manual_seed(_seed(picture)) for picture in pictures]
        pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)
        with torch.inference_mode():
            latents = self._vae.encode((pixels.to(self._device) / 255 - 0.5) * 2).latent_dist.sample(draws)
            noise = torch.stack([torch.randn(latents.shape[1:], generator=draw) for draw in draws]).to(self._device)
            times = torch.full((len(pictures),), step, device=self._device)
            noisy = self._scheduler.add_noise(latents * self._vae.config.scaling_factor, noise, times)
            state = self._read(layer, noisy, timestep=times, **self._conditions(pictures))
            return state if state.ndim == 4 else _stacked(state)

    def _read(self, layer: int, *inputs: Any, **more: Any) -> torch.Tensor:
        """The output of a layer; nothing behind it is computed."""
        found: list[torch.Tensor] = []

        def keep(_module: torch.nn.Module, _inputs: Any, out: torch.Tensor) -> None:
            found.append(out)
            raise _Enough

        handle = self._blocks[layer].register_forward_hook(keep)
        try:
            with suppress(_Enough):
                self._net(*inputs, **more)
        finally:
            handle.remove()
        return found[0]

    def _conditions(self, pictures: Sequence[Image.Image]) -> dict[str, Any]:
        """What the net is told beside the noisy picture: nothing in words, no class, or the picture itself."""
        if self._image_encoder is not None:
            pixels = self._processor(images=list(pictures), return_tensors="pt")["pixel_values"]
            return {"encoder_hidden_states": self._image_encoder(pixels.to(self._device)).image_embeds[:, None]}
        count = len(pictures)
        told = {name: value.expand(count, *value.shape[1:]) for name, value in self._unconditional.items()}
        if "text_embeds" not in told:
            return told
        side = pictures[0].width
        sizes = torch.tensor([[side, side, 0, 0, side, side]] * count, device=self._device)
        return {
            "encoder_hidden_states": told["encoder_hidden_states"],
            "added_cond_kwargs": {"text_embeds": told["text_embeds"], "time_ids": sizes},
        }


def _classes(name: str, folder: Path) -> dict[str, Any]:
    """{part: its class}. Raises ModelError where diffusers is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise ModelError(
            f"encoders.{name}: {folder} is a diffusion model, which needs diffusers; "
            "pip install 'mllm-probe[diffusion]'"
        ) from error
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    return {
        "vae": diffusers.AutoencoderKL,
        "unet": diffusers.UNet2DConditionModel,
        "transformer": diffusers.DiTTransformer2DModel,
        "scheduler": diffusers.DDIMScheduler,
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": CLIPTokenizer,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
        "image_encoder": CLIPVisionModelWithProjection,
        "feature_extractor": AutoImageProcessor,
    }


def _load(folder: Path, kind: Any, device: str) -> Any:
    """Raises ModelError where weights are missing."""
    if folder.name not in WEIGHTED:
        return kind.from_pretrained(folder)
    if device == META:
        with torch.device(META):
            if hasattr(kind, "load_config"):
                return kind.from_config(kind.load_config(folder)).eval()
            return kind(kind.config_class.from_pretrained(folder)).eval()
    part, lacking = load_weights(kind, folder, use_safetensors=True)
    if lacking.names:
        raise lacking.error
    return part.float().eval().to(device)


def _unconditional(parts: Mapping[str, Any], device: str) -> dict[str, torch.Tensor]:
    """What a pipeline makes of an empty prompt, [1, ...]; for a DiT the class that stands for none."""
    if "transformer" in parts:
        return {"class_labels": torch.tensor([parts["transformer"].config.num_embeds_ada_norm], device=device)}
    if "tokenizer" not in parts:
        return {}
    last = _encoded(parts["tokenizer"], parts["text_encoder"], device)
    if "tokenizer_2" not in parts:
        return {"encoder_hidden_states": last[0]}
    other = _encoded(parts["tokenizer_2"], parts["text_encoder_2"], device)
    states = torch.cat([last.hidden_states[-2], other.hidden_states[-2]], dim=-1)
    return {"encoder_hidden_states": states, "text_embeds": other.text_embeds}


def _encoded(tokenizer: Any, encoder: Any, device: str) -> Any:
    """An empty prompt, filled up to the length that the pipelines give every prompt."""
    ids = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids
    return encoder(ids.to(device), output_hidden_states=True)


def _stacked(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens [B, Q * Q, D], row by row -> [B, 4 D, Q / 2, Q / 2]."""
    side = math.isqrt(tokens.shape[1])
    return torch.nn.functional.pixel_unshuffle(tokens.transpose(1, 2).reshape(len(tokens), -1, side, side), STACKED)


def _seed(picture: Image.Image) -> int:
    """Of what is drawn for a picture: the same in every batch, and another for every picture, since noise in common
    would make equal places of two pictures alike."""
    return int.from_bytes(hashlib.sha256(picture.tobytes()).digest()[:8])
