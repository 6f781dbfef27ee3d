"""Which device the models and the probes run on, and the 4-bit and 8-bit weights of the towers that the user names, on
CUDA and CPU. Imports torch, not transformers: a sweep needs no more.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mllm_probe.config.model import KEEP, KEEP_AUTO, ONE, SPREAD, ModelSettings
from mllm_probe.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from torch import nn

    from mllm_probe.models.structure import Structure

# Convolutions on cards otherwise round float32 to 10 bits, in a way that depends on the size of the batch.
torch.backends.cudnn.allow_tf32 = False
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it recommends a kernel that is not wanted
QUANTIZED_CLASSES = ("Linear4bit", "Linear8bitLt")
UNCOMPILED = "TORCHDYNAMO_DISABLE"  # 1: torch.compile gives back what it is given
SHARE = 4  # unpacked weights may take one part in so many of the free memory


def pick_device(name: str) -> str:
    """`auto` = CUDA where there is one. Raises ModelError."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("device=cuda, but torch sees no CUDA device here; use device=cpu or device=auto")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


def memory_of(device: str) -> int:
    """Bytes that a card has free, or the machine has at all."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory(device: str) -> int:
    """Bytes that a card, or the machine and every control group around this process, has free."""
    if device == "cuda":
        return memory_of(device)
    known = [memory_of(device)]
    with suppress(OSError, ValueError, IndexError):  # not Linux
        known += [int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024]
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            known += _group_rooms(*line.split(":", 2)[1:])
    return max(0, min(known))


def _group_rooms(controllers: str, path: str) -> Iterator[int]:
    """What the limits of a control group and those around it leave; version 2 names no controllers."""
    root, limit, used = Path("/sys/fs/cgroup"), "memory.max", "memory.current"
    if controllers:
        root, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
    folder = root / path.lstrip("/")
    for place in (folder, *folder.parents) if controllers in ("", "memory") else ():
        with suppress(OSError, ValueError):  # no limit there
            yield int((place / limit).read_text()) - int((place / used).read_text())


def check_device(settings: ModelSettings, device: str) -> None:
    """Refuse what a device cannot do before anything is loaded onto it. Raises ConfigError, ModelError."""
    if settings.placement != ONE and device == "cpu":
        raise ConfigError(
            f"model.placement={settings.placement} places a model on CUDA cards, and device is cpu; use "
            "model.placement=one"
        )
    if device == "cuda" and settings.dtype == "bfloat16":
        for card in range(torch.cuda.device_count()) if settings.placement != ONE else [torch.cuda.current_device()]:
            check_bfloat16(torch.cuda.get_device_name(card), torch.cuda.get_device_capability(card))


def check_bfloat16(name: str, capability: tuple[int, int]) -> None:
    """Refuse an NVIDIA card older than Ampere (compute capability 8.0), on which torch imitates bfloat16 slowly and
    calls it supported; AMD's are not numbered so and have it. Raises ModelError."""
    if torch.version.hip is None and capability < (8, 0):
        number = ".".join(map(str, capability))
        raise ModelError(
            f"{name} (compute capability {number}) has no bfloat16, which needs 8.0 or more; use model.dtype=float16"
        )


def device_map(settings: ModelSettings, device: str) -> dict[str, str] | str:
    """What transformers takes for it."""
    return {"": device} if settings.placement == ONE else "auto"


def check_placed(placed: dict[str, object], settings: ModelSettings) -> None:
    """Whether all parts of the model are on cards, unless they need not be. Raises ModelError."""
    off = [name for name, where in placed.items() if str(where) in ("cpu", "disk")]
    if off and settings.placement == SPREAD:
        raise ModelError(
            f"{len(off)} of {len(placed)} parts of the model do not fit on the cards ({', '.join(off[:3])}); use "
            "model.quantization=nf4, or let them stay in the CPU's memory, slowly, with model.placement=offload"
        )


def import_bitsandbytes() -> None:
    """Without torch's compiler, whose import takes a second: it is for devices that bitsandbytes has no code for."""
    before = os.environ.get(UNCOMPILED)
    os.environ[UNCOMPILED] = "1"
    try:
        import_module("bitsandbytes")
    finally:
        os.environ.pop(UNCOMPILED)
        if before is not None:
            os.environ[UNCOMPILED] = before


def nf4_error(device: str) -> float:
    """The largest error of numbers from -1 to 1 that bitsandbytes packs into nf4 and unpacks on this device."""
    import_bitsandbytes()
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.linspace(-1, 1, 4096, device=device).reshape(64, 64)
    return float((dequantize_4bit(*quantize_4bit(weight, quant_type="nf4")) - weight).abs().max())


