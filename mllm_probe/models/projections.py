"""Which matrices a low-rank adapter changes, and whether those of one on disk have their place in a model.

Adapters are loaded by transformers beside the weights and not merged into them, so that a quantised base stays what it
was. Found by structure, as the towers are.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from mllm_probe.errors import ConfigError, ModelError, choices
from mllm_probe.models.adapters import TENSORS, origin_of
from mllm_probe.models.structure import Structure, attention_of

NAMES = (("q_proj", "query", "wq"), ("v_proj", "value", "wv"))  # what families call W_q and W_v
LOW_RANK = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight")


def projections(model: nn.Module, structure: Structure, named: Sequence[str] | None) -> str:
    """A pattern of the names of W_q and W_v, or of the matrices `named`, in the blocks of the language model alone.

    Raises ConfigError, ModelError.
    """
    blocks = list(model.get_submodule(structure.blocks["lm"]).children())
    parts = [part for block in blocks for part in (block if named else attention_of(block)).named_modules()]
    there = {name.rpartition(".")[2] for name, part in parts if isinstance(part, nn.Linear)}
    for name in named or ():
        if name not in there:
            raise ConfigError(f"target.modules names '{name}', which no block has; {choices(name, there)}")
    found = named or [name for own in NAMES for name in own if name in there]
    if not named and len(found) != len(NAMES):
        raise ModelError(
            f"{type(model).__name__}: the attention of the language model has no W_q and W_v by themselves, but "
            f"{', '.join(sorted(there))}; name those to train with target.modules=[NAME]"
        )
    return rf"{re.escape(structure.blocks['lm'])}\.\d+\.(?:.*\.)?(?:{'|'.join(map(re.escape, found))})"


def low_rank_parameters(model: nn.Module, pattern: str, rank: int) -> int:
    """How many parameters the updates of the matrices whose names match have."""
    parts = (part for name, part in model.named_modules() if re.fullmatch(pattern, name))
    return sum(rank * (part.in_features + part.out_features) for part in parts if isinstance(part, nn.Linear))


def check_fits(model: nn.Module, folder: Path) -> None:
    """Every matrix of the adapter must have its place in the model, which may be without weights. Raises ModelError."""
    try:
        with safe_open(folder / TENSORS, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"model.adapter={folder}: {TENSORS} cannot be read ({error})") from error
    own_class = type(model).__name__
    if (trained := origin_of(folder).get("class", own_class)) != own_class:
        raise _other(model, folder, f"it was trained on a {trained}")
    parts = dict(model.named_modules())
    for name, shape in shapes.items():
        found = LOW_RANK.fullmatch(name)
        own = parts.get(found[1]) if found else None
        if found is None or not isinstance(own, nn.Linear):
            raise _other(model, folder, f"{name} has no place there")
        side, width = (1, own.in_features) if found[2] == "A" else (0, own.out_features)
        if shape[side] != width:
            raise _other(model, folder, f"{name} is for a matrix {shape[side]} wide, and that one is {width} wide")


def load_adapter(model: Any, folder: Path) -> None:
    """In float32, as it was trained. Raises ModelError for an adapter that does not fill its own places."""
    found = model.load_adapter(str(folder), use_safetensors=True)
    if odd := sorted({*found.missing_keys, *found.unexpected_keys}):
        raise _other(model, folder, f"{odd[0]} is on one side alone")
    for name, value in load_file(folder / TENSORS).items():  # transformers has rounded them to the model's dtype
        if place := LOW_RANK.fullmatch(name):
            own = model.get_submodule(f"{place[1]}.lora_{place[2]}.{model.active_adapters()[0]}").weight
            own.data = value.to(own.device, torch.float32)


def _other(model: nn.Module, folder: Path, why: str) -> ModelError:
    return ModelError(
        f"model.adapter={folder} does not fit this {type(model).__name__}: {why}; choose the model it was trained on"
    )
