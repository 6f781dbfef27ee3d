"""Tiny real checkpoints in the shape of LLaVA-1.5, and how they are loaded."""

from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip import CLIPImageProcessorPil

from mllm_probe.config.model import ModelSettings, PromptSettings
from mllm_probe.models.blueprint import Blueprint

IMAGE_TAG = {"image_token": "<image>"}
CHAT = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
    "{% for p in m['content'] %}{{ '<image>\\n' if p['type'] == 'image' else p['text'] }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)


def make_tokenizer(
    named: Mapping[str, str] = IMAGE_TAG, others: tuple[str, ...] = (), bos: bool = True
) -> PreTrainedTokenizerFast:
    """Byte-level BPE with few merges, so that words of captions have several tokens; ids 0-2 are pad, bos, eos."""
    special = ["<pad>", "<s>", "</s>", *named.values(), *others]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 316,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["USER: This image contains: a red circle. Is this right? ASSISTANT:"] * 4, trainer)
    if bos:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", extra_special_tokens=dict(named)
    )


def save_llava(folder: Path, max_positions: int = 512) -> Path:
    """A tiny LLaVA in the shape of LLaVA-1.5: CLIP with a class token, features of the last block but one."""
    tokenizer = make_tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=max_positions,
            initializer_range=0.2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_token_id=3,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=16,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    processor.save_pretrained(folder)
    return folder


def blueprint_of(checkpoint: Path, padding_side: str = "right", chat: str = "auto", **settings: object) -> Blueprint:
    options = {"quantization": "none", "dtype": "float32", **settings}
    return Blueprint(checkpoint, ModelSettings(**options), PromptSettings(chat=chat), padding_side)  # type: ignore[arg-type]
