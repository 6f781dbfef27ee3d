"""The real 4-bit and 8-bit paths on the CPU: which modules are touched, and that nothing but rounding changes."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear8bitLt
from safetensors.torch import load_file, save_file

from mllm_probe.config.model import ModelSettings
from mllm_probe.config.tune import EmbedderSettings
from mllm_probe.config.vision import EncoderSettings
from mllm_probe.errors import ConfigError, ModelError
from mllm_probe.extraction.taps import read_states
from mllm_probe.models.encoders.embedders import plan_embedder
from mllm_probe.models.encoders.vit import plan_vit
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.models.loading.device import (
    Dequantised,
    check_quantized,
    free_memory,
    keeps_dequantised,
    round_weights_alone,
)
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Key
from tests.support import encoders
from tests.support.checkpoints import blueprint_of
from tests.support.runs import QUICK, Run, stored, tiny

KEYS = [
    Key.parse(name) for name in ("vision.03@mean_image", "connector@mean_image", "lm.04@last", "lm.04.norm@mean_text")
]


NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}


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


@pytest.fixture(scope="module")
def outliers(
    checkpoint: Path, model: HFModel, samples: Sequence[Sample], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The checkpoint with features beyond LLM.int8's threshold of 6 in a few tokens, which some statements lack."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("outliers") / "llava")
    weights = load_file(folder / "model.safetensors")
    (name,) = [name for name in weights if name.endswith("embed_tokens.weight")]
    said = [token for one in samples for token in {*model.collate([one], KEYS).inputs["input_ids"][0].tolist()}]
    for column, token in enumerate(sorted(token for token in {*said} if 1 < said.count(token) < 4)):
        weights[name][token, column] = 40.0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def int8(outliers: Path) -> HFModel:
    return load_model(blueprint_of(outliers, quantization="int8"), "cpu")


def test_the_outliers_are_in_some_statements_alone(int8: HFModel, samples: Sequence[Sample]) -> None:
    largest: list[float] = []
    first = int8._model.get_submodule(int8.provenance()["quantized_modules"][0])
    handle = first.register_forward_pre_hook(lambda _module, args: largest.append(float(args[0].abs().max())))
    for sample in samples:
        states(int8, [sample])
    handle.remove()
    assert min(largest) < 5 and 3 < sum(value > 6 for value in largest) < len(samples)


def test_int8_rows_do_not_depend_on_the_batch(int8: HFModel, samples: Sequence[Sample]) -> None:
    """Alone, side by side and packed behind a shared head."""
    alone = [states(int8, [sample]) for sample in samples]
    packed = dict(read_states(int8, int8.collate(samples, KEYS, shared=True), KEYS, torch.float32).values)
    for key in KEYS:
        expected = torch.cat([one[key] for one in alone])
        assert error(states(int8, samples)[key], expected) < 1e-6 and error(packed[key], expected) < 1e-6, key


def test_int8_equals_a_plain_model_with_the_rounded_weights(
    int8: HFModel, outliers: Path, samples: Sequence[Sample]
) -> None:
    """Each row of a matrix in steps of its largest weight / 127."""
    plain = load_model(blueprint_of(outliers), "cpu")
    names = int8.provenance()["quantized_modules"]
    assert len(names) == 28
    for name in names:
        part, twin = (one._model.get_submodule(name) for one in (int8, plain))
        exact = twin.weight.data.half().float()
        step = exact.abs().amax(dim=1, keepdim=True) / 127
        rounded = (part.weight if part.state.CB is None else part.state).CB * step
        assert ((rounded - exact).abs() <= 0.5001 * step).all()
        twin.weight.data = rounded
    ours, oracle = states(int8, samples), states(plain, samples)
    assert all(error(ours[key], oracle[key]) < 1e-5 for key in KEYS)


def test_int8_is_closer_than_rounded_inputs_and_nf4(
    int8: HFModel, outliers: Path, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    nf4 = load_model(blueprint_of(outliers, quantization="nf4"), "cpu")
    exact, ours, four = (states(one, samples) for one in (load_model(blueprint_of(outliers), "cpu"), int8, nf4))
    for module in int8._model.modules():
        if isinstance(module, Linear8bitLt):
            monkeypatch.setattr(module, "forward", Linear8bitLt.forward.__get__(module))
    rounded = states(int8, samples)
    for key in KEYS[2:]:
        assert 0 < error(ours[key], exact[key]) < error(rounded[key], exact[key]) < error(four[key], exact[key]) / 2


def test_int8_sends_gradients_through_rounded_weights(int8: HFModel) -> None:
    (part, *_) = [module for module in int8._model.modules() if isinstance(module, Linear8bitLt)]
    given = torch.randn(2, 3, part.in_features, requires_grad=True)
    part(given).sum().backward()
    columns = part(torch.eye(part.in_features)).detach().T
    torch.testing.assert_close(given.grad, columns.sum(0).expand_as(given), rtol=1e-5, atol=1e-5)


def test_int8_rounds_weights_alone_behind_hooks_too() -> None:
    """accelerate wraps the parts of a model that is spread over cards."""
    part = Linear8bitLt(16, 8, has_fp16_weights=False, threshold=6.0).to("cpu")
    given = torch.randn(5, 16) * torch.tensor([1, 1, 1, 1, 50])[:, None]
    hook = ModelHook()
    hook.pre_forward = lambda _module, states: ((2 * states,), {})  # type: ignore[method-assign,assignment]
    round_weights_alone(add_hook_to_module(part, hook))
    weight = part.weight.CB * part.weight.SCB[:, None] / 127
    torch.testing.assert_close(part(given), 2 * given @ weight.T + part.bias, rtol=1e-5, atol=1e-5)


def test_one_identity_of_int8_has_one_set_of_states(probe: Run, outliers: Path, tmp_path: Path) -> None:
    """Of whatever `extract.micro_batch`, packed or plain; caches of rounded inputs had another identity."""
    asked = ("extract", *tiny(outliers), *QUICK, "model.quantization=int8", "layers.towers=[lm]", "data.n=12")
    found = []
    for place, more in (("one", ["extract.micro_batch=1", "extract.prefix=off"]), ("many", ["extract.micro_batch=16"])):
        code, _, err = probe(*asked, *more, f"paths.outputs={tmp_path / place}")
        assert code == 0, err
        (path,) = (tmp_path / place / "cache").glob("*/identity.json")
        found.append((json.loads(path.read_text()), stored(path.parent, "lm.04@last")))
    (one, alone), (same, together) = found
    assert one == same and one["fields"]["rounded"] == "weights alone" and set(alone) == set(together)
    assert max(error(torch.tensor(together[uid]), torch.tensor(alone[uid])) for uid in alone) < 1e-5


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_are_the_same_bit_for_bit_where_matrices_are_unpacked_once(
    checkpoint: Path, samples: Sequence[Sample], quantization: str, dtype: str
) -> None:
    loaded = load_model(blueprint_of(checkpoint, quantization=quantization, dtype=dtype), "cpu")
    before = states(loaded, samples)
    loaded.keep_dequantised()
    unpacked = [part for part in loaded._model.modules() if isinstance(vars(part).get("forward"), Dequantised)]
    assert len(unpacked) == len(loaded.provenance()["quantized_modules"]) == 28 and not loaded.remarks
    for again in (1, 2):
        assert all(torch.equal(value, before[key]) for key, value in states(loaded, samples).items()), again


def test_a_matrix_is_unpacked_in_the_dtype_of_the_product(checkpoint: Path) -> None:
    """Stored weights may name another one; the packed layer decides by what comes in."""
    loaded = load_model(blueprint_of(checkpoint, quantization="nf4"), "cpu")
    part = loaded._model.get_submodule(loaded.provenance()["quantized_modules"][0])
    part.weight.quant_state.dtype, given = torch.bfloat16, torch.randn(5, part.in_features)
    assert torch.equal(Dequantised(part)(given), part(given))


@pytest.mark.parametrize(
    ("asked", "device", "free", "kept"),
    [
        ("auto", "cpu", 400, True),
        ("auto", "cpu", 399, False),
        ("auto", "cuda", 10**6, False),
        ("True", "cuda", 100, True),
        ("True", "cpu", 99, False),
        ("False", "cpu", 10**6, False),
    ],
)
def test_matrices_are_unpacked_once_where_that_pays_and_memory_suffices(
    monkeypatch: pytest.MonkeyPatch, asked: str, device: str, free: int, kept: bool
) -> None:
    monkeypatch.setattr("mllm_probe.models.loading.device.free_memory", lambda name: free)
    assert keeps_dequantised(ModelSettings(keep_dequantised=asked), device, size=100) is kept


def test_memory_that_does_not_suffice_for_unpacked_matrices_is_said(
    checkpoint: Path, samples: Sequence[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllm_probe.models.loading.device.free_memory", lambda name: 1000)
    loaded = load_model(blueprint_of(checkpoint, quantization="nf4", keep_dequantised="true"), "cpu")
    before = states(loaded, samples[:2])
    loaded.keep_dequantised()
    assert "would take" in loaded.remarks[0] and "so every pass unpacks the weights" in loaded.remarks[0]
    assert all(torch.equal(value, before[key]) for key, value in states(loaded, samples[:2]).items())


def test_how_matrices_are_kept_is_no_part_of_a_cache(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    asked = ("extract", *tiny(checkpoint), *QUICK, "layers.towers=[lm]", "data.n=12")
    for keeps in ("true", "false"):
        code, _, err = probe(*asked, f"model.keep_dequantised={keeps}", f"paths.outputs={tmp_path / 'one'}")
        assert code == 0 and ("samples are there" in err) == (keeps == "false"), err
    code, _, err = probe(*asked, "model.keep_dequantised=perhaps")
    assert code == 1 and "model.keep_dequantised=perhaps is unknown" in err
    code, _, err = probe(*asked, "model.keep_dequantised=true", "model.placement=spread")
    assert code == 1 and "model.keep_dequantised=true needs model.placement=one" in err


def test_limits_of_control_groups_bound_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fullest group on the way to the root decides, whether groups are of version 1 or 2."""
    files = {
        "/proc/meminfo": "MemTotal: 900 kB\nMemAvailable: 800 kB\n",
        "/proc/self/cgroup": "4:memory:/job\n0::/job/step\n",
        "/sys/fs/cgroup/job/step/memory.max": "max\n",
        "/sys/fs/cgroup/job/memory.max": "500000\n",
        "/sys/fs/cgroup/job/memory.current": "100000\n",
        "/sys/fs/cgroup/memory/job/memory.limit_in_bytes": "450000\n",
        "/sys/fs/cgroup/memory/job/memory.usage_in_bytes": "50001\n",
    }

    def text(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", text)
    assert free_memory("cpu") == 399_999
    files["/proc/self/cgroup"] = "0::/job/step\n"
    assert free_memory("cpu") == 400_000
    files["/proc/self/cgroup"] = "0::/other\n"
    assert free_memory("cpu") == 800 * 1024


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


def saved(checkpoint: Path, folder: Path, **kind: Any) -> Path:
    """A checkpoint as transformers saves it after quantising the language model."""
    from transformers import BitsAndBytesConfig, LlavaForConditionalGeneration

    shutil.copytree(checkpoint, folder)
    left = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
    options = BitsAndBytesConfig(llm_int8_skip_modules=left, **kind)
    model = LlavaForConditionalGeneration.from_pretrained(
        checkpoint, quantization_config=options, dtype=torch.float32, device_map={"": "cpu"}
    )
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nf4", NF4),
        ("int8", {"load_in_8bit": True}),
    ],
)
def test_a_folder_saved_quantised_is_what_it_says(
    checkpoint: Path, tmp_path: Path, samples: Sequence[Sample], name: str, kind: dict[str, Any]
) -> None:
    """Its states are those of the same weights quantised at loading, in the dtype of the settings."""
    folder = saved(checkpoint, tmp_path / "saved", **kind)
    found = load_model(blueprint_of(folder, quantization=name), "cpu")
    here = load_model(blueprint_of(checkpoint, quantization=name), "cpu")
    assert found.provenance()["quantized_modules"] == here.provenance()["quantized_modules"]
    for key, value in states(here, samples).items():
        assert error(states(found, samples)[key], value) < 1e-5
    for other in {"none", "nf4", "int8"} - {name}:
        with pytest.raises(ConfigError, match=f"are already stored in {name}; set model.quantization={name}"):
            blueprint_of(folder, quantization=other)
    drawn = blueprint_of(folder, quantization=name, weights="random")
    assert load_model(drawn, "cpu").provenance()["quantized_modules"] == here.provenance()["quantized_modules"]


