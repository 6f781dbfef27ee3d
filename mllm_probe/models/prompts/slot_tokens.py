"""How many tokens a slot (a tile, a patch, a picture) has in each picture tower: counted where one picture passes.

No formula of a family is trusted here; the loaded model is asked once, before anything is read."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from fractions import Fraction
from math import prod
from typing import Any

import torch
from torch import nn

from mllm_probe.errors import ModelError, first_line
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.prompts.picture_slots import Scale, Slots, find_slots
from mllm_probe.models.structure import Structure, class_tokens
from mllm_probe.records.sites import Site

PADDED = 8  # Mllama fills the tokens of a tile up to a multiple of this


class _Enough(Exception):
    """Raised in the connector: the language model is not needed."""


def scale_of(model: Any, blueprint: Blueprint, forward: Callable[[Mapping[str, Any]], None]) -> Callable[[], Scale]:
    """The scale, or whatever kept it from being measured, once a picture tower is asked for."""
    structure = blueprint.structure
    if "connector" not in structure.whole:
        return lambda: Scale({})
    try:
        inputs, slots = _one_picture(blueprint)
        seen = _counted(model, structure, lambda: forward(inputs))
        leading = class_tokens(model.get_submodule(structure.whole["vision"])) if "vision" in structure.blocks else 0
        found = _scale(seen, slots, leading)
    except (ModelError, RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
        failed = ModelError(
            f"the picture towers of {type(model).__name__} cannot be distinguished ({first_line(error)}); use "
            "layers.towers=[lm]"
        )

        def refuse() -> Scale:
            raise failed

        return refuse
    return lambda: found


def _one_picture(blueprint: Blueprint) -> tuple[Mapping[str, Any], Slots]:
    inputs, layout = blueprint.example()
    return inputs, find_slots(inputs, 1, [len(layout.image)], blueprint.patch)


def _counted(model: nn.Module, structure: Structure, forward: Callable[[], None]) -> dict[str, int]:
    """{picture tower: tokens that came out of its first block}."""
    seen: dict[str, int] = {}
    handles = []
    for tower in ("vision", "qformer", "connector"):
        if tower in structure.anatomy.towers:
            layer = 1 if tower in structure.blocks else 0
            module, _ = structure.module(model, Site(tower, layer))
            handles.append(module.register_forward_hook(_counting(tower, seen)))
    try:
        with torch.inference_mode(), suppress(_Enough):
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _counting(tower: str, seen: dict[str, int]) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, out: Any) -> None:
        states = out[0] if isinstance(out, tuple | list) else out
        seen[tower] = prod(states.shape[:-1])
        if tower == "connector":
            raise _Enough

    return hook


def _scale(seen: Mapping[str, int], slots: Slots, leading: int) -> Scale:
    """Raises ModelError where a slot's tokens are not its patches and the class tokens before them."""
    tokens = {tower: Fraction(count, slots.total) for tower, count in seen.items()}
    if "qformer" in tokens:
        tokens["qformer"] -= slots.text
    expected = (leading + slots.patches) if slots.patches else 1
    each = tokens.get("vision", expected)
    if each != expected and each != -(-expected // PADDED) * PADDED:
        raise ModelError(f"{each} tokens a tile where {expected} were expected, {leading} of them no patches")
    return Scale(tokens, leading if slots.patches else 0)
