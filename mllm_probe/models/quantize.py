"""4-bit and 8-bit loading through bitsandbytes, on CUDA and CPU, of the towers the user names and no others."""

from typing import TYPE_CHECKING, Any

from mllm_probe.errors import ModelError
from mllm_probe.models.structure import Structure
from mllm_probe.settings import ModelSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

QUANTIZED_CLASSES = ("Linear4bit", "Linear8bitLt")


def quantization_config(settings: ModelSettings, structure: Structure, dtype: "torch.dtype") -> Any:
    """nf4 with double quantisation or int8; towers that are not named, and the output head, are left alone."""
    if settings.quantization == "none" or not settings.quantize:
        return None
    from transformers import BitsAndBytesConfig

    if lacking := [name for name in settings.quantize if name not in structure.whole]:
        raise ModelError(
            f"model.quantize={settings.quantize} names {lacking[0]}, which this model lacks; it has "
            f"{', '.join(structure.whole)}"
        )
    skip = [path for name, path in structure.whole.items() if name not in settings.quantize] + list(structure.beside)
    if settings.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skip,
    )


def quantized_modules(model: "nn.Module") -> list[str]:
    """Names of the modules that really are quantised now."""
    return [name for name, module in model.named_modules() if type(module).__name__ in QUANTIZED_CLASSES]


def same_on_every_cpu(model: "nn.Module") -> None:
    """Multiply in the compute dtype that was asked for.

    On CPUs with AVX512-BF16 bitsandbytes otherwise packs the weights anew at the first pass and multiplies in bfloat16,
    float32 or not, and fails for layers whose width is not a multiple of 32: one cache would hold two kinds of numbers.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def check_quantized(found: list[str], settings: ModelSettings, structure: Structure) -> None:
    """Skip lists are fragile: the modules found must lie in the towers asked for, and in each of them."""
    wanted = [] if settings.quantization == "none" else [structure.whole[name] for name in settings.quantize]
    stray = [name for name in found if not any(name.startswith(tower) for tower in wanted)]
    bare = [tower for tower in wanted if not any(name.startswith(tower) for name in found)]
    if stray or bare:
        raise ModelError(
            f"model.quantize={settings.quantize} was not met: "
            f"{len(stray)} modules elsewhere are quantised ({', '.join(stray[:3])}), none in {bare or 'no tower'}"
        )