def test_other_kinds_of_stored_weights_are_named(checkpoint: Path, tmp_path: Path) -> None:
    fp4 = saved(checkpoint, tmp_path / "fp4", load_in_4bit=True)
    with pytest.raises(ModelError, match="quantised by bitsandbytes' fp4, which is not read here; take the"):
        blueprint_of(fp4, quantization="nf4")
    told = json.loads((checkpoint / "config.json").read_text())
    for change, name in (
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "GPTQ"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "AWQ"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        ({"text_config": told["text_config"] | {"quantization_config": {"quant_method": "hqq"}}}, "hqq"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "MLX"),
        ({"quantization": {"bits": 4}, "quantization_config": {"group_size": 64, "bits": 4}}, "MLX"),
    ):
        folder = tmp_path / name / str(len(change))
        shutil.copytree(checkpoint, folder)
        (folder / "config.json").write_text(json.dumps(told | change))
        with pytest.raises(ModelError, match=f"the weights are quantised by {name}"):
            blueprint_of(folder, quantization="nf4")
    (checkpoint / "quantize_config.json").write_text("{}")
    try:
        with pytest.raises(ModelError, match="the weights are quantised by GPTQ"):
            blueprint_of(checkpoint)
    finally:
        (checkpoint / "quantize_config.json").unlink()


def test_encoders_are_not_read_from_quantised_weights(tmp_path: Path) -> None:
    encoders.save_dinov2(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, "quantization_config": {"load_in_8bit": True}}))
    with pytest.raises(ModelError, match=r"the weights are quantised \(int8\), and encoders.own reads plain ones"):
        plan_vit("own", EncoderSettings(), tmp_path)
    with pytest.raises(ModelError, match=r"the weights are quantised \(int8\), and labels.image reads plain ones"):
        plan_embedder("image", EmbedderSettings(path=str(tmp_path)))
