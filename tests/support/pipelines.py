"""Tiny random diffusion pipelines, made from the config and model classes of diffusers and transformers and saved part
by part, as on the hub."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers as hf
from transformers.models.clip import CLIPImageProcessorPil

BETAS = (0.00085, 0.012)
NET = {
    "sample_size": 16,  # of latents, half as wide as pictures: trained at 32 pixels
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}
TEXT: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "max_position_embeddings": 7,
}


def vae() -> diffusers.AutoencoderKL:
    two = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return diffusers.AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, **two)


def tokenizer() -> hf.CLIPTokenizer:
    return hf.CLIPTokenizer(
        vocab={"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "a</w>": 3}, merges=[], model_max_length=7
    )


def scheduler() -> diffusers.EulerDiscreteScheduler:
    """Of the noise levels of Stable Diffusion; it adds noise otherwise than DDIM, which features are read with."""
    return diffusers.EulerDiscreteScheduler(1000, *BETAS, "scaled_linear", steps_offset=1)


def stable_diffusion() -> diffusers.DiffusionPipeline:
    return diffusers.StableDiffusionPipeline(
        vae=vae(), scheduler=scheduler(), tokenizer=tokenizer(), safety_checker=None, feature_extractor=None,
        text_encoder=hf.CLIPTextModel(hf.CLIPTextConfig(**TEXT)),
        unet=diffusers.UNet2DConditionModel(**NET, cross_attention_dim=24),
    )  # fmt: skip


def stable_diffusion_xl() -> diffusers.DiffusionPipeline:
    text = hf.CLIPTextConfig(**TEXT, projection_dim=10)
    conditions = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 34,
    }
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(), scheduler=scheduler(), tokenizer=tokenizer(), tokenizer_2=tokenizer(),
        text_encoder=hf.CLIPTextModel(text), text_encoder_2=hf.CLIPTextModelWithProjection(text),
        unet=diffusers.UNet2DConditionModel(**NET, cross_attention_dim=48, **conditions),
    )  # fmt: skip


def image_variations() -> diffusers.DiffusionPipeline:
    config = {
        name: TEXT[name] for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
    }
    eyes = hf.CLIPVisionConfig(**config, image_size=16, patch_size=8, projection_dim=12)
    return diffusers.StableDiffusionImageVariationPipeline(
        vae=vae(), scheduler=scheduler(), image_encoder=hf.CLIPVisionModelWithProjection(eyes), safety_checker=None,
        unet=diffusers.UNet2DConditionModel(**NET, cross_attention_dim=12),
        feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    )  # fmt: skip


def dit() -> diffusers.DiffusionPipeline:
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=3, sample_size=16,
        patch_size=2, num_embeds_ada_norm=5, norm_num_groups=4,
    )  # fmt: skip
    return diffusers.DiTPipeline(transformer=net, vae=vae(), scheduler=scheduler())


PIPELINES: dict[str, Callable[[], diffusers.DiffusionPipeline]] = {
    "sd": stable_diffusion,
    "sdxl": stable_diffusion_xl,
    "sd_im": image_variations,
    "dit": dit,
}


def save_pipeline(folder: Path, name: str = "sd") -> Path:
    torch.manual_seed(0)
    PIPELINES[name]().save_pretrained(folder)
    return folder
