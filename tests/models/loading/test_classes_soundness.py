"""A checkpoint that cannot be used is one sentence and exit code 1, and leaves no cache and no scores behind.

What the hub refuses is raised with the hub's own exceptions, at the one call that would fetch something.
"""

import json
import os
import shutil
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from mllm_probe.config.vision import EncoderSettings
from mllm_probe.errors import SpanError
from mllm_probe.models.encoders.vit import VisionTransformer, plan_vit
from mllm_probe.models.hf import load_model
from mllm_probe.models.loading.whole import check_small, check_weights
from mllm_probe.records.samples import Sample
from tests.support import encoders
from tests.support.broken import SMALL, check
from tests.support.checkpoints import blueprint_of, make_tokenizer, save_llava
from tests.support.families import FAMILIES
from tests.support.families_more import save_paligemma2
from tests.support.runs import Run, tiny

http = import_module(errors.HfHubHTTPError.__mro__[1].__module__.partition(".")[0])  # the client that the hub uses
NAME = "owner/name"


def hub_says(kind: type[errors.HfHubHTTPError], status: int) -> Exception:
    response = http.Response(status, request=http.Request("GET", "https://hub.test/owner/name"))
    return kind(f"{status} Client Error.\n\nmore lines", response=response)


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (hub_says(errors.GatedRepoError, 403), ("is gated: accept its licence", "then log in with `hf auth login`")),
        (hub_says(errors.RepositoryNotFoundError, 401), ("is not on the hub, or is private", "`hf auth login`")),
        (hub_says(errors.RevisionNotFoundError, 404), ("has no revision 'v9'; give a branch",)),
        (
            hub_says(errors.HfHubHTTPError, 500),
            ("could not be fetched (HfHubHTTPError: 500 Client Error.); repeat the",),
        ),
        (
            errors.LocalEntryNotFoundError("no network"),
            ("is not on this machine, and the hub cannot be reached; run ",),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_hub_refuses(
    probe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, parts: tuple[str, ...]
) -> None:
    def download(*_: Any, local_files_only: bool = False, **__: Any) -> str:
        raise errors.LocalEntryNotFoundError("not in the cache") if local_files_only else error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    found = probe("run", "model=custom", f"model.hub_id={NAME}", "model.revision=v9", *SMALL)
    check(found, tmp_path, f"model.hub_id={NAME} ", *parts)


def test_a_revision_is_of_the_hub_alone(probe: Run, tmp_path: Path, checkpoint: Path) -> None:
    """It would stand in the column `revision` of scores that know nothing of it."""
    bundled = probe("run", "model=mini", "model.revision=v9", *SMALL)
    check(bundled, tmp_path, "model.revision=v9 is a version of a checkpoint on the hub, and this one is bundled")
    folder = probe("run", *tiny(checkpoint), "model.revision=v9", *SMALL)
    check(folder, tmp_path, f"and model.path={checkpoint} is a folder; leave it out")


def test_offline_and_no_name_of_the_hub(probe: Run, tmp_path: Path) -> None:
    """With the hub's own code, which HF_HUB_OFFLINE keeps from the network."""
    offline = "is not on this machine, and HF_HUB_OFFLINE is set; run `hf download llava-hf/llava-1.5-7b-hf`"
    check(probe("run", "model=llava", *SMALL), tmp_path, offline, "or give a local folder with model.path=FOLDER")
    found = probe("run", "model=custom", "model.hub_id=no/such/name", *SMALL)
    check(found, tmp_path, "model.hub_id=no/such/name is no name of the hub; give OWNER/NAME")


def text_only(folder: Path) -> None:
    tokenizer = make_tokenizer({})
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "processor_config.json").write_text("{}")


def unknown(folder: Path) -> None:
    save_llava(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "nobodys"}))


def processor_of_another(folder: Path) -> None:
    """LLaVA's weights with all files of Qwen2-VL's processor."""
    save_llava(folder)
    other = FAMILIES["qwen2_vl"](folder.parent / "qwen")
    for path in [*other.glob("*processor*.json"), *other.glob("token*.json"), other / "chat_template.jinja"]:
        shutil.copy(path, folder)


