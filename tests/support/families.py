"""Tiny random checkpoints of the model families, made from transformers' own config, model and processor classes.

Every language model has 4 blocks of 64 dimensions and 4 heads; weights are drawn wide, so that states differ clearly.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from tests.support.checkpoints import make_tokenizer

SMALL: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
TEXT: dict[str, Any] = SMALL | {
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
QWEN = {  # named as in Qwen's configs, less "_id"
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
IDEFICS = (
    "<fake_token_around_image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)),
)
CHAT = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for p in m['content'] %}{{ 'IMAGE' if p['type'] == 'image' else p['text'] }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)


def chat(image: str) -> str:
    """A template that puts the family's own placeholder where the picture is."""
    return CHAT.replace("IMAGE", image)


def save(folder: Path, kind: Callable[[Any], Any], config: Any, processor: Any) -> Path:
    """Weights of seed 0 beside their config and processor; what begins as nothing (Gemma 3's connector, Mllama's gates)
    is drawn, too, or no picture would reach the text."""
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.any() and (weight.dim() > 1 or name.endswith("gate")):
                weight.normal_(std=0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


class Parts:
    """A processor whose class needs torchvision to exist: saved in parts, in the files that the hub has of them."""

    def __init__(self, processor_class: str, images: Any, tokenizer: Any, chat_template: str, **settings: Any) -> None:
        self.images, self.tokenizer, self.chat_template = images, tokenizer, chat_template
        self.settings = {"processor_class": processor_class, **settings}

    def save_pretrained(self, folder: Path) -> None:
        self.images.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        (folder / "chat_template.jinja").write_text(self.chat_template)
        (folder / "processor_config.json").write_text(json.dumps(self.settings))


def siglip(image_size: int = 32) -> Any:
    return hf.SiglipVisionConfig(
        **SMALL, num_hidden_layers=3, image_size=image_size, patch_size=8, vision_use_head=False
    )


def save_qwen(folder: Path, name: str, vision: dict[str, Any], sections: list[int]) -> Path:
    """What Qwen2-VL, 2.5 and 3 share: packed patches, four merged into one token, positions in three axes."""
    tokenizer = make_tokenizer(QWEN, bos=False)
    ids = {f"{token}_id": tokenizer.convert_tokens_to_ids(text) for token, text in QWEN.items()}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections}
    text = TEXT | {"vocab_size": len(tokenizer), "rope_parameters": rope}
    if name == "Qwen3VL":
        text["head_dim"] = 16
    vision = {"num_heads": 4, "patch_size": 8, "initializer_range": 0.2} | vision
    config = getattr(hf, f"{name}Config")(text_config=text, vision_config=vision, **ids)
    images = Qwen2VLImageProcessorPil(patch_size=8, size={"shortest_edge": 32 * 32, "longest_edge": 64 * 64})
    template = chat("<|vision_start|><|image_pad|><|vision_end|>")
    processor = Parts(f"{name}Processor", images, tokenizer, template)
    return save(folder, getattr(hf, f"{name}ForConditionalGeneration"), config, processor)


def save_qwen2_vl(folder: Path) -> Path:
    return save_qwen(folder, "Qwen2VL", {"depth": 3, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2}, [2, 3, 3])


