"""A LLaVA whose weights are set by hand, so that it is known where the picture is read: block READS copies it to the
statement, block TELLS copies the statement to the last token, and no other block does anything."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from mllm_probe.models.hf import load_model
from mllm_probe.models.tails.engine import Tails
from mllm_probe.models.tails.plain import Plain
from mllm_probe.records.interventions import CUT, Intervention
from mllm_probe.records.protocols import Intervenable
from mllm_probe.records.samples import Sample
from mllm_probe.records.spans import tokens_of
from tests.support.checkpoints import blueprint_of, save_llava

TOP, READS, TELLS, LARGE = 6, 2, 5, 30.0
CONTENT, HEARD, SAID, PICTURE, STATEMENT, FIRST, ONE, OTHER = range(8)  # of the states, what each of them means
SLOW, SLOWER = 6, 7  # of a head's 16, rotated so slowly that it does not matter
WINDOWS = [(first, last) for first in range(1, TOP + 1) for last in range(first, TOP + 1)]


def attention(layer: Any, pairs: Sequence[tuple[int, int]], read: int, written: int) -> None:
    """The first head: tokens with a query's sign read those with its key's, and what they read is written down."""
    own = layer.self_attn
    for row, (query, key) in zip((SLOWER, SLOW), pairs, strict=False):
        own.q_proj.weight[row, query] = own.k_proj.weight[row, key] = LARGE
    own.v_proj.weight[0, read] = own.o_proj.weight[written, 0] = 1.0


@torch.no_grad()
def build(folder: Path, statement: Sequence[int]) -> None:
    """`statement`: ids that stand in statements alone."""
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    before = LlavaConfig.from_pretrained(folder)
    text = LlamaConfig(
        vocab_size=before.text_config.vocab_size,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=TOP,
        num_attention_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e12},
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    toy = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision, text_config=text, image_token_id=3, vision_feature_layer=-2, image_seq_length=16
        )
    )
    language, projector = toy.model.language_model, toy.model.multi_modal_projector
    for name, weights in language.named_parameters():
        weights.fill_(1.0 if "norm" in name else 0.0)
    words = language.embed_tokens.weight
    words[:, ONE], words[:, OTHER] = 1.0, 1.0
    words[list(statement), STATEMENT], words[list(statement), OTHER] = 1.0, 0.0
    words[1, FIRST] = 1.0
    projector.linear_2.weight.zero_()
    projector.linear_2.weight[CONTENT].normal_()
    projector.linear_2.bias.zero_()
    projector.linear_2.bias[[PICTURE, ONE, OTHER]] = 1.0
    attention(language.layers[READS - 1], [(STATEMENT, PICTURE), (OTHER, FIRST)], CONTENT, HEARD)
    attention(language.layers[TELLS - 1], [(ONE, STATEMENT)], HEARD, SAID)
    toy.lm_head.weight.zero_()
    toy.lm_head.weight[5, SAID], toy.lm_head.weight[7, SAID] = 1.0, -1.0
    toy.save_pretrained(folder)


@pytest.fixture(scope="module", params=["tails", "plain"])
def toy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, samples: Sequence[Sample]
) -> Intervenable:
    folder = save_llava(tmp_path_factory.mktemp("toy") / "llava")
    blueprint = blueprint_of(folder)
    inside, outside = set[int](), set[int]()
    for layout in blueprint.layouts(samples, blueprint.process(samples)):
        ids = [int(one) for one in layout.ids]
        said = set(tokens_of(layout, "statement"))
        inside |= {one for n, one in enumerate(ids) if n in said}
        outside |= {one for n, one in enumerate(ids) if n not in said}
    build(folder, sorted(inside - outside))
    blueprint = blueprint_of(folder)
    model = load_model(blueprint, "cpu")
    if request.param == "plain":
        return Plain(model, blueprint, [[5], [7]])
    return Tails(model, blueprint, [[5], [7]], "cpu")


@pytest.mark.parametrize(
    ("source", "span", "block"), [("image", "statement", READS), ("statement", "last", TELLS), ("image", "last", None)]
)
def test_effects_are_where_the_blocks_are(
    toy: Intervenable, samples: Sequence[Sample], source: str, span: str, block: int | None
) -> None:
    cuts = [Intervention(CUT, span, source=source, window=window) for window in WINDOWS]
    found = toy.outcomes(samples[:4], cuts)
    assert np.abs(found.clean_d).min() > 0.1
    for window, d in zip(WINDOWS, found.d, strict=True):
        moved = np.abs(d - found.clean_d) > 1e-3 * np.abs(found.clean_d)
        assert moved.all() if block and window[0] <= block <= window[1] else not moved.any(), window
