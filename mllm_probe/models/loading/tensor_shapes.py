"""Whether the tensors in a checkpoint's files have the shapes of its config's model, before a byte of them is read.

transformers takes sizes of its own where a config names none: a model of billions of weights, made until memory ends.
Here it loads the heads of the files alone, as tensors without values, so that its own renaming of them counts.
"""

import copy
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from mllm_probe.models.loading.weights import find_lacking, renaming
from mllm_probe.models.loading.whole import tensors_of

STATE = ".quant_state.bitsandbytes__nf4"  # behind the name of a packed matrix: its true shape, among other things
BESIDE = re.compile(r"\.(absmax|quant_map|nested_absmax|nested_quant_map|SCB|weight_format)$")  # of what is packed


def check_shapes(model: Any, folder: Path) -> None:
    """`model`: of the config's class, on the meta device. Raises ModelError where a tensor has another shape in the
    files, where these hold blocks that the model has no place for, or where most of its weights are not there."""
    there = _shapes(folder)
    if not there:
        return
    config = copy.deepcopy(model.config)
    config.__dict__.pop("quantization_config", None)
    found, told = type(model).from_pretrained(
        None,
        config=config,
        state_dict={name: torch.empty(shape, device="meta") for name, shape in there.items()},
        device_map={"": "meta"},
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **renaming(folder),
    )
    lacking = find_lacking(found, folder, told)
    sizes = {name: value.numel() for name, value in found.state_dict().items()}
    unfilled = sum(sizes.get(name, 0) for name in lacking.names)
    if lacking.other or unfilled > sum(sizes.values()) / 2:
        raise lacking.error


def _shapes(folder: Path) -> dict[str, list[int]]:
    """{name: shape} of all weights in the files, of packed ones as they were before."""
    told = tensors_of(folder)
    shapes = {name: entry["shape"] for name, (_, entry) in told.items() if not BESIDE.search(name)}
    for name in [name for name in shapes if name.endswith(STATE)]:
        with safe_open(told[name][0], "np") as file:
            state = json.loads(bytes(file.get_tensor(name)))
        del shapes[name]
        shapes[name.removesuffix(STATE)] = state["shape"]
    return shapes
