"""The mini model's parts: processor, architecture, and how texts about pictures are packed into rows.

All texts about one picture stand behind one copy of its tokens, in one row: each attends to the picture and to itself
alone. Knows nothing of training.
"""

from dataclasses import dataclass, field
from random import Random

import torch
from mini_texts import STAGES, Text, base_texts, tune_texts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.siglip import SiglipImageProcessorPil

from mllm_probe.data.drawing import Scene, draw, random_scene

IMAGE, PIXELS, PATCH = "<image>", 48, 8
WIDTH, BLOCKS, HEADS = 128, 8, 4
TOKENS_PER_IMAGE = (PIXELS // PATCH) ** 2
IGNORED = -100
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'][0]['text'] + ' ' }}{% else %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@dataclass
class Row:
    """One packed row: the token ids, the text each belongs to (0 = shared picture part), positions and labels."""

    ids: list[int]
    segments: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shared = len(self.ids)
        self.segments, self.positions = [0] * self.shared, list(range(self.shared))
        self.labels = [IGNORED] * self.shared

    def add(self, prompt: list[int], target: list[int]) -> None:
        ids = prompt + target
        self.ids += ids
        self.segments += [self.segments[-1] + 1] * len(ids)
        self.positions += range(self.shared, self.shared + len(ids))
        self.labels += [IGNORED] * len(prompt) + target


def make_processor(seed: int) -> LlavaProcessor:
    """Byte-level BPE, so that any caption can be written; the words of scenes are one token each."""
    rng = Random(f"tokenizer/{seed}")
    corpus = []
    for _ in range(3000):
        scenes = [random_scene(rng), random_scene(rng)]
        for texts in (base_texts(scenes[:1], rng), base_texts(scenes, rng), tune_texts(scenes[:1], rng)):
            corpus += [f"USER: \n{text.prompt}{text.target}" for text in texts]
        corpus += [f"USER: \n{text.prompt}{text.target}" for text in tune_texts(scenes, rng)]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<s>", "</s>", IMAGE]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=704, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=2048,
        extra_special_tokens={"image_token": IMAGE},
    )
    images = SiglipImageProcessorPil(size={"height": PIXELS, "width": PIXELS})
    return LlavaProcessor(images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="full")


def make_model(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    tokenizer = processor.tokenizer
    vision = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=256,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        image_size=PIXELS,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=384,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        max_position_embeddings=2048,
        initializer_range=0.06,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_seq_length=TOKENS_PER_IMAGE,
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config)


@dataclass(frozen=True)
class Packer:
    """Scenes and texts -> the model's inputs, in the very words of the chat template."""

    processor: LlavaProcessor
    stage: str

    def row(self, scenes: list[Scene], texts: list[Text]) -> Row:
        pictures = f"{IMAGE * TOKENS_PER_IMAGE}\n" * len(scenes)
        row = Row(self.processor.tokenizer(pictures if self.stage == "base" else "USER: " + pictures).input_ids)
        for text in texts:
            row.add(self._ids(text.prompt), [*self._ids(text.target), self.processor.tokenizer.eos_token_id])
        return row

    def _ids(self, text: str) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def batch(self, rng: Random, pictures: int, per_row: int) -> dict[str, torch.Tensor]:
        """`pictures` new scenes, `per_row` (1 or 2) in each row."""
        scenes = [random_scene(rng) for _ in range(pictures)]
        groups = [scenes[i : i + per_row] for i in range(0, pictures, per_row)]
        rows = [self.row(group, STAGES[self.stage](group, rng)) for group in groups]
        images = self.processor.image_processor([draw(scene) for scene in scenes], return_tensors="pt")
        return {"pixel_values": images["pixel_values"], **pad(rows, self.processor.tokenizer.pad_token_id)}


def pad(rows: list[Row], pad_id: int) -> dict[str, torch.Tensor]:
    """Rows -> ids, positions, labels [B, L] and the mask [B, 1, L, L] (True = may attend)."""
    length = max(len(row.ids) for row in rows)

    def stack(name: str, fill: int) -> torch.Tensor:
        lists = [getattr(row, name) for row in rows]
        return torch.tensor([values + [fill] * (length - len(values)) for values in lists])

    segments = stack("segments", -1)
    same = segments[:, :, None] == segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = (same | (segments == 0)[:, None, :]) & causal
    return {
        "input_ids": stack("ids", pad_id),
        "position_ids": stack("positions", 0),
        "labels": stack("labels", IGNORED),
        "attention_mask": mask[:, None],
    }