def quantization_config(settings: ModelSettings, structure: "Structure", dtype: torch.dtype) -> Any:
    """nf4 with double quantisation or int8; towers that are not named, and the output head, are left alone."""
    if settings.quantization == "none" or not settings.quantize:
        return None
    import_bitsandbytes()
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
            setattr(module, _forward_of(module), partial(_forward_int8, module))


def _forward_of(module: "nn.Module") -> str:
    """The name of a module's own forward pass, which accelerate may have wrapped."""
    return "_old_forward" if hasattr(module, "_old_forward") else "forward"


def _forward_int8(module: Any, states: "torch.Tensor") -> "torch.Tensor":
    """bitsandbytes' own product for training on CPUs, which keeps no unpacked weight for the gradient."""
    from bitsandbytes.autograd._functions import MatMul8bitFp

    if module.weight.CB is not None:
        module.init_8bit_state()
    bias = None if module.bias is None else module.bias.to(states.dtype)
    return MatMul8bitFp.apply(states, module.weight, None, bias, module.state)  # type: ignore[no-untyped-call]


def keeps_dequantised(settings: ModelSettings, device: str, size: float) -> bool:
    """Whether matrices of `size` bytes in all are kept in the compute dtype once they were used. On a CPU that saves
    time; on a card each pass is so long that unpacking is some 2 % of its arithmetic."""
    if settings.keeping == KEEP:
        return size <= free_memory(device)
    return settings.keeping == KEEP_AUTO and device == "cpu" and size <= free_memory(device) / SHARE


def keep_dequantised(model: "nn.Module", settings: ModelSettings, device: str) -> str:
    """Keep them where that is asked for and memory suffices; a sentence where it does not, else empty."""
    found = [part for part in model.modules() if type(part).__name__ in QUANTIZED_CLASSES]
    modules: list[Any] = [part for part in found if not hasattr(part, "base_layer")]  # an adapter, around such a layer
    numbers, each = sum(part.in_features * part.out_features for part in modules), getattr(torch, settings.dtype)
    size = numbers * each.itemsize
    if keeps_dequantised(settings, device, size):
        for part in modules:
            setattr(part, _forward_of(part), Dequantised(part))
    elif settings.keeping == KEEP and modules:
        return (
            f"model.keep_dequantised=true would take {size / 1e9:.3g} GB and {free_memory(device) / 1e9:.3g} GB are "
            "free, so every pass unpacks the weights"
        )
    return ""


class Dequantised:
    """Stands in for the forward pass of a quantised linear layer: the same product, its matrix unpacked once."""

    def __init__(self, module: Any) -> None:
        self._module, self._matrix = module, torch.empty(0)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        """States [.., in] -> [.., out] in their dtype."""
        dtype = getattr(self._module, "compute_dtype", None) or states.dtype
        if self._matrix.dtype != dtype or not len(self._matrix):
            with torch.inference_mode(False), torch.no_grad():  # a later pass may be one with gradients
                self._matrix = _unpacked(self._module, dtype)
        bias = None if self._module.bias is None else self._module.bias.to(dtype)
        return torch.nn.functional.linear(states.to(dtype), self._matrix, bias).to(states.dtype)


def _unpacked(module: Any, dtype: torch.dtype) -> torch.Tensor:
    """[out, in], as bitsandbytes has it in every pass."""
    from bitsandbytes.functional import dequantize_4bit

    if hasattr(module, "init_8bit_state"):
        if module.weight.CB is not None:
            module.init_8bit_state()
        return module.state.CB.to(dtype, copy=True).mul_(module.state.SCB.unsqueeze(1).mul(1 / 127))
    state = copy(module.weight.quant_state)
    state.dtype = dtype
    return dequantize_4bit(module.weight.data, state)


def check_quantized(found: list[str], settings: ModelSettings, structure: "Structure") -> None:
    """Skip lists are fragile: the modules found must lie in the towers asked for, and in each of them."""
    wanted = [] if settings.quantization == "none" else [structure.whole[name] for name in settings.quantize]
    stray = [name for name in found if not any(name.startswith(tower) for tower in wanted)]
    bare = [tower for tower in wanted if not any(name.startswith(tower) for name in found)]
    if stray or bare:
        raise ModelError(
            f"model.quantize={settings.quantize} was not met: "
            f"{len(stray)} modules elsewhere are quantised ({', '.join(stray[:3])}), none in {bare or 'no tower'}"
        )
