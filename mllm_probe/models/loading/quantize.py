"""4-bit and 8-bit loading through bitsandbytes, on CUDA and CPU, of the towers the user names and no others."""

from functools import partial
from typing import TYPE_CHECKING, Any

from mllm_probe.config.model import ModelSettings
from mllm_probe.errors import ModelError
from mllm_probe.models.structure import Structure

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


def round_weights_alone(model: "nn.Module") -> None:
    """Multiply by the rounded weights, in the compute dtype that was asked for.

    nf4: on CPUs with AVX512-BF16 bitsandbytes otherwise packs the weights anew at the first pass and multiplies in
    bfloat16, float32 or not, and fails for layers whose width is not a multiple of 32: one cache would hold two kinds
    of numbers.

    int8: it otherwise rounds what comes in to 8 bits as well, except columns in which any row of the call has an
    outlier (LLM.int8, Dettmers et al. 2022), so that a prompt's states depend on those it is read with. Outliers chosen
    row by row would not fix that: a step of rounding makes much of a difference in the last digit.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        if hasattr(module, "init_8bit_state"):
            forward = "_old_forward" if hasattr(module, "_old_forward") else "forward"  # accelerate wraps it
            setattr(module, forward, partial(_forward_int8, module))


def _forward_int8(module: Any, states: "torch.Tensor") -> "torch.Tensor":
    """bitsandbytes' own product for training on CPUs, which keeps no unpacked weight for the gradient."""
    from bitsandbytes.autograd._functions import MatMul8bitFp

    if module.weight.CB is not None:
        module.init_8bit_state()
    bias = None if module.bias is None else module.bias.to(states.dtype)
    return MatMul8bitFp.apply(states, module.weight, None, bias, module.state)  # type: ignore[no-untyped-call]


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
