"""The real 4-bit and 8-bit paths on the CPU: which modules are touched, and that nothing but rounding changes."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from conftest import blueprint_of

from mllm_probe.errors import ModelError
from mllm_probe.extraction.taps import read_states
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.models.quantize import check_quantized
from mllm_probe.settings import ModelSettings
from mllm_probe.sites import Key
from mllm_probe.types import Sample

KEYS = [
    Key.parse(name) for name in ("vision.03@mean_image", "connector@mean_image", "lm.04@last", "lm.04.norm@mean_text")
]


def states(model: HFModel, samples: Sequence[Sample]) -> dict[Key, torch.Tensor]:
    return dict(read_states(model, model.collate(samples, KEYS), KEYS, torch.float32).values)


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.fixture(scope="module")
def nf4(checkpoint: Path) -> HFModel:
    return load_model(blueprint_of(checkpoint, quantization="nf4"), "cpu")


def test_only_the_language_model_is_quantised_by_default(nf4: HFModel) -> None:
    names = nf4.provenance()["quantized_modules"]
    assert len(names) == 4 * 7, "four attention and three MLP matrices in each of four blocks"
    assert all(name.startswith("model.language_model.layers.") for name in names)
    weight = nf4._model.get_submodule(names[0]).weight
    assert weight.quant_state.quant_type == "nf4" and weight.quant_state.nested
    assert weight.dtype == torch.uint8


def test_the_eyes_see_as_before_and_the_language_model_only_rounds(
    nf4: HFModel, model: HFModel, samples: Sequence[Sample]
) -> None:
    exact, rounded = states(model, samples), states(nf4, samples)
    assert error(rounded[KEYS[0]], exact[KEYS[0]]) < 1e-6 and error(rounded[KEYS[1]], exact[KEYS[1]]) < 1e-6
    assert error(rounded[KEYS[2]], exact[KEYS[2]]) > 0.01


def test_nf4_equals_a_plain_model_with_the_rounded_weights(
    nf4: HFModel, checkpoint: Path, samples: Sequence[Sample]
) -> None:
    plain = load_model(blueprint_of(checkpoint), "cpu")
    for name in nf4.provenance()["quantized_modules"]:
        weight = nf4._model.get_submodule(name).weight
        plain._model.get_submodule(name).weight.data = dequantize_4bit(weight.data, weight.quant_state).float()
    ours, oracle = states(nf4, samples), states(plain, samples)
    assert all(error(ours[key], oracle[key]) < 1e-5 for key in KEYS)


def test_nf4_rows_do_not_depend_on_the_batch(nf4: HFModel, samples: Sequence[Sample]) -> None:
    together = states(nf4, samples)
    alone = [states(nf4, [sample]) for sample in samples]
    for key in KEYS:
        assert error(together[key], torch.cat([one[key] for one in alone])) < 1e-5


@pytest.mark.parametrize(
    ("towers", "prefixes"),
    [
        (["connector"], {"model.multi_modal_projector"}),
        (["lm", "connector", "vision"], {"model.language_model", "model.multi_modal_projector", "model.vision_tower"}),
    ],
)
def test_other_towers_on_request(checkpoint: Path, towers: list[str], prefixes: set[str]) -> None:
    loaded = load_model(blueprint_of(checkpoint, quantization="nf4", quantize=towers), "cpu")
    names = loaded.provenance()["quantized_modules"]
    assert {".".join(name.split(".")[:2]) for name in names} == prefixes


def test_int8_loads_and_is_closer_than_nf4(
    checkpoint: Path, model: HFModel, nf4: HFModel, samples: Sequence[Sample]
) -> None:
    int8 = load_model(blueprint_of(checkpoint, quantization="int8"), "cpu")
    assert len(int8.provenance()["quantized_modules"]) == 28
    exact, eight, four = (states(one, samples)[KEYS[2]] for one in (model, int8, nf4))
    assert 0 < error(eight, exact) < error(four, exact) / 2


def test_a_skip_list_that_was_not_met_is_an_error(nf4: HFModel) -> None:
    structure, names = nf4._blueprint.structure, nf4.provenance()["quantized_modules"]
    with pytest.raises(ModelError, match="1 modules elsewhere are quantised"):
        check_quantized([*names, "model.vision_tower.x"], ModelSettings(quantize=["lm"]), structure)
    with pytest.raises(ModelError, match="none in"):
        check_quantized(names, ModelSettings(quantize=["lm", "vision"]), structure)


def test_random_weights_are_drawn_by_seed_and_are_not_the_checkpoints(
    checkpoint: Path, nf4: HFModel, samples: Sequence[Sample]
) -> None:
    one, again, other = (
        states(
            load_model(blueprint_of(checkpoint, quantization="nf4", weights="random", seed=seed), "cpu"), samples[:2]
        )
        for seed in (1, 1, 2)
    )
    key = KEYS[2]
    assert torch.equal(one[key], again[key])
    assert error(one[key], other[key]) > 0.1
    assert error(one[key], states(nf4, samples[:2])[key]) > 0.1
