"""The words of states, against the model's own logits as transformers computes them, and its own table of words."""

import numpy as np
import pytest
import torch
from PIL import Image

from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.models.loading.checkpoint import BUNDLED
from mllm_probe.models.vocabulary import Vocabulary, spellings, unit
from mllm_probe.records.samples import Sample
from tests.support.checkpoints import blueprint_of


@pytest.fixture(scope="module")
def model() -> HFModel:
    return load_model(blueprint_of(BUNDLED / "mini"), "cpu")


@pytest.fixture(scope="module")
def inputs(model: HFModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    path = tmp_path_factory.mktemp("picture") / "red.png"
    Image.new("RGB", (96, 96), (200, 30, 30)).save(path)
    sample = Sample("red", (path,), ("red",), "The image contains: a red circle.", {})
    return dict(model._blueprint.process([sample]))


@torch.inference_mode()
def test_words_of_the_normed_top_and_of_the_top_block_are_the_models_own_logits(
    model: HFModel, inputs: dict[str, torch.Tensor]
) -> None:
    """transformers' own: of LLaVA `hidden_states` end with the normed state; the block below is caught by a hook."""
    caught = []
    blocks = model.network.get_submodule(model._blueprint.structure.blocks["lm"])
    handle = blocks[-1].register_forward_hook(lambda _module, _args, out: caught.append(out))
    out = model.network(**inputs, output_hidden_states=True)
    handle.remove()
    block = (caught[0][0] if isinstance(caught[0], tuple) else caught[0])[0].clone()
    words, normed = Vocabulary(model), out.hidden_states[-1][0].clone()
    assert torch.allclose(words.logits(normed, normed=True), out.logits[0].float(), atol=1e-5)
    assert torch.allclose(words.logits(block), out.logits[0].float(), atol=1e-5)
    assert not torch.allclose(words.logits(normed), out.logits[0].float(), atol=1e-2), "normed twice"


@torch.inference_mode()
def test_a_text_token_is_nearest_to_its_own_row(model: HFModel, inputs: dict[str, torch.Tensor]) -> None:
    states = model.network(**inputs, output_hidden_states=True).hidden_states[0][0].clone()
    ids = inputs["input_ids"][0]
    text = ids != model.network.config.image_token_id
    found = Vocabulary(model).cosines(states[text])
    assert torch.equal(found.argmax(1), ids[text])
    assert torch.allclose(found.amax(1), torch.ones(int(text.sum())), atol=1e-5)
    rows = model.network.get_input_embeddings().weight.numpy()
    state = states[text][3].numpy()
    naive = [float(row @ state / max(np.linalg.norm(row) * np.linalg.norm(state), 1e-12)) for row in rows]
    assert np.allclose(found[3].numpy(), naive, atol=1e-5)


def test_logits_are_capped_where_the_model_caps_them(model: HFModel, monkeypatch: pytest.MonkeyPatch) -> None:
    states = torch.randn(3, model.anatomy.widths["lm"])
    plain = Vocabulary(model).logits(states)
    monkeypatch.setattr(model.network.config.get_text_config(), "final_logit_softcapping", 2.0, raising=False)
    with torch.inference_mode():
        assert torch.allclose(Vocabulary(model).logits(states), 2 * torch.tanh(plain / 2), atol=1e-5)


def test_every_id_has_its_spelling() -> None:
    tokenizer = blueprint_of(BUNDLED / "mini").processor.tokenizer
    written = spellings(tokenizer)
    assert len(written) == len(tokenizer)
    for token in tokenizer.encode("a red circle", add_special_tokens=False)[1:]:
        assert written[token] in (" red", " circle")


def test_rows_of_length_zero_stay() -> None:
    assert torch.equal(unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]])), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
