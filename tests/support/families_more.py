"""Tiny random checkpoints of families built otherwise: pictures before the text, Q-Formers, cross-attention, pictures
as words."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.chameleon.image_processing_pil_chameleon import ChameleonImageProcessorPil
from transformers.models.clip import CLIPImageProcessorPil
from transformers.models.llava_next import LlavaNextImageProcessorPil
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.support.checkpoints import CHAT, make_tokenizer, save_llava
from tests.support.families import FAMILIES, SMALL, TEXT, Parts, chat, save, siglip

BLIP = SMALL | {"num_hidden_layers": 3, "image_size": 32, "patch_size": 8, "initializer_range": 0.2}
QUERIES = 8
GRID = [[32, 64], [64, 32], [64, 64]]


def save_llava_next(folder: Path) -> Path:
    tokenizer = make_tokenizer()
    small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**small, num_hidden_layers=3, image_size=32, patch_size=8),
        text_config=LlamaConfig(**small, vocab_size=len(tokenizer), num_hidden_layers=4, pad_token_id=0),
        image_token_id=3,
        image_grid_pinpoints=GRID,
        image_seq_length=16,
    )
    torch.manual_seed(0)
    LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=GRID
    )
    LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)
    return folder


VIT = SMALL | {"num_hidden_layers": 3, "image_size": 32, "patch_size": 8, "initializer_range": 0.2}
DINO = {name: value for name, value in VIT.items() if name != "intermediate_size"}
TOWERS: dict[str, tuple[Callable[[], Any], int, str]] = {  # another tower in a LLaVA, and its tokens before the patches
    "dinov2": (lambda: hf.Dinov2Config(**DINO), 1, "default"),
    "dinov2_with_registers": (lambda: hf.Dinov2WithRegistersConfig(**DINO, num_register_tokens=4), 5, "default"),
    "dinov3": (lambda: hf.DINOv3ViTConfig(**VIT, num_register_tokens=4), 5, "full"),
    "deit": (lambda: hf.DeiTConfig(**VIT), 2, "default"),
    "aimv2": (lambda: hf.Aimv2VisionConfig(**VIT), 0, "full"),
}


def save_tower(folder: Path, name: str, **told: Any) -> Path:
    """A LLaVA with one of TOWERS; `told` changes what its processor's files say."""
    vision, leading, strategy = TOWERS[name]
    tokenizer = make_tokenizer()
    config = hf.LlavaConfig(
        vision_config=vision(),
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer)),
        image_token_id=3,
        vision_feature_layer=-2,
        vision_feature_select_strategy=strategy,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    settings = {"patch_size": 8, "vision_feature_select_strategy": strategy, "num_additional_image_tokens": leading}
    processor = hf.LlavaProcessor(images, tokenizer, **{**settings, **told}, chat_template=CHAT)
    return save(folder, hf.LlavaForConditionalGeneration, config, processor)


def save_kosmos2(folder: Path) -> Path:
    """A resampler of 64 queries; the processor writes the ids of ordinary words for them, and a mask."""
    tokenizer = make_tokenizer({"unk_token": "<unk>", "boi": "<image>", "eoi": "</image>"}, bos=False)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = hf.Kosmos2Processor(images, tokenizer)  # adds tokens for places in the picture
    text = {"embed_dim": 64, "layers": 4, "ffn_dim": 128, "attention_heads": 4, "max_position_embeddings": 512}
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    vision = SMALL | {"num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
    config = hf.Kosmos2Config(text_config=text | ids | {"init_std": 0.2}, vision_config=vision, latent_query_num=64)
    return save(folder, hf.Kosmos2ForConditionalGeneration, config, processor)


def blip_parts(text: Any, tokenizer: Any) -> dict[str, Any]:
    """What BLIP-2 and InstructBLIP share; picture tokens stand before <s>."""
    former = SMALL | {"num_hidden_layers": 2, "encoder_hidden_size": 64, "vocab_size": len(tokenizer)}
    return {
        "vision_config": BLIP,
        "qformer_config": former | {"initializer_range": 0.2, "cross_attention_frequency": 1},
        "text_config": text,
        "num_query_tokens": QUERIES,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "initializer_range": 0.2,
    }


def save_blip2(folder: Path) -> Path:
    """A Q-Former of 8 queries that reads the picture alone, and OPT, whose blocks end in fc2."""
    tokenizer = make_tokenizer({}, ("<image>",))
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {"hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 128, "num_hidden_layers": 4}
    text = hf.OPTConfig(**sizes, num_attention_heads=4, max_position_embeddings=512, init_std=0.2, **ids)
    config = hf.Blip2Config(**blip_parts(text, tokenizer))
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = hf.Blip2Processor(images, tokenizer, num_query_tokens=QUERIES)
    return save(folder, hf.Blip2ForConditionalGeneration, config, processor)


def save_instructblip(folder: Path) -> Path:
    """A Q-Former of 8 queries that reads the picture and the text."""
    tokenizer = make_tokenizer({}, ("<image>",))
    text = hf.LlamaConfig(**TEXT, vocab_size=len(tokenizer))
    config = hf.InstructBlipConfig(**blip_parts(text, tokenizer))
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    processor = hf.InstructBlipProcessor(images, tokenizer, make_tokenizer({}, ("<image>",)), num_query_tokens=QUERIES)
    return save(folder, hf.InstructBlipForConditionalGeneration, config, processor)


def save_mllama(folder: Path) -> Path:
    """One of four language blocks attends to the picture, of which the prompt holds one token and no more."""
    tokenizer = make_tokenizer({"image_token": "<|image|>"}, bos=False)
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_global_layers": 2}
    vision |= {"attention_heads": 4, "image_size": 32, "patch_size": 8, "initializer_range": 0.2}
    vision |= {"vision_output_dim": 192, "intermediate_layers_indices": [0, 1], "max_num_tiles": 4}
    vision |= {"supported_aspect_ratios": [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "vocab_size": len(tokenizer)}
    text = TEXT | {"cross_attention_layers": [1]} | rope
    config = hf.MllamaConfig(vision_config=vision, text_config=text, image_token_index=tokenizer.image_token_id)
    images = MllamaImageProcessorPil(size={"height": 32, "width": 32}, max_image_tiles=4)
    processor = hf.MllamaProcessor(images, tokenizer, chat_template=chat("<|image|>"))
    return save(folder, hf.MllamaForConditionalGeneration, config, processor)


def save_paligemma2(folder: Path) -> Path:
    """As PaliGemma, with Gemma 2: norms behind the parts of a block, and every other block slides over 8 tokens."""
    tokenizer = make_tokenizer({"image_token": "<image>"}, bos=False)
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32}, image_seq_length=16)
    processor = hf.PaliGemmaProcessor(images, tokenizer, chat_template=chat("<image>"))  # adds 1152 tokens
    config = hf.PaliGemmaConfig(
        vision_config=siglip(),
        text_config=hf.Gemma2Config(
            **TEXT, vocab_size=len(tokenizer), head_dim=16, query_pre_attn_scalar=16, sliding_window=8
        ),
        image_token_index=processor.image_token_id,
        projection_dim=64,
        hidden_size=64,
    )
    return save(folder, hf.PaliGemmaForConditionalGeneration, config, processor)


def save_pixtral(folder: Path) -> Path:
    """LLaVA's class with Pixtral's vision tower: rows of picture tokens, each with a mark at its end."""
    tokenizer = make_tokenizer({"image_token": "[IMG]"}, ("[IMG_BREAK]", "[IMG_END]"))
    vision = hf.PixtralVisionConfig(**SMALL, num_hidden_layers=3, image_size=64, patch_size=16, initializer_range=0.2)
    config = hf.LlavaConfig(
        vision_config=vision,
        text_config=hf.MistralConfig(**TEXT, vocab_size=len(tokenizer), sliding_window=None),
        image_token_index=tokenizer.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    images = PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 16, "width": 16})
    processor = Parts("PixtralProcessor", images, tokenizer, chat("[IMG]"), patch_size=16)
    return save(folder, hf.LlavaForConditionalGeneration, config, processor)


