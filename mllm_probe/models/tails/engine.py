"""Many interventions on many prompts, each as far as it reaches.

Under causal attention no token of a head sees what stands behind it, so the keys and values of heads are computed once
for each picture, and the states of every tail once. An intervention begins at the first block that it changes and takes
tails only, many of them in one pass. Where it changes states of a head, that head is run again from there, once for all
statements about the picture. Knows no labels. Letters in shapes: N prompts, C interventions, R rows, G heads, P tokens
of a head, S of a tail, D width.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllm_probe.errors import ModelError
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.hf import HFModel
from mllm_probe.models.tails.blocks import Blocks, Change
from mllm_probe.models.tails.changes import Cuts, applies, at_last_alone, change, first_block, reaches_head
from mllm_probe.models.tails.clean import Clean, Heads, Own, attend_behind, clean_pass, rerun
from mllm_probe.models.tails.cut import cut_prompts
from mllm_probe.models.tails.outcome import AnswerReader
from mllm_probe.records.interventions import CUT, REPLACE, Intervention, Outcomes, Pass
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Site

PASS_TOKENS = {"cpu": 1_536, "cuda": 16_384}  # of tails in one pass


class Tails:
    """An `Intervenable`; `words`: the ids that may begin each of both answer words, see `Blueprint.answers`."""

    plain: str | None = None

    def __init__(self, model: HFModel, blueprint: Blueprint, words: list[list[int]], device: str) -> None:
        self.anatomy = model.anatomy
        self._model, self._blueprint = model, blueprint
        model.network.requires_grad_(False)
        self._blocks, self._reader = Blocks(model), AnswerReader(model, words)
        self._most = PASS_TOKENS["cuda" if device == "cuda" else "cpu"]

    @torch.inference_mode()
    def outcomes(self, samples: Sequence[Sample], interventions: Sequence[Intervention]) -> Outcomes:
        """Samples about one picture must be neighbours. Raises ModelError, SpanError."""
        return self._reader.gathered(samples, interventions, self.passes(samples, interventions))

    @torch.inference_mode()
    def passes(self, samples: Sequence[Sample], interventions: Sequence[Intervention]) -> Iterator[Pass]:
        """Without intervention, then pass by pass. Raises ModelError, SpanError."""
        self._check_injected(interventions)
        prompts = cut_prompts(self._blueprint, samples, self._model.rotary)
        clean = clean_pass(self._blocks, prompts, _tail_sites(interventions), _head_sites(interventions))
        yield Pass(None, np.arange(len(samples)), clean.last)
        for group in _grouped(interventions):
            yield from self._passes(clean, [(c, interventions[c]) for c in group])

    def gradients(self, samples: Sequence[Sample], sites: Sequence[Site], span: str) -> Mapping[Site, Tensor]:
        """See `Intervenable`; one forward and one backward pass for all sites, of spans behind the picture."""
        prompts = cut_prompts(self._blueprint, samples, self._model.rotary)
        with torch.inference_mode(False), torch.enable_grad():
            clean = clean_pass(self._blocks, prompts, sites, (), learnt=True)
            self._reader.d(self._reader.logits(clean.last)).sum().backward()  # type: ignore[no-untyped-call]
        where = torch.from_numpy(clean.masks.span(span)).to(clean.last.device)[..., None]
        slopes = {site: clean.states[site].grad for site in sites}
        return {site: (slope * where).sum(1).float() for site, slope in slopes.items() if slope is not None}

    def _check_injected(self, interventions: Sequence[Intervention]) -> None:
        """A head that is run again has no picture to take features from."""
        vision = getattr(self._model.network.config, "vision_config", None)
        last = len(getattr(vision, "deepstack_visual_indexes", None) or ())
        for one in interventions if last else ():
            if reaches_head(one) and first_block(one) <= last + 1:
                raise ModelError(
                    f"{one.site}: picture features are added to this model's states up to behind block {last}, so "
                    f"states of picture tokens can be changed from lm.{last + 1:02d} on"
                )

    def _passes(self, clean: Clean, group: Sequence[tuple[int, Intervention]]) -> Iterator[Pass]:
        if not reaches_head(group[0][1]):
            yield from self._filled(clean, group, clean.prompts.owner, clean.heads)
            return
        for c, one in group:
            owner, heads = self._changed_heads(clean, one)
            yield from self._filled(clean, [(c, one)], owner, heads)

    def _filled(
        self, clean: Clean, group: Sequence[tuple[int, Intervention]], owner: np.ndarray, heads: Heads
    ) -> Iterator[Pass]:
        """Passes of as many tails as go into one, those of a head side by side."""
        uids = [layout.sample.uid for layout in clean.prompts.layouts]
        order = np.argsort(owner, kind="stable").tolist()
        both = [(c, one, n) for n in order for c, one in group if applies(one, uids[n])]
        width = 1 if at_last_alone(group[0][1]) else 1 + int(clean.prompts.ends.max())
        step = max(1, self._most // width)
        for start in range(0, len(both), step):
            some = both[start : start + step]
            rows = np.asarray([n for _, _, n in some])
            states = self._one_pass(clean, [one for _, one, _ in some], rows, owner[rows], heads)
            yield Pass(np.asarray([c for c, _, _ in some]), rows, states)

    def _one_pass(
        self, clean: Clean, interventions: Sequence[Intervention], rows: np.ndarray, owner: np.ndarray, heads: Heads
    ) -> Tensor:
        """[R, D] at the last tokens, behind the last block."""
        one, first, cuts, own = interventions[0], first_block(interventions[0]), None, None
        here: dict[Site, Change] = {}
        prompts, ends = clean.prompts, clean.prompts.ends[rows]
        states = clean.states[Site("lm", first - 1)]
        tokens, last = prompts.whole(rows), ends
        if at_last_alone(one):
            tokens, last = ends[:, None], np.zeros_like(ends)
            own = Own(clean.pairs, *(torch.from_numpy(part).to(states.device) for part in (rows, tokens)))
        keys = states.shape[1] if own else tokens.shape[1]
        states = states[rows[:, None], tokens]
        if one.kind == CUT:
            edges = [clean.edges(*each, keys) for each in zip(interventions, rows.tolist(), tokens, strict=True)]
            cuts = Cuts.of(edges, interventions, states.device)
        elif one.site is not None:
            made = self._change(clean, interventions, rows, tokens)
            states, here = (made(states), here) if one.site.part == "block" else (states, {one.site: made})
        if first <= self._blocks.top:
            attend = attend_behind(owner, heads, cuts, own)
            states = self._blocks.run(prompts.taken(rows, tokens), attend, first, states, here)
        return states[torch.arange(len(rows)), torch.from_numpy(last)]

    @staticmethod
    def _change(clean: Clean, interventions: Sequence[Intervention], rows: np.ndarray, tokens: np.ndarray) -> Change:
        """What is made of the states of these tokens [R, Q]. Raises ModelError for prompts of different lengths."""
        site, layouts = interventions[0].site, clean.prompts.layouts
        spans = [clean.masks.span(one.span)[n, own] for one, n, own in zip(interventions, rows, tokens, strict=True)]
        where, donors = torch.from_numpy(np.stack(spans)).to(clean.last.device), None
        if interventions[0].kind == REPLACE:
            assert site is not None
            given = np.asarray([clean.donor(one, n) for one, n in zip(interventions, rows.tolist(), strict=True)])
            for mine, other in zip(rows, given, strict=True):
                if len(layouts[mine].ids) != len(layouts[other].ids):
                    raise ModelError(
                        f"a prompt of {len(layouts[mine].ids)} tokens cannot take states of one of "
                        f"{len(layouts[other].ids)}; pair prompts of equal lengths"
                    )
            donors = clean.states[site][given[:, None], tokens]
        return change(interventions, where, donors)

    def _changed_heads(self, clean: Clean, one: Intervention) -> tuple[np.ndarray, Heads]:
        """Which head each prompt has under an intervention [N], and those heads from its first block on. One for each
        picture, or pair of pictures where states come from another."""
        prompts = clean.prompts
        mine = prompts.owner.tolist()
        donors = [mine[clean.donor(one, n)] if one.kind == REPLACE else -1 for n in range(len(mine))]
        kinds = list(dict.fromkeys(zip(mine, donors, strict=True)))
        owner = np.asarray([kinds.index(kind) for kind in zip(mine, donors, strict=True)])
        return owner, rerun(self._blocks, clean, one, kinds)


def _grouped(interventions: Sequence[Intervention]) -> Iterator[list[int]]:
    """Numbers of interventions that go through passes together: they begin at one block, and change one place."""

    def alike(c: int) -> tuple[Any, ...]:
        one = interventions[c]
        place = ("", "") if one.site is None else (str(one.site), one.kind)
        return first_block(one), place, reaches_head(one), at_last_alone(one)

    for _, group in groupby(sorted(range(len(interventions)), key=alike), key=alike):
        yield list(group)


def _tail_sites(interventions: Sequence[Intervention]) -> list[Site]:
    """Whose states at tails are needed: where passes begin, and what replaces others."""
    needed = {Site("lm", first_block(one) - 1) for one in interventions}
    needed |= {one.site for one in interventions if one.kind == REPLACE and one.site is not None}
    return sorted(needed)


def _head_sites(interventions: Sequence[Intervention]) -> list[Site]:
    return _tail_sites([one for one in interventions if reaches_head(one)])
