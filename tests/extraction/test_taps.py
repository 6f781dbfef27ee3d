"""What a tap reads is what the model computes: oracles that share no code with the taps."""

from collections.abc import Sequence

import pytest
import torch
from transformers import DynamicCache
from transformers.masking_utils import create_causal_mask

from mllm_probe.extraction.taps import Pooling
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.records.batches import Reading
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Key, Site
from tests.support.checkpoints import blueprint_of
from tests.support.naive_pass import read

TOLERANCE = 2e-6  # relative, float32


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = TOLERANCE) -> bool:
    return float((a - b).norm() / b.norm()) <= tolerance


def by_hand(model: HFModel, sample: Sample) -> dict[str, torch.Tensor]:
    """Every state of one sample, its blocks called one after the other: {site: [L, D]}."""
    llava = model._model.model
    inputs = model._blueprint.process([sample])
    vision, states = llava.vision_tower, {}
    hidden = vision.pre_layrnorm(vision.embeddings(inputs["pixel_values"]))
    states["vision.00"] = hidden[0]
    for i, block in enumerate(vision.encoder.layers, 1):
        attended = block.self_attn(block.layer_norm1(hidden), attention_mask=None)[0]
        states[f"vision.{i:02d}.attn"] = attended[0]
        states[f"vision.{i:02d}.mlp"] = block.mlp(block.layer_norm2(hidden + attended))[0]
        hidden = block(hidden, attention_mask=None)
        states[f"vision.{i:02d}"] = hidden[0]
    features = llava.multi_modal_projector(states["vision.02"][None, 1:])
    states["connector"] = features[0]
    ids = inputs["input_ids"][0]
    lm = llava.language_model
    hidden = lm.embed_tokens(ids)
    hidden[ids == 3] = features[0]
    hidden, positions = hidden[None], torch.arange(len(ids))[None]
    mask = create_causal_mask(lm.config, hidden, inputs["attention_mask"], DynamicCache(), positions)
    rotary = lm.rotary_emb(hidden, positions)
    states["lm.00"] = hidden[0]
    for i, block in enumerate(lm.layers, 1):
        normed = block.input_layernorm(hidden)
        attended = block.self_attn(normed, position_embeddings=rotary, attention_mask=mask)[0]
        states[f"lm.{i:02d}.attn"] = attended[0]
        states[f"lm.{i:02d}.mlp"] = block.mlp(block.post_attention_layernorm(hidden + attended))[0]
        before, hidden = hidden, block(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rotary)
        assert close(before + attended + states[f"lm.{i:02d}.mlp"], hidden), "the block adds what its parts give"
        states[f"lm.{i:02d}"] = hidden[0]
    states["lm.04.norm"] = lm.norm(hidden)[0]
    return states


@torch.inference_mode()
def check_against_hand(model: HFModel, sample: Sample) -> None:
    expected = by_hand(model, sample)
    assert set(expected) == {str(site) for site in model.anatomy.sites()}
    for site, states in expected.items():
        tower = site.split(".")[0]
        if tower == "vision":
            states = states[1:]  # the class token is no patch
        if tower == "lm":
            assert close(read(model, [sample], f"{site}@last")[f"{site}@last"][0], states[-1]), site
            image = model._blueprint.process([sample])["input_ids"][0] == 3
            states = states[image]
        assert close(read(model, [sample], f"{site}@mean_image")[f"{site}@mean_image"][0], states.mean(0)), site
        assert close(read(model, [sample], f"{site}@last_image")[f"{site}@last_image"][0], states[-1]), site


def test_every_site_equals_its_block_called_by_hand(model: HFModel, samples: Sequence[Sample]) -> None:
    check_against_hand(model, samples[0])


@torch.inference_mode()
def test_blocks_equal_output_hidden_states(model: HFModel, samples: Sequence[Sample]) -> None:
    inputs = model._blueprint.process(samples[:1])
    out = model._model(**inputs, output_hidden_states=True)
    got = read(model, samples[:1], *(f"lm.{i:02d}@last" for i in range(5)), "lm.04.norm@last")
    for i in range(4):
        assert close(got[f"lm.{i:02d}@last"][0], out.hidden_states[i][0, -1])
    assert close(got["lm.04.norm@last"][0], out.hidden_states[4][0, -1]), "transformers' last state is post-norm"
    assert not close(got["lm.04@last"][0], out.hidden_states[4][0, -1], 1e-2), "block 4 itself is pre-norm"