def save_qwen2_5_vl(folder: Path) -> Path:
    """Two of three picture blocks see windows of four tokens only."""
    vision = {"depth": 3, "hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 64}
    vision |= {"window_size": 32, "fullatt_block_indexes": [2]}
    return save_qwen(folder, "Qwen2_5_VL", vision, [2, 3, 3])


def save_qwen3_vl(folder: Path) -> Path:
    """The language model's first two blocks get picture features of their own (deepstack)."""
    vision = {"depth": 3, "hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 64}
    vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    return save_qwen(folder, "Qwen3VL", vision, [4, 2, 2])


def save_paligemma(folder: Path) -> Path:
    """The prompt is a prefix that sees itself in both directions; the processor adds <s> behind the picture."""
    tokenizer = make_tokenizer({"image_token": "<image>"}, bos=False)
    images = SiglipImageProcessorPil(size={"height": 32, "width": 32}, image_seq_length=16)
    processor = hf.PaliGemmaProcessor(images, tokenizer, chat_template=chat("<image>"))  # adds 1152 tokens
    config = hf.PaliGemmaConfig(
        vision_config=siglip(),
        text_config=hf.GemmaConfig(**TEXT, vocab_size=len(tokenizer), head_dim=16),
        image_token_index=processor.image_token_id,
        projection_dim=64,
        hidden_size=64,
    )
    return save(folder, hf.PaliGemmaForConditionalGeneration, config, processor)


def save_internvl(folder: Path) -> Path:
    """Tiles of 4 tokens, one run of them between two marks."""
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = make_tokenizer(named, bos=False)
    vision = hf.InternVLVisionConfig(
        **SMALL, num_hidden_layers=3, image_size=[32, 32], patch_size=[8, 8], initializer_range=0.2
    )
    config = hf.InternVLConfig(
        vision_config=vision,
        text_config=hf.Qwen2Config(**TEXT, vocab_size=len(tokenizer)),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
    )
    images = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
    processor = Parts("InternVLProcessor", images, tokenizer, chat("<IMG_CONTEXT>\\n"), image_seq_length=4)
    return save(folder, hf.InternVLForConditionalGeneration, config, processor)


def idefics_parts(tokenizer: Any, vision: Any) -> dict[str, Any]:
    """Idefics3 and SmolVLM differ in class names only."""
    return {
        "vision_config": vision(
            **SMALL, num_hidden_layers=3, image_size=32, patch_size=8, num_channels=3, initializer_range=0.2
        ),
        "text_config": hf.LlamaConfig(**TEXT, vocab_size=len(tokenizer)),
        "image_token_id": tokenizer.image_token_id,
        "scale_factor": 2,
        "pad_token_id": 0,
    }


def save_idefics3(folder: Path) -> Path:
    """Tiles of 4 tokens, each behind a mark that names its row and column."""
    tokenizer = make_tokenizer({"image_token": "<image>"}, IDEFICS)
    config = hf.Idefics3Config(**idefics_parts(tokenizer, hf.Idefics3VisionConfig))
    images = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = hf.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=chat("<image>"))
    return save(folder, hf.Idefics3ForConditionalGeneration, config, processor)


def save_smolvlm(folder: Path) -> Path:
    """As Idefics3."""
    tokenizer = make_tokenizer({"image_token": "<image>"}, IDEFICS, bos=False)
    config = hf.SmolVLMConfig(**idefics_parts(tokenizer, hf.SmolVLMVisionConfig))
    images = SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = Parts("SmolVLMProcessor", images, tokenizer, chat("<image>"), image_seq_len=4)
    return save(folder, hf.SmolVLMForConditionalGeneration, config, processor)


def save_llava_onevision(folder: Path) -> Path:
    """Tiles as in LLaVA-NeXT, with a newline feature at the end of every row."""
    tokenizer = make_tokenizer({"image_token": "<image>", "video_token": "<video>"}, bos=False)
    grid = [[32, 64], [64, 32]]
    config = hf.LlavaOnevisionConfig(
        vision_config=siglip(),
        text_config=hf.Qwen2Config(**TEXT, vocab_size=len(tokenizer)),
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=grid,
    )
    images = LlavaOnevisionImageProcessorPil(size={"height": 32, "width": 32}, image_grid_pinpoints=grid)
    settings = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
    processor = Parts("LlavaOnevisionProcessor", images, tokenizer, chat("<image>\\n"), **settings)
    return save(folder, hf.LlavaOnevisionForConditionalGeneration, config, processor)


def save_mistral3(folder: Path) -> Path:
    """Rows of picture tokens with a mark at the end of each, as many as the picture's shape asks for."""
    tokenizer = make_tokenizer({"image_token": "[IMG]"}, ("[IMG_BREAK]", "[IMG_END]"))
    vision = hf.PixtralVisionConfig(**SMALL, num_hidden_layers=3, image_size=64, patch_size=8, initializer_range=0.2)
    config = hf.Mistral3Config(
        vision_config=vision,
        text_config=hf.MistralConfig(**TEXT, vocab_size=len(tokenizer), sliding_window=None),
        image_token_index=tokenizer.image_token_id,
        spatial_merge_size=2,
    )
    images = PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 16, "width": 16})
    processor = Parts("PixtralProcessor", images, tokenizer, chat("[IMG]"), patch_size=8, spatial_merge_size=2)
    return save(folder, hf.Mistral3ForConditionalGeneration, config, processor)


def save_gemma3(folder: Path) -> Path:
    """A picture's tokens see each other in both directions; every other block has a window of 8 tokens."""
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = make_tokenizer(named)
    text = hf.Gemma3TextConfig(
        **TEXT,
        vocab_size=len(tokenizer),
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    config = hf.Gemma3Config(
        vision_config=siglip(64),
        text_config=text,
        mm_tokens_per_image=16,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
        initializer_range=0.2,
    )
    images = Gemma3ImageProcessorPil(size={"height": 64, "width": 64})
    processor = hf.Gemma3Processor(images, tokenizer, image_seq_length=16, chat_template=chat("<start_of_image>"))
    return save(folder, hf.Gemma3ForConditionalGeneration, config, processor)


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "qwen2_5_vl": save_qwen2_5_vl,
    "qwen2_vl": save_qwen2_vl,
    "paligemma": save_paligemma,
    "qwen3_vl": save_qwen3_vl,
    "internvl": save_internvl,
    "idefics3": save_idefics3,
    "smolvlm": save_smolvlm,
    "llava_onevision": save_llava_onevision,
    "mistral3": save_mistral3,
    "gemma3": save_gemma3,
}
