"""LoRA (Hu et al. 2021) through peft, on matrices of a model that stays as it is; on a base in nf4 it is QLoRA
(Dettmers et al. 2023). Knows no loss, no data, and no model but the one it is given."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn


def attach_lora(
    network: Any, modules: str, rank: int, alpha: int, dropout: float, seed: int
) -> Mapping[str, nn.Parameter]:
    """Give the matrices whose names match the pattern `modules` an update B A x alpha / rank: the float32 parameters by
    name, A drawn by `seed` and B zero. All others are frozen."""
    from peft import LoraConfig

    network.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=modules))
    moving = {name: value for name, value in network.named_parameters() if value.requires_grad}
    for value in moving.values():
        value.data = value.data.float()  # peft draws them in the dtype of the model
    return moving


def drop_out(network: Any, active: bool) -> None:
    """Whether LoRA's own dropout works; no other part of the model leaves its evaluation mode."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            module.train(active)  # type: ignore[attr-defined]


def save_lora(network: Any, folder: Path) -> None:
    """adapter_model.safetensors and adapter_config.json, as peft and transformers read them."""
    network.save_pretrained(folder)