def test_layer_plus_one_is_found(model: HFModel, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    right = type(model).module

    def shifted(self: HFModel, site: Site) -> tuple[torch.nn.Module, bool]:
        moved = Site(site.tower, site.layer + 1) if site.tower == "lm" and site.layer < 4 else site
        return right(self, moved)

    monkeypatch.setattr(type(model), "module", shifted)
    with pytest.raises(AssertionError):
        check_against_hand(model, samples[0])


def test_pooling_equals_a_naive_loop() -> None:
    torch.manual_seed(1)
    states = torch.randn(3, 7, 5)
    rows = [[[0, 1, 2]], [[7 + 6], [7 + 0, 7 + 3]], [[14 + 1, 14 + 2, 14 + 5, 14 + 6]]]
    got = Pooling(Reading.of(rows, among=21))(states)
    flat, expected = states.reshape(-1, 5), []
    for sample in rows:
        for segment in sample:
            total = torch.zeros(5)
            for token in segment:
                total += flat[token]
            expected.append(total / len(segment))
    assert torch.allclose(got, torch.stack(expected), atol=1e-6)
    assert Reading.of(rows, among=21).rows.tolist() == [0, 1, 3, 4]


def test_the_pass_ends_at_the_top_site_and_hooks_are_gone(model: HFModel, samples: Sequence[Sample]) -> None:
    def hooks() -> int:
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model._model.modules())

    ran, before = [], hooks()
    lm = model._model.model.language_model
    handles = [block.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(lm.layers, 1)]
    handles.append(model._model.lm_head.register_forward_hook(lambda *_: ran.append("logits")))
    read(model, samples[:2], "lm.02@last")
    assert ran == [1, 2]
    ran.clear()
    read(model, samples[:2], "vision.01@mean_image")
    assert ran == []
    for handle in handles:
        handle.remove()
    assert hooks() == before


def test_stored_states_are_copies(model: HFModel, samples: Sequence[Sample]) -> None:
    values = read(model, samples[:1], "lm.02@last")["lm.02@last"]
    assert values.untyped_storage().nbytes() == values.numel() * 4


@pytest.mark.parametrize("position", ["last", "mean_text", "mean_image", "last_image", "mean_all", "mark:caption"])
def test_batch_composition_and_padding_side_do_not_matter(
    model: HFModel, checkpoint, samples: Sequence[Sample], position: str
) -> None:
    names = [f"lm.{i:02d}@{position}" for i in (0, 2, 4)]
    left = load_model(blueprint_of(checkpoint, padding_side="left"), "cpu")
    together, mirrored = read(model, samples, *names), read(left, samples, *names)
    alone = [read(model, [sample], *names) for sample in samples]
    lengths = {len(sample.text) for sample in samples}
    assert len(lengths) > 3, "the test needs prompts of different lengths"
    for name in names:
        single = torch.cat([one[name] for one in alone])
        assert close(together[name], single, 5e-6)
        assert close(mirrored[name], single, 5e-6)


def test_the_pad_cannot_be_read(model: HFModel, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    """The habit `hidden[:, -1]` under right padding: a position beyond a sample's own tokens is refused."""
    from mllm_probe.models.prompts import prompt

    longest = model._blueprint.process(samples)["input_ids"].shape[1]
    monkeypatch.setattr(prompt.Layout, "rows", lambda self, position: [[longest - 1]])
    for shared in (False, True):
        with pytest.raises(IndexError):
            model.collate(samples, [Key.parse("lm.04@last")], shared)


def test_a_non_finite_state_names_sample_and_site(model: HFModel, samples: Sequence[Sample]) -> None:
    from mllm_probe.errors import ModelError

    block = model._model.model.language_model.layers[1]
    handle = block.register_forward_hook(lambda _m, _a, out: torch.full_like(out, float("inf")))
    try:
        with pytest.raises(ModelError, match=rf"lm.02@last of sample {samples[0].uid} is not finite"):
            read(model, samples[:2], "lm.02@last")
    finally:
        handle.remove()
