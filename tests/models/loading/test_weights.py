"""No weight is drawn at random where a checkpoint's files lack it: what depends on it is refused, the rest is told."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mllm_probe.config.tune import EmbedderSettings
from mllm_probe.config.vision import EncoderSettings
from mllm_probe.errors import ModelError
from mllm_probe.extraction.taps import read_states
from mllm_probe.models.encoders.embedders import Embedder, plan_embedder
from mllm_probe.models.encoders.vit import VisionTransformer, plan_vit
from mllm_probe.models.hf import load_model
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Key, Site
from tests.support import encoders
from tests.support.checkpoints import blueprint_of, make_tokenizer
from tests.support.runs import Run, tiny

Weights = dict[str, torch.Tensor]
SMALL = ("data.n=20", "dataset.pictures=20", "splits.blocks=2")
LM = Key(Site("lm", 4), "last")


def changed(folder: Path, copy: Path, change: Callable[[Weights], Weights], **config: object) -> Path:
    """A copy with other tensors, and other entries in config.json (`text_config.x` as `text_config__x`)."""
    shutil.copytree(folder, copy)
    save_file(change(load_file(copy / "model.safetensors")), copy / "model.safetensors", {"format": "pt"})
    told = json.loads((copy / "config.json").read_text())
    for name, value in config.items():
        *parts, last = name.split("__")
        node = told
        for part in parts:
            node = node[part]
        node[last] = value
    (copy / "config.json").write_text(json.dumps(told))
    return copy


def without(*parts: str) -> Callable[[Weights], Weights]:
    return lambda all_: {name: value for name, value in all_.items() if not any(part in name for part in parts)}


def begun(wrapper: str) -> Callable[[Weights], Weights]:
    return lambda all_: {wrapper + name: value for name, value in all_.items()}


def same(all_: Weights) -> Weights:
    return all_


def authors(all_: Weights) -> Weights:
    return {name.replace("multi_modal_projector.linear_1", "model.mm_projector.0"): v for name, v in all_.items()}


def biased(all_: Weights) -> Weights:
    return {**all_, "language_model.model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (
            without("multi_modal"),
            {},
            r"4 weights of the model \(model.multi_modal_projector.linear_1.bias the first\) are not in",
        ),
        (
            without("layers.2.mlp.up_proj"),
            {},
            r"1 weight of the model \(model.language_model.layers.2.mlp.up_proj.weight\) is not in",
        ),
        (without("lm_head"), {}, r"1 weight of the model \(lm_head.weight\) is not in the files"),
        (authors, {}, "2 tensors in the files .* LLaVA authors' code"),
        (
            same,
            {"text_config__num_key_value_heads": 1},
            r"8 weights have another shape than in config.json .*k_proj.weight: \[64, 64\] in the files, \[16",
        ),
        (same, {"text_config__num_hidden_layers": 2}, r"18 tensors in the files .* are of blocks, or parts of blocks"),
        (
            same,
            {"vision_config__num_hidden_layers": 2},
            r"16 tensors in the files .* are of blocks, or parts of blocks",
        ),
        (without("post_layernorm"), {"text_config__num_hidden_layers": 2}, r"18 tensors in the files .* are of blocks"),
        (biased, {}, r"1 tensor in the files .* is of blocks, or parts of blocks"),
    ],
    ids=["connector", "mlp", "head", "authors", "heads", "blocks", "vision blocks", "blocks and more", "bias"],
)
def test_what_states_and_answers_need_is_not_drawn(
    checkpoint: Path,
    tmp_path: Path,
    change: Callable[[Weights], Weights],
    config: dict[str, object],
    message: str,
    quantization: str,
) -> None:
    folder = changed(checkpoint, tmp_path / "spoilt", change, **config)
    with pytest.raises(ModelError, match=message):
        load_model(blueprint_of(folder, quantization=quantization), "cpu", [LM, Key(Site("lm", 4), "answer:yes/no")])


def test_an_index_that_lists_too_little(checkpoint: Path, tmp_path: Path) -> None:
    folder = changed(checkpoint, tmp_path / "part", same)
    names = {name: "model.safetensors" for name in load_file(folder / "model.safetensors") if "layers.3" not in name}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    blueprint = blueprint_of(folder)
    loaded = load_model(blueprint, "cpu", [LM])  # the library reads the whole file all the same
    assert not loaded.remarks
    (folder / "model-00001-of-00001.safetensors").unlink()
    weights = {k: v for k, v in load_file(checkpoint / "model.safetensors").items() if k in names}
    save_file(weights, folder / "model-00001-of-00001.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="weights of the model .* are not in the files"):
        load_model(blueprint, "cpu", [LM])


def test_what_nothing_depends_on_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    """LLaVA reads the last block of its tower but one; without answers the head is not read."""
    spoil = without("post_layernorm", "lm_head")
    folder = changed(checkpoint, tmp_path / "spoilt", lambda all_: {**spoil(all_), "extra": torch.zeros(1)})
    loaded = load_model(blueprint_of(folder), "cpu", [LM])
    found, left = loaded.remarks
    assert (
        "3 weights of the model (lm_head.weight the first) are not in the files; nothing that is read depends on them"
        in found
    )
    assert "1 tensor in the files (extra) is of no weight of this model and left out" in left
    loaded.require([Key(Site("vision", 3), "mean_image")])
    with pytest.raises(ModelError, match="3 weights of the model .* are not in the files"):
        loaded.require([Key(Site("lm", 4), "answer:yes/no")])
    with pytest.raises(ModelError, match="3 weights"):
        load_model(blueprint_of(folder), "cpu")


def test_only_sites_behind_the_missing_weights_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = changed(checkpoint, tmp_path / "spoilt", without("layers.3"))
    loaded = load_model(blueprint_of(folder, quantization="nf4"), "cpu", [Key(Site("lm", 3), "last")])
    with pytest.raises(ModelError, match="are not in the files"):
        loaded.require([LM])


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("wrapper", ["base_model.model.", "module.", "_orig_mod.", "module._orig_mod."])
def test_wrapped_names_are_unwrapped(
    checkpoint: Path, tmp_path: Path, samples: Sequence[Sample], wrapper: str, quantization: str
) -> None:
    folder = changed(checkpoint, tmp_path / "wrapped", begun(wrapper))
    states = []
    for one in (checkpoint, folder):
        model = load_model(blueprint_of(one, quantization=quantization), "cpu", [LM])
        states.append(read_states(model, model.collate(samples[:2], [LM]), [LM], torch.float32).values[LM])
    assert torch.equal(*states)
    assert f"begin with '{wrapper}', which is removed" in model.remarks[0]


FEW = torch.float8_e4m3fn


def eighths(all_: Weights) -> Weights:
    """The matrices of the language model as 8-bit floats, which have no scale."""
    return {name: v.to(FEW) if "language" in name and v.dim() == 2 else v for name, v in all_.items()}


def scaled(all_: Weights) -> Weights:
    scales = {f"{name}_scale_inv": torch.ones(1, 1) for name, v in eighths(all_).items() if v.dtype == FEW}
    return {**eighths(all_), **scales}


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_floats_of_8_bits_are_read_in_the_dtype_that_is_asked_for(
    checkpoint: Path, tmp_path: Path, samples: Sequence[Sample], dtype: str, quantization: str
) -> None:
    few = changed(checkpoint, tmp_path / "few", eighths)
    wide = changed(few, tmp_path / "wide", lambda all_: {name: v.float() for name, v in all_.items()})
    states = []
    for folder in (few, wide):
        model = load_model(blueprint_of(folder, quantization=quantization, dtype=dtype), "cpu", [LM])
        states.append(read_states(model, model.collate(samples[:2], [LM]), [LM], torch.float32).values[LM])
    assert torch.equal(*states) and bool(states[0].isfinite().all())
    with pytest.raises(ModelError, match="28 tensors in the files .*weight_scale_inv the first.* are of blocks"):
        blueprint_of(changed(checkpoint, tmp_path / "scaled", scaled), quantization=quantization, dtype=dtype)


def test_vision_encoders(tmp_path: Path) -> None:
    whole = encoders.save_dinov2(tmp_path / "whole")
    pictures = [Image.new("RGB", (32, 32), "red")]

    def features(folder: Path) -> tuple[torch.Tensor, Sequence[str]]:
        plan = plan_vit("own", EncoderSettings(path=str(folder), size=32), folder)
        loaded = VisionTransformer(plan, "own", "cpu")
        return loaded.features(pictures), loaded.remarks

    unmasked = changed(whole, tmp_path / "unmasked", without("mask_token", "layer.2"))  # the last but one is read
    states, remarks = features(unmasked)
    assert torch.equal(states, features(whole)[0]) and "(embeddings.mask_token the first)" in remarks[0]
    with pytest.raises(ModelError, match="are not in the files"):
        features(changed(whole, tmp_path / "spoilt", without("layer.0")))
    with pytest.raises(ModelError, match="of blocks, or parts of blocks"):
        features(
            changed(encoders.save_clip(tmp_path / "clip"), tmp_path / "short", same, vision_config__num_hidden_layers=2)
        )


def test_label_encoders(tmp_path: Path) -> None:
    whole = encoders.save_bert(tmp_path / "whole", make_tokenizer({}))

    def vectors(folder: Path, pooling: str) -> torch.Tensor:
        plan = plan_embedder("text", EmbedderSettings(path=str(folder), pooling=pooling))
        return Embedder(plan, "cpu").sentences(["a red circle"])

    unpooled = changed(whole, tmp_path / "unpooled", without("pooler"))
    assert torch.equal(vectors(unpooled, "mean"), vectors(whole, "mean"))
    for folder, pooling in ((unpooled, "pooler"), (changed(whole, tmp_path / "spoilt", without("layer.1")), "mean")):
        with pytest.raises(ModelError, match="are not in the files"):
            vectors(folder, pooling)


def test_on_the_command_line(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    folder = changed(checkpoint, tmp_path / "spoilt", without("multi_modal"))
    code, _, err = probe("run", *tiny(folder), "task=entailment", *SMALL)
    assert code == 1 and "spoilt: 4 weights of the model (model.multi" in err and "Traceback" not in err
    assert not [*tmp_path.glob("outputs/cache/**/*.safetensors"), *tmp_path.glob("outputs/**/scores.csv")]
    code, _, err = probe("tune", *tiny(folder), "train.steps=1", *SMALL)
    assert code == 1 and "spoilt: 4 weights of the model (model.multi" in err and "Traceback" not in err


def test_blocks_above_those_that_are_read_may_be_lacking(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    """Nothing looks at their states, not even the proof that prompts may share their heads."""
    folder = changed(checkpoint, tmp_path / "spoilt", without("layers.3"))
    read = ("layers.towers=[lm]", "layers.range=[0,3]", "layers.stride=1", "extract.positions=[last]")
    code, _, err = probe("extract", *tiny(folder), "task=entailment", *SMALL, *read)
    assert code == 0, err
    assert "are not in the files; nothing that is read depends on them" in err
