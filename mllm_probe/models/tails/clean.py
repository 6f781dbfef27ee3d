"""Prompts without intervention: keys and values of their heads, states of their tails; and heads that were changed.

Letters in shapes: N prompts, R rows, Q tokens of a row that are computed, G heads, P tokens of a head, S of a tail, D
width, K heads with keys of their own, W width of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllm_probe.errors import ModelError
from mllm_probe.models.tails.attention import Attend, behind, plainly
from mllm_probe.models.tails.blocks import Blocks
from mllm_probe.models.tails.changes import Cuts, Masks, change, edges_of, first_block
from mllm_probe.models.tails.cut import CutPrompts
from mllm_probe.records.interventions import REPLACE, Intervention
from mllm_probe.records.sites import Site

Pair = tuple[Tensor, Tensor]


@dataclass
class Heads:
    """Of G heads: keys and values [K, P, W], {block (from 1): one pair each}, and the states [P, D] of some sites."""

    pairs: dict[int, list[Pair]] = field(default_factory=dict)
    states: dict[Site, list[Tensor]] = field(default_factory=dict)


@dataclass
class Clean:
    """N prompts: their heads, keys and values [N, K, S, W] of their tails by block, the states [N, S, D] of these at
    some sites, and those behind the last block at the last tokens [N, D]."""

    prompts: CutPrompts
    heads: Heads
    pairs: dict[int, Pair]
    states: dict[Site, Tensor]
    last: Tensor
    _edges: dict[tuple[Any, ...], np.ndarray] = field(default_factory=dict)

    @cached_property
    def masks(self) -> Masks:
        """Over the columns of the tails."""
        prompts = self.prompts
        starts = [-prompts.heads[g] for g in prompts.owner.tolist()]
        return Masks(prompts.layouts, starts, 1 + int(prompts.ends.max()))

    def edges(self, one: Intervention, n: int, tokens: np.ndarray, keys: int) -> np.ndarray:
        """What the tokens [Q] of the tail of prompt n may not read of the head and the tail's first `keys` [S]: [Q,
        longest head + S]."""
        prompts, name = self.prompts, (n, one.source, one.span, one.payload)
        if name not in self._edges:
            cut, most = edges_of(prompts.layouts[n], one), max(prompts.heads)
            start, length = prompts.heads[int(prompts.owner[n])], 1 + int(prompts.ends.max())
            found = np.zeros((length, most + length), dtype=bool)
            found[: len(cut), :start] = cut[:, :start]
            found[: len(cut), most : most + len(cut)] = cut[:, start:]
            self._edges[name] = found
        return self._edges[name][tokens, : max(prompts.heads) + keys]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {layout.sample.uid: n for n, layout in enumerate(self.prompts.layouts)}

    def donor(self, one: Intervention, n: int) -> int:
        """The number of the prompt whose states replace those of prompt n; its own where none is named."""
        uid = self.prompts.layouts[n].sample.uid
        return self._numbers[one.payload.get(uid, uid)]


def clean_pass(
    blocks: Blocks, prompts: CutPrompts, sites: Sequence[Site], head_sites: Sequence[Site], learnt: bool = False
) -> Clean:
    """One pass for all heads, then one for all tails. `learnt`: states keep what a backward pass needs."""
    heads, pairs, states = Heads(), dict[int, Pair](), dict[Site, Tensor]()

    def see_head(site: Site, found: Tensor) -> None:
        heads.states[site] = [one[:length] for one, length in zip(found, prompts.heads, strict=True)]

    def see(site: Site, found: Tensor) -> None:
        if learnt:
            found.requires_grad_().retain_grad()
        states[site] = found

    with torch.no_grad():
        blocks.run(prompts.inputs, keeping(heads, prompts.heads), seen=see_head, sites=head_sites)
    rows = np.arange(len(prompts.layouts))
    attend = attend_behind(prompts.owner, heads, kept=pairs)
    top = blocks.run(prompts.taken(rows, prompts.whole(rows)), attend, seen=see, sites=sites)
    ends = torch.from_numpy(prompts.ends).to(top.device)
    return Clean(prompts, heads, pairs, states, top[torch.arange(len(rows), device=top.device), ends])


def keeping(heads: Heads, lengths: Sequence[int]) -> Attend:
    """Heads attend to themselves, as ever; their keys and values are kept."""

    def attend(block: int, module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, options: Any) -> Tensor:
        pairs = [(k[:, :length], v[:, :length]) for k, v, length in zip(key, value, lengths, strict=True)]
        heads.pairs[block] = pairs
        return plainly(module, query, key, value, None, {**options, "is_causal": True})

    return attend


@dataclass(frozen=True)
class Own:
    """Keys and values of whole tails, where only `tokens` [R, 1] of rows [R] are computed: the others are clean."""

    pairs: dict[int, Pair]
    rows: Tensor
    tokens: Tensor

    def filled(self, block: int, key: Tensor, value: Tensor) -> Pair:
        """[R, K, S, W], with those of the computed token [R, K, 1, W] in its place."""
        places = self.tokens[:, None, :, None].expand(-1, key.shape[1], -1, key.shape[3])
        clean = (one[self.rows] for one in self.pairs[block])
        first, second = (
            old.scatter(2, places[..., : new.shape[3]], new) for old, new in zip(clean, (key, value), strict=True)
        )
        return first, second


def attend_behind(
    owner: np.ndarray,
    heads: Heads,
    cuts: Cuts | None = None,
    own: Own | None = None,
    kept: dict[int, Pair] | None = None,
) -> Attend:
    """Tails [R] attend to the heads that own them, neighbours with one head together, and to themselves: to all of
    their tokens, or where one is computed alone, to those that `own` has of the others. `kept` is given all pairs."""
    runs, start = [], 0
    for g, rows in groupby(owner.tolist()):
        count = len(list(rows))
        runs.append((g, slice(start, start + count)))
        start += count

    def attend(block: int, _module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, options: Any) -> Tensor:
        if kept is not None:
            kept[block] = key, value
        asked = torch.arange(query.shape[2], device=query.device).expand(len(query), -1)
        if own is not None:
            asked, (key, value) = own.tokens, own.filled(block, key, value)
        later = torch.arange(key.shape[2], device=key.device) > asked[..., None]
        cut, parts = None if cuts is None else cuts.at(block), []
        for g, rows in runs:
            head = heads.pairs[block][g]
            hidden = later[rows] if cut is None else _hidden(cut[rows], later[rows], head[0].shape[1])
            parts.append(behind(query[rows], key[rows], value[rows], head, hidden, options.get("scaling")))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return attend


def _hidden(cut: Tensor, later: Tensor, head: int) -> Tensor:
    """[R, Q, P + S] of cuts [R, Q, longest P + longest S] and later keys [R, Q, S]."""
    most = cut.shape[2] - later.shape[2]
    return torch.cat([cut[..., :head], cut[..., most:] | later], dim=2)


def rerun(blocks: Blocks, clean: Clean, one: Intervention, kinds: Sequence[tuple[int, int]]) -> Heads:
    """Heads under an intervention, from its first block on: one for each kind (head, head whose states it is given).

    Raises ModelError.
    """
    prompts, first, site = clean.prompts, first_block(one), one.site
    assert site is not None
    if first > blocks.top:
        return clean.heads
    found, mine = Heads(), [g for g, _ in kinds]
    places = prompts.inputs["position_ids"]
    inputs = {name: prompts.inputs[name][mine] for name in ("input_ids", "attention_mask")}
    inputs["position_ids"] = places[mine] if places.ndim == 2 else places[:, mine]
    states = _stacked(clean.heads.states[Site("lm", first - 1)], mine, prompts)
    donors = None
    if one.kind == REPLACE:
        if any(prompts.heads[g] != prompts.heads[other] for g, other in kinds):
            raise ModelError("pictures of different numbers of tokens cannot take each other's states")
        donors = _stacked(clean.heads.states[site], [other for _, other in kinds], prompts)
    made = change([one] * len(kinds), _where(prompts, one, mine, states), donors)
    here = {} if site.part == "block" else {site: made}
    attend = keeping(found, [prompts.heads[g] for g in mine])
    blocks.run(inputs, attend, first, states if here else made(states), here)
    return found


def _stacked(states: Sequence[Tensor], numbers: Sequence[int], prompts: CutPrompts) -> Tensor:
    """[kinds, longest P, D]."""
    found = states[0].new_zeros(len(numbers), max(prompts.heads), states[0].shape[-1])
    for row, g in enumerate(numbers):
        found[row, : prompts.heads[g]] = states[g]
    return found


def _where(prompts: CutPrompts, one: Intervention, numbers: Sequence[int], states: Tensor) -> Tensor:
    """The tokens of a span in each head, [kinds, longest P] bool."""
    first = {g: n for n, g in reversed(list(enumerate(prompts.owner.tolist())))}
    layouts = [prompts.layouts[first[g]] for g in numbers]
    whole = max(len(layout.ids) for layout in layouts)
    found = Masks(layouts, [0] * len(layouts), whole).span(one.span)[:, : states.shape[1]]
    lengths = np.asarray([prompts.heads[g] for g in numbers])
    return torch.from_numpy(found & (np.arange(found.shape[1]) < lengths[:, None])).to(states.device)
