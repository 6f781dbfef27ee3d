"""Adapters as people have them: every kind that peft trains is applied as peft applies it, or refused by name."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from mllm_probe.config.model import ModelSettings
from mllm_probe.errors import ModelError
from mllm_probe.files.digests import Digests
from mllm_probe.models.hf import load_model
from mllm_probe.models.loading.adapters import CONFIG, TENSORS, adapter_digests
from mllm_probe.records.sites import Key, Site
from tests.support.checkpoints import blueprint_of

LM = r"model\.language_model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "connector": {"modules_to_save": ["multi_modal_projector"]},
    "head": {"modules_to_save": ["lm_head"]},
    "dora": {"use_dora": True},
    "biases": {"bias": "lora_only", "target_modules": r"model\.vision_tower\..*\.(q_proj|v_proj)"},
    "embeddings": {"target_modules": ["embed_tokens"]},
}
IDS = torch.arange(10, 30)[None]


def trained(checkpoint: Path, folder: Path, kind: str) -> Any:
    """An adapter as peft saves it, all of whose parts are other than at the start, and the model it was saved from."""
    base = LlavaForConditionalGeneration.from_pretrained(checkpoint)
    torch.manual_seed(1)
    settings = {"target_modules": LM, **KINDS[kind]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own, about what it will write
        model = get_peft_model(base, LoraConfig(r=4, init_lora_weights=False, **settings))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad and "lora_A" not in name:
                value += 0.1 * torch.randn(value.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return model


def logits(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    ids = torch.cat([torch.full((1, 16), 3), IDS], dim=1)
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits


def older(name: str) -> str:
    """As releases of transformers before 5 call the modules."""
    return name.replace("model.language_model.layers", "language_model.model.layers").replace(
        "base_model.model.model.multi", "base_model.model.multi"
    )


def renamed(folder: Path, copy: Path, change: Callable[[str], str]) -> Path:
    shutil.copytree(folder, copy)
    weights = load_file(copy / TENSORS)
    save_file({change(name): value for name, value in weights.items()}, copy / TENSORS)
    return copy


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_kind_is_applied_as_peft_does(checkpoint: Path, tmp_path: Path, kind: str, dtype: str) -> None:
    model = trained(checkpoint, tmp_path / "adapter", kind)
    pixels = torch.randn(1, 3, 32, 32)
    loaded = load_model(blueprint_of(checkpoint, adapter=str(tmp_path / "adapter"), dtype=dtype), "cpu")
    own = dict(loaded.network.named_parameters())
    exact = {name: value for name, value in model.base_model.model.named_parameters() if ".lora_" in name}
    assert exact and all(own[name].dtype == torch.float32 and torch.equal(own[name], exact[name]) for name in exact)
    expected, bare = logits(model, pixels), logits(LlavaForConditionalGeneration.from_pretrained(checkpoint), pixels)
    found = logits(loaded.network, pixels.to(getattr(torch, dtype))).float()
    assert (expected - bare).norm() > 0.02 * bare.norm()
    allowed = 1e-5 if dtype == "float32" else 0.05
    assert (found - expected).norm() < allowed * expected.norm()
    top = Key(Site("lm", 4), "answer:Yes/No")
    assert loaded.answers(top, torch.randn(1, 64)).isfinite().all()


@pytest.mark.parametrize("kind", ["plain", "connector", "dora"])
def test_older_names_are_mapped(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    model = trained(checkpoint, tmp_path / "adapter", kind)
    folder = renamed(tmp_path / "adapter", tmp_path / "older", older)
    loaded = load_model(blueprint_of(checkpoint, adapter=str(folder)), "cpu")
    pixels = torch.randn(1, 3, 32, 32)
    assert torch.allclose(logits(loaded.network, pixels), logits(model, pixels), atol=1e-5)


def test_an_adapter_on_four_bits(checkpoint: Path, tmp_path: Path) -> None:
    trained(checkpoint, tmp_path / "adapter", "connector")
    loaded = load_model(blueprint_of(checkpoint, adapter=str(tmp_path / "adapter"), quantization="nf4"), "cpu")
    assert logits(loaded.network, torch.randn(1, 3, 32, 32)).isfinite().all()


def test_names_of_a_bare_language_model_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    trained(checkpoint, tmp_path / "adapter", "plain")
    bare = renamed(tmp_path / "adapter", tmp_path / "bare", lambda name: name.replace("language_model.", ""))
    with pytest.raises(ModelError, match=r"model.layers.0.self_attn.q_proj.lora_A.weight has no place there; choose"):
        blueprint_of(checkpoint, adapter=str(bare))
    told = json.loads((bare / CONFIG).read_text())
    (bare / CONFIG).write_text(json.dumps({**told, "target_modules": r"model\.layers\.\d+\.self_attn\.q_proj"}))
    with pytest.raises(
        ModelError, match=r"does not fit this Llava\w+: Target modules .* not found in the base model; ch"
    ):
        blueprint_of(checkpoint, adapter=str(bare))


def test_half_an_adapter_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    trained(checkpoint, tmp_path / "adapter", "connector")
    weights = load_file(tmp_path / "adapter" / TENSORS)
    save_file(
        {name: value for name, value in weights.items() if "linear_2" not in name}, tmp_path / "adapter" / TENSORS
    )
    with pytest.raises(ModelError, match=r"it lacks model.multi_modal_projector"):
        blueprint_of(checkpoint, adapter=str(tmp_path / "adapter"))


def test_a_pickled_adapter_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"anything")
    with pytest.raises(ModelError, match=r"in adapter_model.bin, a pickle, which may contain code and is not opened"):
        adapter_digests(ModelSettings(adapter=str(tmp_path)), "digest", Digests(tmp_path / "digests.json"))


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ("[]", "", "adapter_config.json holds no JSON object, cut off or damaged; copy it again"),
        ('{"r":', "", "adapter_config.json holds no JSON object, cut off or damaged; copy it again"),
        ('{"lora_alpha": 0}', "", "adapter_config.json has lora_alpha=0, so it changes nothing; fix it"),
        ("{}", "version https://git-lfs.github.com/spec/v1\n", "adapter_model.safetensors is a Git LFS pointer"),
    ],
)
def test_damaged_files_of_an_adapter(tmp_path: Path, config: str, tensors: str, message: str) -> None:
    (tmp_path / CONFIG).write_text(config)
    (tmp_path / TENSORS).write_text(tensors)
    with pytest.raises(ModelError, match=message):
        adapter_digests(ModelSettings(adapter=str(tmp_path)), "base", Digests(tmp_path / "digests.json"))
