"""Hidden states read one statement at a time, for comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mllm_probe.extraction.taps import read_states
from mllm_probe.models.hf import HFModel
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Key

DOCS = Path(__file__).parents[2] / "docs" / "families.md"
TOLERANCE = 5e-6  # relative, float32


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return float((a - b).norm() / b.norm()) <= TOLERANCE


def lm_blocks(model: HFModel) -> list[torch.nn.Module]:
    return list(model._model.get_submodule(model._blueprint.structure.blocks["lm"]))


@torch.inference_mode()
def by_hand(model: HFModel, inputs: Any) -> tuple[list[torch.Tensor], list[float], torch.Tensor]:
    """States [L, D] of the language model's layers, the blocks called one after the other with the arguments that the
    model gives them; how much the model changes a state between two blocks; and its own last state."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    outs: list[torch.Tensor] = []
    handles = []
    for block in lm_blocks(model):
        handles.append(block.register_forward_pre_hook(lambda _m, a, k: calls.append((a, dict(k))), with_kwargs=True))
        handles.append(block.register_forward_hook(lambda _m, _a, out: outs.append(first(out))))
    last = model._model.base_model(**inputs, use_cache=False)
    final = last["last_hidden_state" if "last_hidden_state" in last else "logits"]
    for handle in handles:
        handle.remove()
    ins = [args[0] if args else kwargs["hidden_states"] for args, kwargs in calls]
    between = [state - out for state, out in zip(ins[1:], outs[:-1], strict=True)]
    hidden, states = ins[0], [ins[0]]
    for i, (block, (args, kwargs)) in enumerate(zip(lm_blocks(model), calls, strict=True)):
        kwargs.pop("hidden_states", None)
        hidden = first(block(hidden, *args[1:], **kwargs))
        states.append(hidden)
        hidden = hidden + between[i] if i < len(between) else hidden
    return [state[0] for state in states], [float(change.norm()) for change in between], final[0]


def first(out: Any) -> torch.Tensor:
    return out[0] if isinstance(out, tuple | list) else out


def read(model: HFModel, samples: Sequence[Sample], *names: str) -> dict[str, torch.Tensor]:
    keys = [Key.parse(name) for name in names]
    chunk = read_states(model, model.collate(samples, keys), keys, torch.float32)
    return {str(key): values for key, values in chunk.values.items()}
