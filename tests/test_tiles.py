"""A model that cuts pictures into tiles: every picture has its own number of tokens in the language model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CHAT, blueprint_of, make_tokenizer
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
)
from transformers.models.llava_next import LlavaNextImageProcessorPil

from mllm_probe.errors import ModelError
from mllm_probe.extraction.taps import read_states
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.hf import load_model
from mllm_probe.records.samples import Picture, Sample
from mllm_probe.records.sites import Key

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


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Blueprint:
    return blueprint_of(save_llava_next(tmp_path_factory.mktemp("tiles")))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Three pictures of three shapes, so three numbers of tiles and of picture tokens."""
    place, rng = tmp_path_factory.mktemp("odd"), np.random.default_rng(0)
    samples = []
    for width, height in ((64, 64), (40, 90), (90, 40)):
        path = place / f"{width}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
        samples.append(Sample.of([Picture(path.stem, path, path.stem)], "a red circle", {}))
    return samples


def test_the_language_model_reads_each_pictures_own_tokens(tiled: Blueprint, odd: list[Sample]) -> None:
    model, keys = (
        load_model(tiled, "cpu"),
        [Key.parse(f"lm.02@{name}") for name in ("mean_image", "last_image", "last")],
    )
    together = read_states(model, model.collate(odd, keys), keys, torch.float32)
    alone = [read_states(model, model.collate([sample], keys), keys, torch.float32) for sample in odd]
    lengths = {model.collate([sample], keys).readings["lm", "mean_image"].tokens.size for sample in odd}
    assert len(lengths) > 1
    for key in keys:
        assert torch.allclose(together.values[key], torch.cat([one.values[key] for one in alone]), atol=1e-5)


def test_a_site_with_another_number_of_tokens_is_refused() -> None:
    from mllm_probe.extraction.taps import Pooling
    from mllm_probe.records.batches import Reading

    with pytest.raises(ModelError, match="a site has 10 tokens where 12 were expected"):
        Pooling(Reading.of([[[0]], [[6]]], among=12))(torch.zeros(2, 5, 3))
