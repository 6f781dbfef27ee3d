"""Which device the models and the probes run on. Imports torch, not transformers: a sweep needs no more."""

import os

import torch

from mllm_probe.config.model import ONE, SPREAD, ModelSettings
from mllm_probe.errors import ConfigError, ModelError

# Convolutions on cards otherwise round float32 to 10 bits, in a way that depends on the size of the batch.
torch.backends.cudnn.allow_tf32 = False


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


def nf4_error(device: str) -> float:
    """The largest error of numbers from -1 to 1 that bitsandbytes packs into nf4 and unpacks on this device."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.linspace(-1, 1, 4096, device=device).reshape(64, 64)
    return float((dequantize_4bit(*quantize_4bit(weight, quant_type="nf4")) - weight).abs().max())
