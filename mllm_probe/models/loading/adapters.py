"""A low-rank adapter on this disk: whether its parts are there, and it was trained on these weights. Loads nothing."""

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mllm_probe.config.model import ModelSettings
from mllm_probe.errors import ConfigError, ModelError
from mllm_probe.files.digests import Digests
from mllm_probe.files.model_names import ORIGIN
from mllm_probe.files.seals import read_object
from mllm_probe.models.loading.checkpoint import ADAPTER
from mllm_probe.models.loading.whole import refuse_pointer

CONFIG, TENSORS = ADAPTER, "adapter_model.safetensors"

PICKLED = "adapter_model.bin"


def need_peft() -> None:
    """Raises ModelError."""
    if find_spec("peft") is None:
        raise ModelError("a low-rank adapter needs peft, which is not installed; run `pip install 'mllm-probe[tune]'`")


def adapter_digests(settings: ModelSettings, base: str, digests: Digests) -> dict[str, str]:
    """{file name: content digest} of what changes the model, none without an adapter. `base` is the digest of the
    model's own weights; an adapter from elsewhere does not say what it was trained on.

    Raises ConfigError, ModelError for one that does not belong to them.
    """
    folder = settings.adapter_folder
    if folder is None:
        return {}
    need_peft()
    if settings.weights == "random":
        raise ConfigError("model.adapter changes trained weights, but model.weights=random has none; leave one out")
    if (folder / PICKLED).is_file() and not (folder / TENSORS).is_file():
        raise ModelError(
            f"model.adapter={folder} has its weights in {PICKLED}, a pickle, which may contain code and is not "
            f"opened; save them as {TENSORS} with peft's save_pretrained"
        )
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise ModelError(f"model.adapter={folder} has no {name}; give the folder that `mllm-probe tune` left")
    _check_config(folder)
    refuse_pointer(folder / TENSORS)
    told = origin_of(folder)
    if told and told["base"] != base:
        raise ModelError(
            f"model.adapter={folder} was trained on other weights (those of {told['model']}, digest {told['base']}) "
            f"than {replace(settings, adapter=None).label} has (digest {base}); choose the model it was trained on"
        )
    return {name: digests.of(folder / name) for name in (CONFIG, TENSORS)}


def _check_config(folder: Path) -> None:
    """Raises ModelError for one that is damaged, or that scales what was trained by nothing."""
    try:
        told = read_object(folder / CONFIG)
    except ValueError as error:
        raise ModelError(
            f"model.adapter={folder}: {CONFIG} holds no JSON object, cut off or damaged; copy it again"
        ) from error
    if told.get("lora_alpha") == 0:
        raise ModelError(f"model.adapter={folder}: {CONFIG} has lora_alpha=0, so it changes nothing; fix it")


def origin_of(folder: Path) -> dict[str, Any]:
    """What an adapter of ours says of its training, nothing for others. Raises ModelError where that is damaged."""
    if not (folder / ORIGIN).is_file():
        return {}
    try:
        told = read_object(folder / ORIGIN)
        return {name: told[name] for name in ("base", "model", "class")}
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"model.adapter={folder}: {ORIGIN} is damaged ({error!r}); copy it again") from error


def write_origin(folder: Path, base: str, model: str, model_class: str, training: Mapping[str, Any]) -> None:
    """Beside what was trained: the digest of the weights it was trained on, their model's name and class, and how."""
    told = {"base": base, "model": model, "class": model_class, "training": training}
    (folder / ORIGIN).write_text(json.dumps(told, indent=2) + "\n")
