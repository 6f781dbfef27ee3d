"""Attention of the text behind a picture to keys and values that were computed before, with edges cut.

transformers asks for it by name; who is within `attending` decides what is attended to. Letters in shapes: R rows, H
heads, K of them with keys of their own, W wide; S tokens of a tail, Q of them that ask, P tokens of what stands before.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mllm_probe.models.packed_attention import attending_by

NAME = "mllm_probe_tails"
Attend = Callable[[int, torch.nn.Module, Tensor, Tensor, Tensor, Tensor | None, Mapping[str, Any]], Tensor]
_now: ContextVar[tuple[Attend, Mapping[int, int]]] = ContextVar("attend")


def attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Queries [R, H, S, W], keys and values [R, K, S, W] -> [R, S, H, W], as the present `Attend` has it."""
    attend, blocks = _now.get()
    block = blocks.get(id(module))
    if block is None:  # of another part of the model, which has the language model's config
        return plainly(module, query, key, value, attention_mask, options), None
    return attend(block, module, query, key, value, attention_mask, options), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@contextmanager
def attending(configs: Iterable[Any], blocks: Mapping[int, int], attend: Attend) -> Iterator[None]:
    """Within it, modules with one of these configs attend as `attend` does, which is told the block (from 1) that
    `blocks` {id of a module: block} names."""
    with attending_by(NAME, configs, _now, (attend, blocks)):
        yield


def plainly(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Mapping[str, Any]
) -> Tensor:
    """transformers' own `sdpa`, [R, S, H, W]."""
    return sdpa_attention_forward(module, query, key, value, mask, **options)[0]


def behind(
    query: Tensor, key: Tensor, value: Tensor, head: tuple[Tensor, Tensor], hidden: Tensor, scaling: float | None
) -> Tensor:
    """Tails of one picture: queries [R, H, Q, W], own keys and values [R, K, S, W], those of the head [K, P, W], and
    what may not be read, [R, Q, P + S] or of own keys alone [R, Q, S], bool -> [R, Q, H, W].

    Scores against the head are one product for all rows, and no key is copied.
    """
    rows, heads, length, width = query.shape
    groups, tokens = head[0].shape[0], head[0].shape[1]
    q = query.view(rows, groups, -1, length, width).transpose(0, 1)  # [K, R, H / K, Q, W]
    many = q.reshape(groups, -1, width) * (width**-0.5 if scaling is None else scaling)
    to_head = (many @ head[0].transpose(1, 2)).float().view(groups, rows, -1, length, tokens)
    own = key.transpose(0, 1)
    to_own = (
        (many.view(groups, rows, -1, width) @ own.transpose(2, 3)).float().view(groups, rows, -1, length, key.shape[2])
    )
    to_own = to_own.masked_fill(hidden[None, :, None, :, -key.shape[2] :], -torch.inf)
    if hidden.shape[2] > key.shape[2]:
        to_head = to_head.masked_fill(hidden[None, :, None, :, :tokens], -torch.inf)
    most = torch.maximum(to_head.amax(-1, keepdim=True), to_own.amax(-1, keepdim=True)).detach()
    to_head, to_own = (to_head - most).exp_(), (to_own - most).exp_()
    total = to_head.sum(-1, keepdim=True) + to_own.sum(-1, keepdim=True)
    found = (to_head.view(groups, -1, tokens).to(value.dtype) @ head[1]).view(groups, rows, -1, length, width)
    mine = to_own.view(groups, rows, -1, key.shape[2]).to(value.dtype) @ value.transpose(0, 1)
    found = ((found + mine.view_as(found)).float() / total).to(value.dtype)
    return found.permute(1, 3, 0, 2, 4).reshape(rows, length, heads, width)
