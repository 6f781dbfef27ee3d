"""The config and the class of a checkpoint's model: transformers' own, or code in the checkpoint.

Code of a checkpoint runs on the user's word alone. Where a class of transformers will do, it is not even looked at.
"""

from pathlib import Path
from typing import Any

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
from mllm_probe.files.entries import read_object
from mllm_probe.models.loading.soundness import KEPT, check_dtypes

BROUGHT = (
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForCausalLM,
    AutoModel,
)  # names in `auto_map`


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
