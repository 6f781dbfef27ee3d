"""A model without its blocks, so small that it is run many times on a CPU: which token is made of which.

What stands around the blocks (the cutting of patches, the connector, the places of picture tokens in a prompt) has
drawn weights, for which token depends on which does not hang on their values. Blocks of the vision tower hand on what
they are given; the language model ends before its first block. No weight of the checkpoint is read.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.prompts.picture_slots import first_states


class Skeleton:
    """Raises whatever transformers raises."""

    def __init__(self, blueprint: Blueprint) -> None:
        self._model = blueprint.bare().float().eval()
        blocks = blueprint.structure.blocks
        self._vision, self._lm = (self._model.get_submodule(blocks[tower]) for tower in ("vision", "lm"))
        first = next(self._vision.children())
        inside = {id(part) for name in blocks.values() for part in self._model.get_submodule(name).modules()}
        words, head = self._model.get_input_embeddings(), self._model.get_output_embeddings()
        left = (inside - {id(part) for part in first.modules()}) | {id(words), id(head)}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            _draw(self._model, self._model, left)
        width = self._model.config.get_text_config().hidden_size
        words.forward = lambda ids: torch.zeros(*ids.shape, width)
        self._first, self._alone = first, first.forward

    def patches(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """[..., L, D]: what the first block of the vision tower is given."""
        return first_states(self._vision, lambda: self._model.base_model(**inputs, use_cache=False))

    def pictured(self, inputs: Mapping[str, Any], change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """[L, D]: what the first block of the language model is given of one prompt, where the states of the vision
        tower's tokens were changed before its first block."""
        with self._handing_on(change):
            return first_states(self._lm, lambda: self._model.base_model(**inputs, use_cache=False))[0]

    @contextmanager
    def _handing_on(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """Blocks of the vision tower return what they are given, in the form that the first one really has."""
        form: list[bool] = []

        def first(*args: Any, **more: Any) -> Any:
            given = args[0] if args else more["hidden_states"]
            form[:] = [isinstance(self._alone(*args, **more), tuple)]
            return handed(change(given))

        def handed(states: torch.Tensor) -> Any:
            return (states,) if form[0] else states

        def other(*args: Any, **more: Any) -> Any:
            return handed(args[0] if args else more["hidden_states"])

        blocks = list(self._vision.children())
        try:
            for block in blocks:
                block.forward = first if block is self._first else other
            yield
        finally:
            for block in blocks:
                del block.forward


def _draw(part: nn.Module, owner: PreTrainedModel, left: set[int]) -> None:
    """Weights, and what the class of the model around a part computes beside them, but for the parts `left`."""
    owner = part if isinstance(part, PreTrainedModel) else owner
    for child in part.children():
        _draw(child, owner, left)
    if id(part) not in left:
        part.to_empty(device="cpu", recurse=False)
        owner._init_weights(part)
        for weight in part.parameters(recurse=False):
            nn.init.normal_(weight, std=0.1)
