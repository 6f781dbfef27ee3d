"""The config and the class of a checkpoint's model: transformers' own, or code in the checkpoint.

Code of a checkpoint runs on the user's word alone. Where a class of transformers will do, it is not even looked at.

What a config, or the settings of a picture processor, cannot be is told before any weight is read; what passes may
still not fit the weights, which `weights` finds.
"""

import math
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
)

from mllm_probe.config.model import ModelSettings
from mllm_probe.errors import ModelError
from mllm_probe.files.seals import read_object

BROUGHT = (
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForCausalLM,
    AutoModel,
)  # names in `auto_map`
FILTERS = range(6)  # pillow's codes of how a picture is resized
FARTHEST = 30  # from 0 a colour may lie; means and deviations of published models give 3 or less
KEPT = ("eager", "sdpa")  # kinds of attention that every machine has


def untrusted(folder: Path, part: str) -> ModelError:
    """What to say of a part that nothing but a checkpoint's own code can load."""
    return ModelError(
        f"{folder}: the {part} is code in the checkpoint, which is not run unless you trust it; read its *.py files, "
        "then set model.trust_remote_code=true"
    )


def load_config(folder: Path, trust_remote_code: bool) -> Any:
    """The config of a model that takes pictures and text. Raises ModelError, and whatever transformers raises."""
    told = read_object(folder / "config.json")
    check_dtypes(folder, told)
    kind, brought = told.get("model_type"), bool(told.get("auto_map"))
    if kind == "dense_llava":  # ours, which transformers knows once its file is read
        import_module("mllm_probe.models.dense_connector")
    if kind not in CONFIG_MAPPING and not brought:
        raise ModelError(
            f"{folder}: transformers {transformers.__version__} has no model of type '{kind}', and the checkpoint "
            "contains no code; a newer release may have it"
        )
    if brought and not trust_remote_code and kind not in CONFIG_MAPPING:
        raise untrusted(folder, "model")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if type(config) in MODEL_FOR_MULTIMODAL_LM_MAPPING or (brought and trust_remote_code):
        return config
    if brought:
        raise untrusted(folder, "model")
    raise ModelError(
        f"{folder}: a model of type '{config.model_type}' does not write text about pictures; "
        "choose a multimodal checkpoint"
    )


def make_model(config: Any, settings: ModelSettings) -> Any:
    """A model of the config's class, with weights of its own drawing on the default device, and the kind of attention
    that was asked for, unless it is one that not every machine has. Raises whatever transformers raises."""
    brought, trust = getattr(config, "auto_map", None) or {}, settings.trust_remote_code
    auto = next((auto for auto in BROUGHT if trust and auto.__name__ in brought), AutoModelForMultimodalLM)
    attn = {"attn_implementation": settings.attn} if settings.attn in KEPT else {}
    return auto.from_config(config, trust_remote_code=trust, **attn)


def sound_config(folder: Path, config: Any) -> Any:
    """The config, with no kind of attention that must be fetched or installed. Raises ModelError."""
    if getattr(config, "_attn_implementation", None) not in KEPT:
        config._attn_implementation = None  # whoever loads the model names one, or transformers takes its own
    for name, part in _parts(config):
        blocks = getattr(part, "num_hidden_layers", None)
        if isinstance(blocks, int) and blocks < 1:
            raise ModelError(f"{folder}: config.json has {name}num_hidden_layers={blocks}, and a model has 1 or more")
    _check_feature_layers(folder, config)
    return config


def check_dtypes(folder: Path, told: Any, where: str = "") -> None:
    """Raises ModelError for what config.json calls a dtype and torch does not have."""
    for name, inner in told.items() if isinstance(told, dict) else ():
        check_dtypes(folder, inner, f"{where}{name}.")
        named = name == "dtype" or (name == "torch_dtype" and told.get("dtype") is None)
        if named and inner is not None and not isinstance(getattr(torch, str(inner), None), torch.dtype):
            raise ModelError(
                f"{folder}: config.json has {where}{name}={inner}, which torch does not have; it is bfloat16, float16 "
                "or float32 mostly"
            )


def _parts(config: Any) -> list[tuple[str, Any]]:
    """The config and those inside it, each with the name that leads to it."""
    inner = [(f"{name}.", getattr(config, name, None)) for name in getattr(config, "sub_configs", {})]
    return [("", config), *((name, part) for name, part in inner if part is not None)]


def _check_feature_layers(folder: Path, config: Any) -> None:
    read = getattr(config, "vision_feature_layer", None)
    blocks = getattr(getattr(config, "vision_config", None), "num_hidden_layers", None)
    if read is None or not isinstance(blocks, int):
        return
    for layer in [read] if isinstance(read, int) else read:
        if not -blocks - 1 <= layer <= blocks:
            raise ModelError(
                f"{folder}: config.json has vision_feature_layer={read}, and the vision tower has {blocks} blocks, so "
                f"layers 0 to {blocks}, or -1 to {-blocks - 1} from the top"
            )


def check_scaling(folder: Path, images: Any) -> None:
    """Whether a picture processor makes numbers of a picture that a model can have been trained on. Raises
    ModelError."""

    def told(name: str) -> Any:
        return getattr(images, name, None)

    def refuse(name: str, allowed: str) -> None:
        value = list(told(name)) if isinstance(told(name), tuple) else told(name)
        raise ModelError(f"{folder}: the picture processor has {name}={value}; {allowed}")

    if told("do_resize") and told("resample") is not None and told("resample") not in FILTERS:
        refuse("resample", "it is one of pillow's codes 0 to 5, mostly 2 (bilinear) or 3 (bicubic)")
    if told("do_rescale") and not _numbers(told("rescale_factor"), least=0):
        refuse("rescale_factor", "it must be above 0, mostly 1/255")
    if not told("do_normalize"):
        return
    if not _numbers(told("image_std"), least=0):
        refuse("image_std", "it must be above 0 for each colour")
    if not _numbers(told("image_mean")):
        refuse("image_mean", "it must be a number for each colour")
    mean, std = _listed(told("image_mean")), _listed(told("image_std"))
    if not any(mean) and any(value != 1 for value in std):
        refuse("image_mean", f"nothing is subtracted but image_std={std} divides, which no model is trained with")
    if len(mean) != len(std):
        refuse("image_mean", f"it has another length than image_std={std}")
    _check_range(folder, images, mean, std)


def _check_range(folder: Path, images: Any, mean: list[float], std: list[float]) -> None:
    """Whether black and white come out as numbers near 0, of either sign."""
    factor = images.rescale_factor if getattr(images, "do_rescale", None) else 1
    for middle, spread in zip(mean, std, strict=True):
        black, white = -middle / spread, (255 * factor - middle) / spread
        if middle > 255 * factor or max(abs(black), abs(white)) > FARTHEST:
            raise ModelError(
                f"{folder}: the picture processor makes {black:.3g} of black and {white:.3g} of white, which no model "
                f"is trained with; do_rescale={getattr(images, 'do_rescale', None)}, rescale_factor={factor:.3g}, "
                f"image_mean={mean} and image_std={std} do not match"
            )


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _numbers(value: Any, least: float = -math.inf) -> bool:
    """Whether it is a finite number above `least`, or a list of such."""
    return all(isinstance(one, int | float) and math.isfinite(one) and one > least for one in _listed(value)) and bool(
        _listed(value)
    )
