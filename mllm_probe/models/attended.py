"""What some tokens of a prompt attend to, block by block: the rows of attention that belong to chosen tokens, and no
other. Knows no masks of objects.

Attention modules call the function that transformers' `AttentionInterface` has under the model's own implementation,
with queries and keys as they are after rotation and norms. It stands behind one of ours here, which takes the chosen
rows of softmax(scaling q K' + mask), caps scores where the module does, and then calls it with what it was given, so
nothing of what the model computes changes. Letters in shapes: R prompts, H heads, K of them with keys of their own, W
wide; L tokens, Q chosen ones, S spans of them, B blocks, T picture tokens.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mllm_probe.errors import ModelError
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.hf import HFModel
from mllm_probe.models.prompts.prompt import Layout
from mllm_probe.models.tails.blocks import Blocks
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Site
from mllm_probe.records.spans import tokens_of

READABLE = EAGER, SDPA = "eager", "sdpa"  # implementations that are given a mask of every edge
PASS_TOKENS = 2_048
BEYOND = ("position_bias", "s_aux")  # what changes attention in a way that is not read here
Told = Callable[[int, Tensor, Tensor, Tensor | None, float | None, float | None], None]


@dataclass(frozen=True)
class Attended:
    """What the spans of one prompt attend to, each as the mean of its tokens: `mean` [B, S, L] float32 over heads, of
    all tokens of the prompt; `heads` [B, S, H, T] float32 of each head, of picture tokens alone (None: not asked for).
    """

    layout: Layout
    mean: np.ndarray
    heads: np.ndarray | None = None

    @property
    def picture(self) -> np.ndarray:
        """Of picture tokens [B, S, T]."""
        return self.mean[..., list(self.layout.image)]


def unreadable(blueprint: Blueprint) -> str:
    """Why the attention of a model cannot be read, as far as that shows without its weights; "" where it can."""
    if (attn := blueprint.settings.attn) not in READABLE:
        return f"model.attn={attn} is given no mask of single edges; set model.attn={SDPA} or model.attn={EAGER}"
    blocks = blueprint.bare().get_submodule(blueprint.structure.blocks["lm"])
    for block in blocks:
        if not any(_asks(part) for part in block.modules()):
            return f"{type(block).__name__} does not attend by transformers' AttentionInterface; take another model"
    return ""


def _asks(module: torch.nn.Module) -> bool:
    """Whether a module looks its attention up in transformers' own table."""
    names = inspect.unwrap(type(module).forward).__code__.co_names
    return "ALL_ATTENTION_FUNCTIONS" in names


