"""Which device the models and the probes run on. Imports torch, not transformers: a sweep needs no more."""

import torch

from mllm_probe.errors import ModelError


def pick_device(name: str) -> str:
    """`auto` = CUDA where there is one. Raises ModelError."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("device=cuda, but torch sees no CUDA device here; use device=cpu or device=auto")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
