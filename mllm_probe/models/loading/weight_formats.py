"""How a checkpoint's weights are stored, where these are not plain numbers: what is read as what it is, what is not.

bitsandbytes' nf4 and 8 bits are read where they are asked for by name. Other kinds would be called by a wrong name, or
come out otherwise on every machine, and are refused with a word on what they are.
"""

from pathlib import Path
from typing import Any

from mllm_probe.config.model import ModelSettings
from mllm_probe.errors import ConfigError, ModelError
from mllm_probe.files.entries import read_object

BITSANDBYTES = "bitsandbytes"
NAMES = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp4": "bitsandbytes' fp4",
    "fp8": "8-bit floating point",
    "mlx": "MLX's kind of quantisation",
}
MARKS = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
}  # files of older releases, config.json says nothing


def stored_kind(folder: Path) -> str | None:
    """None for plain numbers, nf4 and int8 for bitsandbytes', else what it is called. Raises what a damaged config
    raises, ModelError for what is no description of it."""
    config = read_object(folder / "config.json")
    told = _quantization(config)
    if told is not None and not (told and isinstance(told, dict)):
        raise ModelError(
            f"{folder}: config.json has quantization_config={told}, but it must be an object with a quant_method; fix "
            "it, or take the checkpoint that was not quantised"
        )
    if told is None:
        if isinstance(config.get("quantization"), dict):
            return "mlx"
        if not any(folder.glob("*.safetensors")) and any(folder.glob("*.gguf")):
            return "gguf"
        return next((kind for file, kind in MARKS.items() if (folder / file).is_file()), None)
    method = str(told.get("quant_method") or ("mlx" if "quantization" in config else BITSANDBYTES))
    if method != BITSANDBYTES:
        return method
    if told.get("load_in_8bit"):
        return "int8"
    return str(told.get("bnb_4bit_quant_type", "fp4"))  # the library's own default


def _quantization(config: Any) -> Any:
    """What the config says of it, or one inside it."""
    if not isinstance(config, dict):
        return None
    for name in ("quantization_config", "compression_config"):
        if config.get(name) is not None:
            return config[name]
    return next((found for part in config.values() if (found := _quantization(part)) is not None), None)


def check_stored(folder: Path, kind: str | None, settings: ModelSettings) -> None:
    """Raises ModelError for weights that cannot be read, ConfigError where the settings call them something else."""
    if kind is None or settings.weights == "random":
        return
    refuse_other(folder, kind)
    if kind != settings.quantization:
        raise ConfigError(
            f"model.quantization={settings.quantization} was requested, but the weights in {folder} are already "
            f"stored in {kind}; set model.quantization={kind}, or take the checkpoint that is not quantised"
        )


def refuse_other(folder: Path, kind: str) -> None:
    """Raises ModelError for all but nf4 and 8 bits of bitsandbytes."""
    if kind in ("nf4", "int8"):
        return
    name = NAMES.get(kind, kind)
    raise ModelError(
        f"{folder}: the weights are quantised by {name}, which is not read here; take the checkpoint that was "
        "quantised, which model.quantization=nf4 or int8 rounds as it is loaded"
    )


def refuse_quantised(folder: Path, what: str) -> None:
    """Raises ModelError where `what` needs plain numbers and these are not."""
    kind = stored_kind(folder)
    if kind is not None:
        raise ModelError(
            f"{folder}: the weights are quantised ({NAMES.get(kind, kind)}), and {what} reads plain ones; take the "
            "checkpoint that was quantised"
        )


def as_asked(config: Any, settings: ModelSettings) -> Any:
    """A config whose stored weights are multiplied in the dtype of the settings, whatever it says of its own; of random
    weights none are stored."""
    told = getattr(config, "quantization_config", None)
    if told is None:
        return config
    if settings.weights == "random":
        del config.quantization_config
    else:
        config.quantization_config = {**told, "bnb_4bit_compute_dtype": settings.dtype}
    return config
