"""How many tokens a slot (a tile, a patch, a picture) has in each picture tower: counted where one picture passes.

No formula of a family is trusted here; the loaded model is asked once, before anything is read."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from fractions import Fraction
from functools import partial
from math import prod
from typing import Any

import torch
from torch import nn

from mllm_probe.errors import ModelError, first_line
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.prompts.picture_slots import Enough, Scale, Slots, find_slots, first_states, leading_tokens
from mllm_probe.models.structure import Structure
from mllm_probe.records.sites import Site


def scale_of(model: Any, blueprint: Blueprint, forward: Callable[[Mapping[str, Any]], None]) -> Callable[[], Scale]:
    """The scale, or whatever kept it from being measured, once a picture tower is asked for."""
    structure = blueprint.structure
    if "connector" not in structure.whole:
        return lambda: Scale({})
    try:
        inputs, slots = _one_picture(blueprint)
        seen = _counted(model, structure, lambda: forward(inputs))
        found = _scale(seen, slots, _leading(model, blueprint, inputs, slots, forward))
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
        with torch.inference_mode(), suppress(Enough):
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
            raise Enough  # the language model is not needed

    return hook


def _leading(
    model: nn.Module,
    blueprint: Blueprint,
    inputs: Mapping[str, Any],
    slots: Slots,
    forward: Callable[[Mapping[str, Any]], None],
) -> int:
    """Tokens before the patches of a slot; 0 where the slot is the patch. Raises ModelError."""
    if not slots.patches or "vision" not in blueprint.structure.blocks:
        return 0
    blocks = model.get_submodule(blueprint.structure.blocks["vision"])

    def states(pixels: torch.Tensor) -> torch.Tensor:
        return first_states(blocks, partial(forward, {**inputs, "pixel_values": pixels}))

    return leading_tokens(inputs["pixel_values"], blueprint.patch, slots, states)


def _scale(seen: Mapping[str, int], slots: Slots, leading: int) -> Scale:
    """Raises ModelError where a slot's tokens do not hold its patches."""
    tokens = {tower: Fraction(count, slots.total) for tower, count in seen.items()}
    if "qformer" in tokens:
        tokens["qformer"] -= slots.text
    each, expected = tokens.get("vision", Fraction(1)), leading + slots.patches or 1
    if "vision" in tokens and (each != expected if not slots.patches else each < expected or each.denominator > 1):
        raise ModelError(f"{each} tokens a tile where {expected} were expected, {leading} of them no patches")
    return Scale(tokens, leading)
