"""Frozen vision encoders: vision transformers and diffusion models, planned and loaded. The only door to them."""

from collections.abc import Sequence
from typing import Protocol

import torch
from PIL import Image

from mllm_probe.config.vision import EncoderSettings
from mllm_probe.models.encoders.encoder_plan import EncoderPlan
from mllm_probe.models.encoders.vit import VisionTransformer, plan_vit
from mllm_probe.models.loading.checkpoint import check_parts, find_folder, is_pipeline


class Encoder(Protocol):
    """A loaded encoder; `plan` says what it gives, `remarks` what there is to say of its weights."""

    remarks: Sequence[str]

    @property
    def plan(self) -> EncoderPlan: ...

    def features(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """RGB pictures of the plan's size [B] -> patch features [B, P * P, D] float32 on the CPU, row by row."""


def plan_encoder(name: str, settings: EncoderSettings) -> EncoderPlan:
    """Everything that can be wrong is found without weights. Raises ConfigError, ModelError."""
    folder = find_folder(settings, f"encoders.{name}.path")
    if is_pipeline(folder):
        from mllm_probe.models.encoders.diffusion import plan_diffusion

        return plan_diffusion(name, settings, folder)
    check_parts(folder)
    return plan_vit(name, settings, folder)


def load_encoder(plan: EncoderPlan, normalisation: str, device: str) -> Encoder:
    """`normalisation` is one of NORMALISATIONS, all of which are alike for a diffusion model. Raises ModelError."""
    if plan.step is None:
        return VisionTransformer(plan, normalisation, device)
    from mllm_probe.models.encoders.diffusion import DiffusionModel

    return DiffusionModel(plan, device)
