"""Tiny random vision encoders, made from transformers' own config, model and processor classes, and drawn pictures with
keypoints in SPair-71k's layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

SMALL: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3}
TOWER = SMALL | {"intermediate_size": 64, "image_size": 32, "patch_size": 8}
TEXT = SMALL | {"intermediate_size": 64, "vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
CROPPED = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}


def save(folder: Path, kind: Callable[[Any], Any], config: Any, images: Any) -> Path:
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    images.save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    """Both towers, as on the hub; one class token before 4 x 4 patches."""
    config = hf.CLIPConfig(vision_config=TOWER, text_config=TEXT)
    return save(folder, hf.CLIPModel, config, CLIPImageProcessorPil(**CROPPED))


def save_dinov2(folder: Path) -> Path:
    """Trained at 64 pixels, so that 32 are interpolated; a class token."""
    config = hf.Dinov2Config(**SMALL, image_size=64, patch_size=8)
    return save(folder, hf.Dinov2Model, config, BitImageProcessorPil(**CROPPED))


def save_registers(folder: Path) -> Path:
    """A class token and four registers."""
    config = hf.Dinov2WithRegistersConfig(**SMALL, image_size=32, patch_size=8, num_register_tokens=4)
    return save(folder, hf.Dinov2WithRegistersModel, config, BitImageProcessorPil(**CROPPED))


def save_siglip(folder: Path) -> Path:
    """No class token; 3 x 3 patches."""
    config = hf.SiglipConfig(vision_config=TOWER | {"image_size": 48, "patch_size": 16}, text_config=TEXT)
    return save(folder, hf.SiglipModel, config, SiglipImageProcessorPil(size={"height": 48, "width": 48}))


def save_bert(folder: Path, tokenizer: Any) -> Path:
    """A text encoder has no processor."""
    config = hf.BertConfig(**SMALL, intermediate_size=64, vocab_size=len(tokenizer), max_position_embeddings=64)
    return save(folder, hf.BertModel, config, tokenizer)


def save_llama(folder: Path, tokenizer: Any) -> Path:
    """A decoder: what its first token says is the same for all sentences."""
    config = hf.LlamaConfig(**SMALL, intermediate_size=64, vocab_size=len(tokenizer), max_position_embeddings=64)
    return save(folder, hf.LlamaModel, config, tokenizer)


def save_dual(folder: Path, tokenizer: Any, kind: str) -> Path:
    """CLIP or SigLIP with a tokenizer; sentences up to 16 tokens, so that longer ones are cut."""
    text = TEXT | {"vocab_size": len(tokenizer), "max_position_embeddings": 16}
    if kind == "clip":
        save(
            folder,
            hf.CLIPModel,
            hf.CLIPConfig(vision_config=TOWER, text_config=text, projection_dim=24),
            CLIPImageProcessorPil(**CROPPED),
        )
    else:
        save(
            folder,
            hf.SiglipModel,
            hf.SiglipConfig(vision_config=TOWER, text_config=text),
            SiglipImageProcessorPil(size={"height": 32, "width": 32}),
        )
    tokenizer.save_pretrained(folder)
    return folder


ENCODERS: dict[str, tuple[Callable[[Path], Path], int]] = {  # and the tokens before the patches
    "clip": (save_clip, 1),
    "dinov2": (save_dinov2, 1),
    "registers": (save_registers, 5),
    "siglip": (save_siglip, 0),
}


def write_spair(root: Path, separator: str = ":") -> Path:
    """Two categories of two pictures each, wide and tall, noise with three bright squares that the keypoints mark; the
    pairs go both ways."""
    rng = np.random.default_rng(0)
    names = []
    for category in ("cat", "cow"):
        (root / "JPEGImages" / category).mkdir(parents=True)
        shapes = {"one": (60, 40), "two": (40, 60)}
        points = {}
        for name, (width, height) in shapes.items():
            pixels = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
            points[name] = [[8, 9], [30, 12], [22, 33]] if name == "one" else [[11, 8], [31, 14], [20, 50]]
            for (x, y), colour in zip(points[name], ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=True):
                pixels[y - 4 : y + 4, x - 4 : x + 4] = colour
            Image.fromarray(pixels).save(root / "JPEGImages" / category / f"{name}.png")
        for number, (source, target) in enumerate((("one", "two"), ("two", "one"))):
            names.append(f"{number:06d}-{source}-{target}{separator}{category}")
            write_pair(root, names[-1], category, (source, target), shapes, points)
    (root / "Layout" / "large").mkdir(parents=True)
    (root / "Layout" / "large" / "test.txt").write_text(
        "\n".join(name.replace(separator, ":") for name in names) + "\n"
    )
    return root


def write_pair(root: Path, stem: str, category: str, ends: tuple[str, str], shapes: Any, points: Any) -> None:
    told: dict[str, Any] = {"category": category, "filename": stem}
    for side, name in zip(("src", "trg"), ends, strict=True):
        width, height = shapes[name]
        told |= {f"{side}_imname": f"{name}.png", f"{side}_imsize": [width, height, 3]}
        told |= {f"{side}_kps": points[name], f"{side}_bndbox": [2, 4, width - 3, height - 6]}
    path = root / "PairAnnotation" / "test" / f"{stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))


def noise(size: int, number: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8))