class Reader:
    """Reads one loaded model at some of its `blocks`, counted from 1."""

    def __init__(self, model: HFModel, blueprint: Blueprint, blocks: Sequence[int], heads: bool = False) -> None:
        self.blocks, self._heads = tuple(blocks), heads
        self._blueprint, self._passes = blueprint, Blocks(model)
        self._columns: dict[tuple[str, ...], int] = {}  # {pictures: tokens of a prompt about them}
        own = {block: model.module(Site("lm", block))[0] for block in self.blocks}
        self._number = {id(part): block for block, module in own.items() for part in module.modules()}

    @torch.inference_mode()
    def read(self, samples: Sequence[Sample], spans: Sequence[str]) -> Iterator[Attended]:
        """By passes over whole prompts, some at once. Raises ModelError, SpanError."""
        start = 0
        while start < len(samples):
            some = samples[start : start + self._at_once(samples[start])]
            yield from self._pass(some, spans)
            start += len(some)

    def _at_once(self, sample: Sample) -> int:
        """How many prompts as long as that of a sample go into a pass; pictures are made of tokens once for it."""
        if sample.digests not in self._columns:
            self._columns[sample.digests] = int(self._blueprint.process([sample])["input_ids"].shape[1])
        return max(1, PASS_TOKENS // self._columns[sample.digests])

    def _pass(self, samples: Sequence[Sample], spans: Sequence[str]) -> Iterator[Attended]:
        inputs = dict(self._blueprint.process(samples))
        layouts = self._blueprint.layouts(samples, inputs)
        starts = inputs["attention_mask"].argmax(dim=1).tolist()  # padding stands on either side
        rows, weights = _rows(layouts, starts, spans)
        found: dict[int, Tensor] = {}

        def told(block: int, query: Tensor, key: Tensor, *more: Any) -> None:
            each = rows_of(query, key, rows.to(query.device), *more)  # [R, H, Q, L]
            found[block] = torch.einsum("rsq,rhql->rshl", weights.to(each.device), each)
            if not self._heads:
                found[block] = found[block].mean(2, keepdim=True)
            found[block] = found[block].cpu()

        with _told_of(self._number, told):
            self._passes.run(inputs, None)
        if lacking := [block for block in self.blocks if block not in found]:
            raise ModelError(
                f"{self._blueprint.folder}: the attention of block {lacking[0]} does not pass transformers' "
                "AttentionInterface, so it cannot be read; take another model"
            )
        every = torch.stack([found[block] for block in self.blocks], dim=1)  # [R, B, S, H, L]
        for row, layout, start in zip(every.numpy(), layouts, starts, strict=True):
            own = row[..., start : start + len(layout.ids)]
            heads = own[..., list(layout.image)].copy() if self._heads else None
            yield Attended(layout, own.mean(2), heads)


def _rows(layouts: Sequence[Layout], starts: Sequence[int], spans: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The columns [R, Q] of all tokens of some spans, and how much each counts in the mean of a span [R, S, Q]."""
    own = [
        [[start + token for token in tokens_of(one, span)] for span in spans]
        for one, start in zip(layouts, starts, strict=True)
    ]
    longest = max(sum(map(len, spans)) for spans in own)
    rows, weights = torch.zeros(len(own), longest, dtype=torch.long), torch.zeros(len(own), len(spans), longest)
    for r, each in enumerate(own):
        rows[r], place = each[0][0], 0  # what is too much counts for nothing; a row of padding would be no number
        for s, columns in enumerate(each):
            rows[r, place : place + len(columns)] = torch.tensor(columns)
            weights[r, s, place : place + len(columns)] = 1 / len(columns)
            place += len(columns)
    return rows, weights


def rows_of(
    query: Tensor, key: Tensor, rows: Tensor, mask: Tensor | None, scaling: float | None, cap: float | None
) -> Tensor:
    """Attention of the tokens `rows` [R, Q]: queries [R, H, L, W], keys [R, K, L, W], mask [R or 1, H or 1, L, L] bool,
    or to be added -> [R, H, Q, L] float32. Without a mask no token reads a later one."""
    q = _taken(query, rows).float()
    groups = q.reshape(len(q), key.shape[1], -1, q.shape[-1])  # heads that share a key follow each other
    scores = (groups @ key.float().transpose(2, 3)).view(*q.shape[:3], key.shape[2])
    scores *= query.shape[-1] ** -0.5 if scaling is None else scaling
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    if mask is None:
        later = torch.arange(key.shape[2], device=rows.device) > rows[..., None]
        return scores.masked_fill_(later[:, None], -torch.inf).softmax(-1)
    seen = _taken(mask[..., : key.shape[2]].expand(len(rows), -1, -1, -1), rows)
    scores = scores.masked_fill_(~seen, -torch.inf) if seen.dtype == torch.bool else scores + seen
    return scores.softmax(-1)


def _taken(values: Tensor, rows: Tensor) -> Tensor:
    """[R, H, L, ...] at `rows` [R, Q] -> [R, H, Q, ...]."""
    return values[torch.arange(len(rows), device=rows.device)[:, None], :, rows].transpose(1, 2)


@contextmanager
def _told_of(blocks: Mapping[int, int], told: Told) -> Iterator[None]:
    """Within it `told` hears of every attention of the modules `blocks` {id: block}, by whatever implementation."""
    before = {name: ALL_ATTENTION_FUNCTIONS[name] for name in READABLE if name in ALL_ATTENTION_FUNCTIONS}

    def listening(name: str) -> Callable[..., Any]:
        def attend(
            module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **more: Any
        ) -> Any:
            block, mask = blocks.get(id(module)), attention_mask
            if block is not None:
                _check(module, more)
                seen = _everything(query, key) if mask is None and not _causal(name, module, query, more) else mask
                told(block, query, key, seen, more.get("scaling"), more.get("softcap"))
            own = before.get(name) or inspect.unwrap(type(module).forward).__globals__["eager_attention_forward"]
            return own(module, query, key, value, mask, **more)

        return attend

    try:
        for name in READABLE:
            ALL_ATTENTION_FUNCTIONS[name] = listening(name)
        yield
    finally:
        for name in READABLE:
            del ALL_ATTENTION_FUNCTIONS[name]
            if before.get(name) is not ALL_ATTENTION_FUNCTIONS.get(name):  # somebody's own
                ALL_ATTENTION_FUNCTIONS[name] = before[name]


def _check(module: torch.nn.Module, more: Mapping[str, Any]) -> None:
    """Raises ModelError for attention that is made of more than queries, keys and a mask."""
    if beyond := [name for name in BEYOND if more.get(name) is not None]:
        raise ModelError(
            f"{type(module).__name__} attends with {beyond[0]}, which is not read here; take another model"
        )


def _causal(name: str, module: torch.nn.Module, query: Tensor, more: Mapping[str, Any]) -> bool:
    """Whether no mask means that later tokens are hidden: so has it sdpa, and eager attention never does."""
    told = more.get("is_causal")
    return name == SDPA and query.shape[2] > 1 and bool(getattr(module, "is_causal", True) if told is None else told)


def _everything(query: Tensor, key: Tensor) -> Tensor:
    return torch.ones(1, 1, query.shape[2], key.shape[2], dtype=torch.bool, device=query.device)
