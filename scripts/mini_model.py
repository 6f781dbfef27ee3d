"""The mini model's parts: processor, architecture, and how texts about pictures are packed into rows.

All texts about one picture stand behind one copy of its tokens, in one row: each attends to the picture and to itself
alone. Knows nothing of training.
"""

from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from mini_texts import CLIP_STAGES, STAGES, Material, Text
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

from mllm_probe.data.clips import MAX_PICTURES, random_clip
from mllm_probe.data.drawing import Scene, draw

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


def make_processor(seed: int, material: Material) -> LlavaProcessor:
    """Byte-level BPE, so that any caption can be written; the words of scenes are one token each."""
    rng = Random(f"tokenizer/{seed}")
    texts: list[Text] = []
    for i in range(3000):
        scenes = [material.scene(rng) for _ in range(material.pictures)]
        for tell in STAGES.values():
            texts += tell(scenes[:1], rng, material) + tell(scenes, rng, material)
        if material.clips:
            clip = random_clip(rng, 2 + i % (MAX_PICTURES - 1))
            texts += [text for tell in CLIP_STAGES.values() for text in tell(clip, rng, material)]
    corpus = [f"USER: \n{text.prompt}{text.target}" for text in texts]
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


def make_model(processor: LlavaProcessor, blocks: int) -> LlavaForConditionalGeneration:
    """Random weights; `blocks` are those of the language model."""
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
        num_hidden_layers=blocks,
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


@torch.no_grad()
def take_over(model: LlavaForConditionalGeneration, words: PreTrainedTokenizerFast, folder: Path) -> None:
    """Give `model`, whose tokens are `words`, what a checkpoint of fewer language blocks has learnt.

    A block of its own, which adds nothing at first, is put before each of the first blocks; so for the old words the
    model answers as the checkpoint did. A new word begins as the mean of the old tokens that spell it.
    """
    former = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).model
    own, spelt = model.model, LlavaProcessor.from_pretrained(folder).tokenizer
    learnt = list(former.language_model.layers)
    new = len(own.language_model.layers) - len(learnt)
    if not 0 <= new <= len(learnt):
        most = 2 * len(learnt)
        raise SystemExit(
            f"--blocks={len(learnt) + new}: {folder} has {len(learnt)} blocks and can grow to {most} at most"
        )
    own.vision_tower.load_state_dict(former.vision_tower.state_dict())
    own.multi_modal_projector.load_state_dict(former.multi_modal_projector.state_dict())
    own.language_model.norm.load_state_dict(former.language_model.norm.state_dict())
    for i, block in enumerate(own.language_model.layers):
        if i < 2 * new and i % 2 == 0:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        else:
            block.load_state_dict(learnt.pop(0).state_dict())
    vectors, held = former.language_model.embed_tokens.weight, spelt.get_vocab()
    for token, i in words.get_vocab().items():
        pieces = [held[token]] if token in held else spelt(words.decode([i]), add_special_tokens=False).input_ids
        own.language_model.embed_tokens.weight[i] = vectors[pieces].mean(0)


@dataclass(frozen=True)
class Packer:
    """Scenes and texts -> the model's inputs, in the very words of the chat template."""

    processor: LlavaProcessor
    stage: str
    material: Material

    def row(self, scenes: list[Scene], texts: list[Text]) -> Row:
        pictures = f"{IMAGE * TOKENS_PER_IMAGE}\n" * len(scenes)
        row = Row(self.processor.tokenizer(pictures if self.stage == "base" else "USER: " + pictures).input_ids)
        for text in texts:
            row.add(self._ids(text.prompt), [*self._ids(text.target), self.processor.tokenizer.eos_token_id])
        return row

    def _ids(self, text: str) -> list[int]:
        return self.processor.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def batch(self, rng: Random, pictures: int, per_row: int = 1, moving: bool = False) -> dict[str, torch.Tensor]:
        """Rows of `per_row` new pictures each, about `pictures` in all; `moving`: each row's are one clip."""
        count = pictures // per_row
        if moving:
            clips = [random_clip(rng, per_row) for _ in range(count)]
            groups = [list(clip.scenes) for clip in clips]
            texts = [CLIP_STAGES[self.stage](clip, rng, self.material) for clip in clips]
        else:
            groups = [[self.material.scene(rng) for _ in range(per_row)] for _ in range(count)]
            texts = [STAGES[self.stage](group, rng, self.material) for group in groups]
        rows = [self.row(group, own) for group, own in zip(groups, texts, strict=True)]
        drawn = [draw(scene) for group in groups for scene in group]
        images = self.processor.image_processor(drawn, return_tensors="pt")
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
