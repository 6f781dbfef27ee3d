"""Prompts without intervention: keys and values of their heads, states of their tails; and heads that were changed.

Letters in shapes: N prompts, R rows, G heads, P tokens of a head, S of a tail, D width, K heads with keys of their own,
W width of one.
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
from mllm_probe.models.tails.prompts import CutPrompts
from mllm_probe.records.interventions import REPLACE, Intervention
from mllm_probe.records.sites import Site


@dataclass
class Heads:
    """Of G heads: keys and values [K, P, W], {block (from 1): one pair each}, and the states [P, D] of some sites."""

    pairs: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    states: dict[Site, list[Tensor]] = field(default_factory=dict)


@dataclass
class Clean:
    """N prompts: their heads, the states [N, S, D] of their tails at some sites, and those behind the last block at the
    last tokens [N, D]."""

    prompts: CutPrompts
    heads: Heads
    states: dict[Site, Tensor]
    last: Tensor

    @cached_property
    def masks(self) -> Masks:
        """Over the columns of the tails."""
        prompts = self.prompts
        starts = [-prompts.heads[g] for g in prompts.owner.tolist()]
        return Masks(prompts.layouts, starts, 1 + int(prompts.ends.max()))

    @cached_property
    def _edges(self) -> dict[tuple[Any, ...], np.ndarray]:
        return {}

    def edges(self, one: Intervention, n: int, length: int) -> np.ndarray:
        """Keys that the tail of prompt n may not read: [length, longest head + length], see `edges_of`."""
        prompts, name = self.prompts, (n, one.source, one.span, one.payload)
        if name not in self._edges:
            self._edges[name] = edges_of(prompts.layouts[n], one)
        cut, start, most = self._edges[name], prompts.heads[int(prompts.owner[n])], max(prompts.heads)
        found = np.zeros((length, most + length), dtype=bool)
        found[: len(cut), :start] = cut[:, :start]
        found[: len(cut), most : most + len(cut)] = cut[:, start:]
        return found

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {layout.sample.uid: n for n, layout in enumerate(self.prompts.layouts)}

    def donor(self, one: Intervention, n: int) -> int:
        """The number of the prompt whose states replace those of prompt n; its own where none is named."""
        uid = self.prompts.layouts[n].sample.uid
        return self._numbers[one.payload.get(uid, uid)]  # type: ignore[union-attr]


def clean_pass(
    blocks: Blocks,
    prompts: CutPrompts,
    sites: Sequence[Site],
    head_sites: Sequence[Site],
    pad: int,
    learnt: bool = False,
) -> Clean:
    """One pass for all heads, then one for all tails. `learnt`: states keep what a backward pass needs."""
    heads, states = Heads(), dict[Site, Tensor]()

    def see_head(site: Site, found: Tensor) -> None:
        heads.states[site] = [one[:length] for one, length in zip(found, prompts.heads, strict=True)]

    def see(site: Site, found: Tensor) -> None:
        if learnt:
            found.requires_grad_().retain_grad()
        states[site] = found

    with torch.no_grad():
        blocks.run(prompts.inputs, keeping(heads, prompts.heads), seen=see_head, sites=head_sites)
    rows = range(len(prompts.layouts))
    top = blocks.run(
        prompts.padded(rows, pad), attend_behind(prompts.owner.tolist(), heads, None), seen=see, sites=sites
    )
    return Clean(prompts, heads, states, last_of(top, prompts, rows))


def last_of(top: Tensor, prompts: CutPrompts, rows: Sequence[int]) -> Tensor:
    """States [R, S, D] -> those of each row's last token [R, D]."""
    ends = torch.from_numpy(prompts.ends[list(rows)]).to(top.device)
    return top[torch.arange(len(ends), device=top.device), ends]


def keeping(heads: Heads, lengths: Sequence[int]) -> Attend:
    """Heads attend to themselves, as ever; their keys and values are kept."""

    def attend(block: int, module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, options: Any) -> Tensor:
        pairs = [(k[:, :length], v[:, :length]) for k, v, length in zip(key, value, lengths, strict=True)]
        heads.pairs[block] = pairs
        return plainly(module, query, key, value, None, {**options, "is_causal": True})

    return attend


def attend_behind(owner: Sequence[int], heads: Heads, cuts: Cuts | None) -> Attend:
    """Tails [R] attend to the heads that own them, and to themselves; neighbours with one head together."""
    runs, start = [], 0
    for g, rows in groupby(owner):
        count = len(list(rows))
        runs.append((g, slice(start, start + count)))
        start += count

    def attend(block: int, _module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any, options: Any) -> Tensor:
        parts = []
        for g, rows in runs:
            head = heads.pairs[block][g]
            cut = None if cuts is None else cuts.at(block, rows)
            if cut is not None and (spare := cut.shape[2] - query.shape[2] - head[0].shape[1]):
                length = head[0].shape[1]  # shorter than the longest head
                cut = torch.cat([cut[..., :length], cut[..., length + spare :]], dim=2)
            parts.append(behind(query[rows], key[rows], value[rows], head, cut, options.get("scaling")))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return attend


def rerun(blocks: Blocks, clean: Clean, one: Intervention, kinds: Sequence[tuple[int, int]]) -> Heads:
    """Heads under an intervention, from its first block on: one for each kind (head, head whose states it is given).

    Raises ModelError.
    """
    prompts, first, site = clean.prompts, first_block(one), one.site
    assert site is not None
    found, mine = Heads(), [g for g, _ in kinds]
    lengths = [prompts.heads[g] for g in mine]
    if first > blocks.top:
        return clean.heads
    inputs = {name: prompts.inputs[name] for name in ("input_ids", "attention_mask")}
    places = prompts.inputs["position_ids"]
    inputs = {name: value[mine] for name, value in inputs.items()}
    inputs["position_ids"] = places[mine] if places.ndim == 2 else places[:, mine]
    states = _stacked(clean.heads.states[Site("lm", first - 1)], mine, prompts)
    where = _where(prompts, one, mine, states)
    donors = None
    if one.kind == REPLACE:
        for g, other in kinds:
            if prompts.heads[g] != prompts.heads[other]:
                raise ModelError("pictures of different numbers of tokens cannot take each other's states")
        donors = _stacked(clean.heads.states[site], [other for _, other in kinds], prompts)
    made = change([one] * len(kinds), where, donors)
    here = {} if site.part == "block" else {site: made}
    blocks.run(inputs, keeping(found, lengths), first, made(states) if not here else states, here)
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
