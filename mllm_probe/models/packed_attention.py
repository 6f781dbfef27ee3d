"""Attention over packed statements, whose head is neither copied nor attended by a masked square.

The head attends to itself causally, which fast kernels do without a mask; the tails attend to head and tails under
the small mask of `packing`. Both calls are transformers' own `sdpa`, so grouped heads and scaling stay its business.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "mllm_probe_shared"
_columns: ContextVar[int] = ContextVar("columns")


def shared_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Queries [R, H, P + S, D], keys and values likewise, mask [R, 1, S, P + S] -> [R, P + S, H, D]."""
    p = _columns.get()
    causal = {**options, "is_causal": True}
    heads, _ = sdpa_attention_forward(module, query[:, :, :p], key[:, :, :p], value[:, :, :p], None, **causal)
    if query.shape[2] == p:
        return heads, None
    tails, _ = sdpa_attention_forward(module, query[:, :, p:], key, value, attention_mask, **options)
    return torch.cat([heads, tails], dim=1), None


AttentionInterface.register(NAME, shared_attention)


@contextmanager
def sharing(configs: Iterable[Any], columns: int) -> Iterator[None]:
    """Within it, modules with one of these configs attend in the shared way, with heads of `columns` columns."""
    with attending_by(NAME, configs, _columns, columns):
        yield


@contextmanager
def attending_by(name: str, configs: Iterable[Any], told: ContextVar[Any], value: Any) -> Iterator[None]:
    """Within it, modules with one of these configs attend in the way registered as `name`, which reads `value` from the
    variable `told`."""
    before = [(config, config._attn_implementation) for config in configs]
    token = told.set(value)
    try:
        for config, _ in before:
            config._attn_implementation = name
        yield
    finally:
        told.reset(token)
        for config, own in before:
            config._attn_implementation = own