def save_chameleon(folder: Path) -> Path:
    """A picture becomes 16 of 64 words of its own, which a VQ-VAE writes, and the processor closes prompts for a chat
    with a separator."""
    named = {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>", "sep_token": "<sep>"}
    words = tuple(f"IMGIMG{chr(ord('A') + i // 8)}{chr(ord('A') + i % 8)}Z" for i in range(64))
    tokenizer = make_tokenizer(named, words)
    vq = {"embed_dim": 16, "num_embeddings": 64, "latent_channels": 16, "resolution": 32, "base_channels": 32}
    config = hf.ChameleonConfig(
        **TEXT,
        vocab_size=len(tokenizer),
        vocabulary_map=tokenizer.get_vocab(),
        vq_config=vq | {"channel_multiplier": [1, 1, 1, 1], "num_res_blocks": 1},
    )
    images = ChameleonImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = hf.ChameleonProcessor(images, tokenizer, image_seq_length=16)
    return save(folder, hf.ChameleonForConditionalGeneration, config, processor)


FASTVIT: dict[str, Any] = {
    "model_type": "timm_wrapper",
    "architecture": "fastvit_mci3",
    "hidden_size": 128,
    "model_args": {"layers": [1] * 5, "embed_dims": [16, 32, 32, 64, 64], "inference_mode": True},
}
CONVNEXT: dict[str, Any] = {
    "model_type": "convnext",
    "hidden_size": 32,
    "hidden_sizes": [16, 16, 32, 32],
    "depths": [1] * 4,
}


def save_fast_vlm(folder: Path, vision: dict[str, Any], patch_size: int) -> Path:
    """A vision tower of convolutions: FastViT, which needs timm, or another in its place."""
    tokenizer = make_tokenizer({"image_token": "<image>"}, bos=False)
    config = hf.FastVlmConfig(
        vision_config=vision,
        text_config=hf.Qwen2Config(**TEXT, vocab_size=len(tokenizer)),
        image_token_index=tokenizer.image_token_id,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": 128}, crop_size={"height": 128, "width": 128})
    settings = {"patch_size": patch_size, "vision_feature_select_strategy": "full", "chat_template": chat("<image>\\n")}
    return save(folder, hf.FastVlmForConditionalGeneration, config, hf.LlavaProcessor(images, tokenizer, **settings))


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "llava": save_llava,
    "llava_next": save_llava_next,
    **FAMILIES,
    "kosmos2": save_kosmos2,
    "blip2": save_blip2,
    "instructblip": save_instructblip,
    "mllama": save_mllama,
    "paligemma2": save_paligemma2,
    "pixtral": save_pixtral,
    "chameleon": save_chameleon,
}
LLAVAS = {f"llava_{name}": partial(save_tower, name=name) for name in TOWERS}
SETTINGS: dict[str, dict[str, str]] = {"paligemma2": {"attn": "eager"}}  # Gemma 2 caps its logits, which sdpa cannot
