"""Texts packed behind one picture have the losses of those that stand alone; a connector over standardised channels is
a plain one."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from mllm_probe.data.pictures import open_rgb
from mllm_probe.models.dense_connector import PROJECTOR
from mllm_probe.models.hf import load_model
from mllm_probe.models.loading.checkpoint import BUNDLED
from mllm_probe.models.packed_texts import (
    Packer,
    StandardisedConnector,
    Text,
    chosen,
    put_in,
    spread_of,
    text_losses,
    tower_states,
)
from mllm_probe.records.samples import Collection, Sample
from tests.support.checkpoints import blueprint_of

TEXTS = [
    [Text("", "a red circle"), Text("Is there a big square?", "yes", ends=False), Text("", "nothing at all, or two")],
    [Text("Is this a blue triangle?", "no", ends=False), Text("", "x")],
]


@torch.no_grad()
@pytest.mark.parametrize("chat", ["auto", "off"])
@pytest.mark.parametrize("name", ["mini", "tiny"])
def test_packed_texts_are_those_that_stand_alone(checkpoint: Path, scenes: Collection, name: str, chat: str) -> None:
    """By transformers, text by text: the processor's ids and pixels, the labels that the model takes."""
    folder = BUNDLED / "mini" if name == "mini" else checkpoint
    blueprint = blueprint_of(folder, chat=chat)
    network = load_model(blueprint, "cpu").network
    pictures = scenes.pictures[:2]
    rows = Packer(blueprint, pictures[1]).rows(TEXTS)
    states = tower_states(network, blueprint, pictures, "cpu")
    tokens = getattr(network.model, PROJECTOR)(torch.stack([states[one.digest] for one in pictures]))
    found, words = text_losses(network, tokens, rows, "cpu"), [5, 9, 40]
    assert rows.counts[1, 2] == found[1, 2] == 0, "the second row has two texts"
    likeliest = chosen(network, tokens, rows, "cpu", words).tolist()
    eos = blueprint.processor.tokenizer.eos_token
    for row, (picture, texts) in enumerate(zip(pictures, TEXTS, strict=True)):
        for place, text in enumerate(texts):
            prompt = blueprint.prompter.render(Sample.of([picture], text.said, {})).text
            written = prompt + text.answer + eos * text.ends
            inputs = blueprint.processor(text=[written], images=[[open_rgb(picture.path)]], return_tensors="pt")
            learnt = int(rows.counts[row, place])
            labels = inputs["input_ids"].clone()
            labels[:, :-learnt] = -100
            said = blueprint.processor.tokenizer.decode(inputs["input_ids"][0, -learnt:])
            assert said.strip() == text.answer + eos * text.ends
            given = network(**inputs, labels=labels)
            assert float(found[row, place]) / learnt == pytest.approx(float(given.loss), rel=1e-4)
            ahead = given.logits[0, -learnt - 1 : -1, words].argmax(-1).tolist()
            assert likeliest[:learnt] == ahead
            del likeliest[:learnt]


@torch.no_grad()
def test_a_standardised_connector_is_a_plain_one(checkpoint: Path, scenes: Collection) -> None:
    blueprint = blueprint_of(checkpoint)
    network = load_model(blueprint, "cpu").network
    states = tower_states(network, blueprint, scenes.pictures[:4], "cpu")
    mean, deviation = spread_of(states)
    every = torch.stack(list(states.values()))
    own = getattr(network.model, PROJECTOR)
    connector = StandardisedConnector(own, mean, deviation)
    connector.take(own)
    torch.testing.assert_close(connector(every), own(every), rtol=1e-4, atol=1e-5)
    rows = ((every - mean) / deviation).flatten(0, 1)
    torch.testing.assert_close(rows.mean(0), torch.zeros(rows.shape[1]), rtol=0, atol=1e-4)
    torch.testing.assert_close(rows.std(0), torch.ones(rows.shape[1]))
    connector.draw(every, 0.5, seed=3)
    assert float(connector(every).square().mean().sqrt()) == pytest.approx(0.5)
    put_in(network, {f"model.{PROJECTOR}.{name}": value for name, value in connector.plain().items()})
    torch.testing.assert_close(connector(every), own(every), rtol=1e-4, atol=1e-5)


def test_an_update_of_low_rank_is_added(checkpoint: Path) -> None:
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint)
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    before = model.state_dict()[name].clone()
    a, b = torch.randn(2, before.shape[1]), torch.randn(before.shape[0], 2)
    put_in(model, {f"{name}.lora_a": a, f"{name}.lora_b": b})
    torch.testing.assert_close(model.state_dict()[name], before + b @ a)


def test_a_picture_is_shared_and_texts_are_not(checkpoint: Path, scenes: Collection) -> None:
    """Each token sees the picture, and of its own text what stands before it."""
    blueprint = blueprint_of(checkpoint, chat="off")
    rows = Packer(blueprint, scenes.pictures[0]).rows(TEXTS[:1])
    seen = rows.mask()[0, 0] == 0
    owners: Sequence[int] = rows.owners[0].tolist()
    for query, own in enumerate(owners):
        for key, other in enumerate(owners):
            assert bool(seen[query, key]) == (key <= query and other in (0, own))
    heads = owners.count(0)
    starts = [owners.index(own) for own in (1, 2, 3)]
    assert all(int(rows.positions[0, start]) == heads for start in starts)
