"""Models to time, made on the spot: time does not depend on the values of weights, so nothing is downloaded.

`mini` is the bundled checkpoint. `small` is a LLaVA 256 wide with the 576 picture tokens and the vocabulary of
LLaVA-1.5; `small-16` has 16 blocks for its 8. `llava-7b` and `qwen2.5-vl-7b` are the published architectures, random,
built on the device in nf4. `tiny` makes any of them small enough to try the way on a CPU. Knows nothing of timing.
"""

from pathlib import Path
from random import Random
from typing import Any

import bitsandbytes as bnb
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip import CLIPImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from mllm_probe.config.model import ModelSettings, PromptSettings
from mllm_probe.data.drawing import random_scene
from mllm_probe.data.facts import true_fact
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.models.loading.checkpoint import BUNDLED

SETTINGS = ("mini", "small", "small-16", "llava-7b", "qwen2.5-vl-7b")
LLAVA_CHAT = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for p in m['content'] %}{{ IMAGE if p['type'] == 'image' else p['text'] }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)


def make(setting: str, folder: Path, device: str, tiny: bool, dtype: str | None = None) -> HFModel:
    """The model of a setting; its config and processor are saved into `folder`. `dtype` None = what suits it."""
    prompt = PromptSettings()
    little = setting.startswith(("mini", "small"))
    dtype = dtype or ("bfloat16" if device == "cuda" and not little else "float32")
    if setting == "mini":
        return load_model(Blueprint(BUNDLED / "mini", ModelSettings(dtype=dtype), prompt, "right"), device)
    save = {"small": _save_small, "small-16": _save_deep, "llava-7b": _save_llava, "qwen2.5-vl-7b": _save_qwen}[setting]
    save(folder, tiny)
    big = not little
    settings = ModelSettings(name=setting, weights="random", quantization="nf4" if big else "none", dtype=dtype)
    blueprint = Blueprint(folder, settings, prompt, "right")
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, settings.dtype))
    try:
        with torch.device(device):
            model = blueprint.model_class(blueprint.config)
    finally:
        torch.set_default_dtype(before)
    if big:
        _quantize(model.get_submodule(blueprint.structure.blocks["lm"]), settings.dtype, device)
    return HFModel(model.eval(), blueprint, device)


def _quantize(blocks: torch.nn.Module, dtype: str, device: str) -> None:
    """Every linear layer of the blocks to nf4 with double quantisation, in place."""
    for name, linear in [(name, part) for name, part in blocks.named_modules() if isinstance(part, torch.nn.Linear)]:
        owner, _, child = name.rpartition(".")
        small = bnb.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=getattr(torch, dtype),
            quant_type="nf4",
            device="meta",
        )
        small.weight = bnb.nn.Params4bit(
            linear.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=small
        ).to(device)
        small.bias = linear.bias
        setattr(blocks.get_submodule(owner), child, small)


def _tokenizer() -> Any:
    """Trained on the statements themselves, so that a word is about one token, as large vocabularies have it."""
    rng = Random(0)
    words = [statement(rng) for _ in range(300)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<pad>", "<s>", "</s>", "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*words, "USER: ASSISTANT:"], trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )


def statement(rng: Random) -> str:
    """A prompt of the entailment task about a scene nobody drew."""
    return f"This image contains: {true_fact(random_scene(rng), rng).text()}. Is this right?"


def _save_deep(folder: Path, tiny: bool) -> None:
    _save_small(folder, tiny, blocks=16)


def _save_small(folder: Path, tiny: bool, blocks: int = 8) -> None:
    shape = {"hidden_size": 64 if tiny else 256, "num_attention_heads": 4}
    layers = 2 if tiny else blocks
    vision = CLIPVisionConfig(**shape, intermediate_size=4 * shape["hidden_size"], num_hidden_layers=layers)
    text = LlamaConfig(**shape, intermediate_size=11 * shape["hidden_size"] // 4, num_hidden_layers=layers)
    _save_clip_llava(folder, vision, text, pixels=56 if tiny else 336)


def _save_llava(folder: Path, tiny: bool) -> None:
    """LLaVA-1.5-7B: CLIP ViT-L/14 at 336 pixels and Vicuna-7B."""
    if tiny:
        _save_small(folder, tiny)
        return
    vision = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, projection_dim=768
    )
    _save_clip_llava(folder, vision, LlamaConfig(), pixels=336)


def _save_clip_llava(folder: Path, vision: Any, text: Any, pixels: int) -> None:
    vision.image_size, vision.patch_size = pixels, 14
    text.vocab_size, text.max_position_embeddings, text.pad_token_id = 32064, 4096, 0
    tokenizer = _tokenizer()
    LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=(pixels // 14) ** 2,
    ).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": pixels}, crop_size={"height": pixels, "width": pixels})
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_CHAT.replace("IMAGE", r"'<image>\n'"),
    ).save_pretrained(folder)


def _save_qwen(folder: Path, tiny: bool) -> None:
    """Qwen2.5-VL-7B: windowed vision tower of 32 blocks, 28 language blocks with grouped heads and M-RoPE."""
    tokenizer = _tokenizer()
    named = {name: f"<|{name}|>" for name in ("image_pad", "video_pad", "vision_start", "vision_end")}
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(named.values())}, replace_extra_special_tokens=False
    )
    for name, text in (("image", "image_pad"), ("video", "video_pad")):
        setattr(tokenizer, f"{name}_token", named[text])
        setattr(tokenizer, f"{name}_token_id", tokenizer.convert_tokens_to_ids(named[text]))
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(text) for name, text in named.items()}
    width, blocks, heads, groups = (64, 2, 4, 2) if tiny else (3584, 28, 28, 4)
    section = [2, 3, 3] if tiny else [16, 24, 24]
    text = {
        "hidden_size": width,
        "intermediate_size": 128 if tiny else 18944,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": 152064,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": section},
    }
    vision: dict[str, Any] = {"out_hidden_size": width}
    if tiny:
        vision |= {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4}
    transformers.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image_pad_id"],
        video_token_id=ids["video_pad_id"],
        vision_start_token_id=ids["vision_start_id"],
        vision_end_token_id=ids["vision_end_id"],
    ).save_pretrained(folder)
    # the processor in parts: its class does not exist without a video processor
    Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}).save_pretrained(folder)
    tokenizer.chat_template = LLAVA_CHAT.replace("IMAGE", "'<|vision_start|><|image_pad|><|vision_end|>'")
    tokenizer.save_pretrained(folder)
    (folder / "processor_config.json").write_text('{"processor_class": "Qwen2_5_VLProcessor"}')


def operations(model: HFModel, tokens: int, patches: int) -> float:
    """Those of the products with weights, 2 a weight and token; attention between tokens is left out."""
    counts = model._blueprint.parameters
    return 2.0 * (counts["lm"] * tokens + counts["vision"] * patches)