def template_without_pictures(folder: Path) -> None:
    save_llava(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'][-1]['text'] }}")


def template_of_two_pictures(folder: Path) -> None:
    save_llava(folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<image>", "<image><image>"))


def in_config(**entries: object) -> Callable[[Path], None]:
    """Other entries in config.json; `text_config__x` stands for text_config.x."""

    def spoil(folder: Path) -> None:
        save_llava(folder)
        told = json.loads((folder / "config.json").read_text())
        for name, value in entries.items():
            part, _, inner = name.rpartition("__")
            (told[part] if part else told)[inner] = value
        (folder / "config.json").write_text(json.dumps(told))

    return spoil


def in_picture_processor(**entries: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        save_llava(folder)
        told = json.loads((folder / "processor_config.json").read_text())
        told["image_processor"] |= entries
        (folder / "processor_config.json").write_text(json.dumps(told))

    return spoil


def adapter_beside_weights(folder: Path) -> None:
    save_llava(folder)
    (folder / "adapter_config.json").write_text("{}")


def adapter_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")


def pickled(folder: Path) -> None:
    save_llava(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Namespace(weight=1)}, folder / "pytorch_model.bin")


def written(name: str, text: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (save_llava(folder) / name).write_text(text)

    return spoil


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (save_llava(folder) / name).unlink()


def attention_by_eager(folder: Path) -> None:
    save_paligemma2(folder)


def pointer(name: str) -> Callable[[Path], None]:
    """What a clone without Git LFS holds in place of a large file."""

    def spoil(folder: Path) -> None:
        save_llava(folder)
        (folder / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * 'a'}\nsize 123\n")

    return spoil


def cut(size: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(save_llava(folder) / "model.safetensors", size)


def whole_numbers(folder: Path) -> None:
    file = save_llava(folder) / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("layers.2.mlp.down_proj.weight") and "language" in name)
    save_file({**weights, name: (100 * weights[name]).to(torch.int8)}, file, {"format": "pt"})


def part_not_there(folder: Path) -> None:
    name = "model-00001-of-00002.safetensors"
    (save_llava(folder) / "model.safetensors").rename(folder / name)
    index = {"metadata": {}, "weight_map": {"a": name, "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pointer("model.safetensors"), "model.safetensors is a Git LFS pointer instead of the file; run `git lfs"),
        (pointer("tokenizer.json"), "tokenizer.json is a Git LFS pointer instead of the file"),
        (cut(100_000), "model.safetensors is cut off or damaged (100000 of "),
        (cut(5), "model.safetensors is cut off or damaged (5 bytes, no head of safetensors); fetch it again"),
        (
            whole_numbers,
            "layers.2.mlp.down_proj.weight in whole numbers (I8), and config.json names no kind of",
        ),
        (part_not_there, "the index of the weights lists model-00002-of-00002.safetensors, which is not there"),
        (
            adapter_beside_weights,
            "checkpoint holds a low-rank adapter (adapter_config.json) next to the weights of a mo",
        ),
        (
            adapter_alone,
            "checkpoint holds a low-rank adapter and no model; choose the model it was trained on, and set",
        ),
        (pickled, "the model cannot be used (its weights are a pickle with more than tensors in it, which is code and"),
        (in_config(text_config__num_hidden_layers=0), "text_config.num_hidden_layers=0, and a model has 1 or more"),
        (in_config(vision_config__num_hidden_layers=0), "vision_config.num_hidden_layers=0, and a model has 1 or more"),
        (
            in_config(vision_feature_layer=99),
            "vision_feature_layer=99, and the vision tower has 3 blocks, so layers 0 ",
        ),
        (in_config(vision_feature_layer=[-2, -9]), "vision_feature_layer=[-2, -9], and the vision tower has 3 blocks"),
        (
            in_config(text_config__num_attention_heads=3),
            "the config cannot be used (config.json: The hidden size (64) is not a multiple of",
        ),
        (
            in_config(text_config__hidden_act="nope"),
            "config.json has text_config.hidden_act=nope, which is unknown here",
        ),
        (in_config(dtype="float99"), "config.json has dtype=float99, which torch does not have; it is bfloat16, float"),
        (in_config(text_config__torch_dtype=5), "config.json has text_config.torch_dtype=5, which torch does not have"),
        (in_config(quantization_config="nf4"), "config.json has quantization_config=nf4, but it must be an"),
        (in_config(quantization_config=[1]), "config.json has quantization_config=[1], but it must be an"),
        (in_config(text_config__quantization_config={}), "quantization_config={}, but it must be an object"),
        (in_config(text_config="x"), "config.json has text_config='x', which is of a wrong type"),
        (in_config(vision_feature_select_strategy="x"), "vision_feature_select_strategy=x, not one of 'default', 'fu"),
        (in_config(text_config__num_key_value_heads=0), "the config cannot be used (integer division or modulo by zer"),
        (written("config.json", "[]"), "config.json holds no JSON object, cut off or damaged; fetch it again"),
        (written("config.json", '{"a":'), "config.json holds no JSON object, cut off or damaged; fetch it again"),
        (written("tokenizer.json", "[]"), "tokenizer.json holds no JSON object, cut off or damaged; fetch it again"),
        (written("processor_config.json", "null"), "processor_config.json holds no JSON object, cut off or damaged"),
        (written("model.safetensors.index.json", "[]"), "index.json names no files of weights (its weight_map); fe"),
        (
            without("tokenizer.json"),
            "its tokenizer has no file here, such as tokenizer.json; save the model's tokenizer",
        ),
        (without("model.safetensors"), "checkpoint has no weights (model.safetensors, or model.safetensors.index.json"),
        (in_config(text_config={}), "have another shape than in config.json (lm_head.weight: [306, 64] in the f"),
        (in_config(text_config__hidden_size=None), "hidden_size=None, which is of a wrong type"),
        (in_config(vision_config={}), "[64, 64] in the files, [64, 768] by config.json); they are not filled at"),
        (in_config(text_config__num_hidden_layers=40), "324 weights of the model (model.language_model.layers.10"),
        (
            in_picture_processor(size={"longest_edge": 3}),
            "or 'shortest_edge' key. Got {longest_edge: 3}; fetch or fix",
        ),
        (attention_by_eager, "Gemma2Model has no such attention; set model.attn=eager"),
        (in_picture_processor(image_mean=[0, 0, 0]), "image_mean=[0, 0, 0]; nothing is subtracted but image_std="),
        (in_picture_processor(image_mean=[0.5]), "image_mean=[0.5]; it has another length than image_std="),
        (in_picture_processor(image_std=[1, 0, 1]), "image_std=[1, 0, 1]; it must be above 0 for each colour"),
        (in_picture_processor(rescale_factor=0), "rescale_factor=0; it must be above 0, mostly 1/255"),
        (
            in_picture_processor(do_rescale=False),
            "makes -1.79 of black and 947 of white, which no model is trained with",
        ),
        (in_picture_processor(rescale_factor=1.0), "do_rescale=True, rescale_factor=1, image_mean=[0.48"),
        (
            in_picture_processor(image_mean=[123, 116, 103], image_std=[58, 57, 57]),
            "image_mean=[123, 116, 103] and image_std=[58, 57, 57] do not match",
        ),
        (in_picture_processor(resample="x"), "resample=x; it is one of pillow's codes 0 to 5"),
        (text_only, "a model of type 'llama' does not write text about pictures; choose a multimodal checkpoint"),
        (unknown, "has no model of type 'nobodys', and the checkpoint contains no code"),
        (processor_of_another, "the processor is another model's"),
        (template_without_pictures, "the prompt holds 0 image tags for 1 pictures: "),
        (template_of_two_pictures, "the prompt holds 2 image tags for 1 pictures: "),
        (written("chat_template.jinja", "[" * 9999), f"{'[' * 200}' (9,599 letters) '{'[' * 200}'"),
    ],
)
def test_checkpoints_that_do_not_fit(probe: Run, tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(tmp_path / "checkpoint")
    check(probe("run", *tiny(tmp_path / "checkpoint"), *SMALL), tmp_path, message)


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_attention_named_in_the_config_gives_way_to_the_setting(checkpoint: Path, tmp_path: Path, name: str) -> None:
    """A kernel of the hub would be fetched, and is code."""
    in_config(**{name: "kernels-community/flash-attn"})(tmp_path / "kernel")
    found = [load_model(blueprint_of(folder, attn="eager"), "cpu") for folder in (checkpoint, tmp_path / "kernel")]
    assert [model.network.config._attn_implementation for model in found] == ["eager"] * 2


def test_attention_named_in_an_encoders_config(tmp_path: Path) -> None:
    encoders.save_dinov2(tmp_path / "encoder")
    told = json.loads((tmp_path / "encoder" / "config.json").read_text())
    (tmp_path / "encoder" / "config.json").write_text(json.dumps({**told, "attn_implementation": "owner/kernel"}))
    plan = plan_vit("own", EncoderSettings(size=32), tmp_path / "encoder")
    assert VisionTransformer(plan, "own", "cpu").features([Image.new("RGB", (32, 32))]).shape == (1, 16, 32)


def test_pictures_of_a_sample_and_tags_of_its_prompt(checkpoint: Path, samples: list[Sample]) -> None:
    """A template that draws one tag, whatever the number of pictures."""
    blueprint = blueprint_of(checkpoint)
    blueprint.processor.chat_template = "<image>\n{{ messages[0]['content'][-1]['text'] }}"
    one, other = samples[0], next(sample for sample in samples if sample.images != samples[0].images)
    blueprint.process([one])
    both = Sample("both", one.images + other.images, one.digests + other.digests, one.text, {})
    with pytest.raises(SpanError, match="the prompt holds 1 image tags for 2 pictures"):
        blueprint.process([both])


def test_pointers_that_no_loader_reads_do_no_harm(tmp_path: Path) -> None:
    pointer("consolidated.safetensors")(tmp_path / "copy")
    check_small(tmp_path / "copy")
    check_weights(tmp_path / "copy", needed=True)
