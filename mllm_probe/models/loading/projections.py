"""Which matrices a low-rank adapter changes, and whether those of one on disk have their place in a model.

Adapters are loaded by transformers beside the weights and not merged into them, so that a quantised base stays what it
was. Found by structure, as the towers are.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from mllm_probe.errors import ConfigError, ModelError, choices
from mllm_probe.models.loading.adapters import TENSORS, origin_of
from mllm_probe.models.loading.reasons import briefly
from mllm_probe.models.structure import Structure, attention_of

NAMES = (("q_proj", "query", "wq"), ("v_proj", "value", "wv"))  # what families call W_q and W_v
LOW_RANK, MAGNITUDE = ".lora_", ".lora_magnitude_vector"  # the second is DoRA's, by the name it is saved under


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


def read_adapter(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """{name in the model: float32 values} of an adapter's tensors; transformers maps names of older releases itself.
    `model` is one without weights, which is spent. Raises ModelError for an adapter that does not fill its places.
    """
    own_class = type(model).__name__
    if (trained := origin_of(folder).get("class", own_class)) != own_class:
        raise _other(model, folder, f"it was trained on a {trained}")
    model.float().hf_device_map = {"": "cpu"}  # where what is loaded goes
    _inject(model, folder)
    return {name: value.data for name, value in model.named_parameters() if not value.is_meta}


def load_adapter(model: Any, folder: Path, values: Mapping[str, torch.Tensor]) -> None:
    """Its low-rank matrices in float32, as they were trained; whole modules and biases in the model's dtype. Raises
    ModelError."""
    _inject(model, folder)
    for name, value in values.items():
        if LOW_RANK in name:
            own = model.get_parameter(name)
            own.data = value.to(own.device)  # transformers has rounded it to the model's dtype


def _inject(model: Any, folder: Path) -> None:
    try:
        state = load_file(folder / TENSORS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"model.adapter={folder}: {TENSORS} cannot be read ({error})") from error
    state = {f"{name}.weight" if name.endswith(MAGNITUDE) else name: value for name, value in state.items()}
    try:
        found = model.load_adapter(str(folder), adapter_state_dict=state, ignore_mismatched_sizes=True)
    except ValueError as error:  # peft finds none of the modules that the adapter's config names
        raise _other(model, folder, briefly(error)) from error
    if odd := sorted(found.mismatched_keys):
        name, there, here = odd[0]
        raise _other(model, folder, f"{name} is {list(there)}, and its place there is {list(here)} wide")
    if odd := sorted(found.unexpected_keys):
        raise _other(model, folder, f"{odd[0].replace('.default', '')} has no place there")
    if odd := sorted(found.missing_keys):
        raise _other(model, folder, f"it lacks {odd[0].replace('.default', '')}")


def _other(model: nn.Module, folder: Path, why: str) -> ModelError:
    return ModelError(
        f"model.adapter={folder} does not fit this {type(model).__name__}: {why}; choose the model it was trained on"
    )
