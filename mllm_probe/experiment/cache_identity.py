"""Which cache an experiment belongs to: all that can change a stored number, and the folder's own record of it."""

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mllm_probe.cache.coverage import Identity, folder_digests, identify, weights_digest
from mllm_probe.cache.store import Store, write_json
from mllm_probe.config.model import ModelSettings, PromptSettings
from mllm_probe.config.run import ExtractSettings
from mllm_probe.files.digests import Digests
from mllm_probe.models.prompts.templates import from_tokenizer


def identity_of(
    checkpoint: Path, model: ModelSettings, prompt: PromptSettings, extract: ExtractSettings, digests: Digests
) -> Identity:
    """Raises ConfigError, ModelError for an adapter of another model."""
    files = folder_digests(checkpoint, digests)
    adapted: dict[str, Any] = {}
    if model.adapter is not None:
        from mllm_probe.models.loading.adapters import adapter_digests

        adapted["adapter"] = adapter_digests(model, weights_digest(files), digests)
    return identify(files, **adapted, **requested(checkpoint, model, prompt, extract))


def requested(
    checkpoint: Path, model: ModelSettings, prompt: PromptSettings, extract: ExtractSettings
) -> dict[str, Any]:
    """The settings that can change a stored number."""
    rounded = "weights alone" if model.quantization == "int8" else ""  # older caches of int8 rounded what came in, too
    # older releases did not read the tokenizer's
    template = "tokenizer_config.json" if from_tokenizer(checkpoint, prompt) else ""
    asked = {
        "chat_template": template,
        "processor": model.processor,
        "blocks": model.blocks.named,
        "trust_remote_code": model.trust_remote_code,
        "rounded": rounded,
    }
    return {
        **{name: value for name, value in asked.items() if value},  # named where they are used, which is seldom
        "weights": model.weights,
        "init_seed": model.seed if model.weights == "random" else None,
        "quantization": model.quantization,
        "quantize": sorted(model.quantize) if model.quantization != "none" else [],
        "dtype": model.dtype,
        "storage": storage_dtype(model, extract),
        "attn": model.attn,
        "prompt": asdict(prompt),
        "padding_side": extract.padding_side,
        "picture_backend": "torchvision" if find_spec("torchvision") else "pillow",  # they resize differently
    }


def storage_dtype(model: ModelSettings, extract: ExtractSettings) -> str:
    return extract.dtype or model.dtype


def name_cache(store: Store, identity: Identity, model: str) -> None:
    """Write the identity's fields beside what they digest to, for whoever looks at the folder.

    `model` is what the first run called it: a name for people, and no part of what is digested.
    """
    if not store.paths.identity.exists():
        write_json(store.paths.identity, {**identity.to_json(), "model": model})
