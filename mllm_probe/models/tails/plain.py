"""The same interventions the plain way: whole prompts, whole passes, for models whose tails cannot be taken apart.

Shares the names of spans and the edges of a cut with the engine, and nothing of how it gets by with less; so it is also
what the engine is proven against. Letters in shapes: R rows, L tokens, D width.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllm_probe.errors import ModelError
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.hf import HFModel
from mllm_probe.models.prompts.prompt import Layout
from mllm_probe.models.tails.attention import Attend, plainly
from mllm_probe.models.tails.blocks import Blocks
from mllm_probe.models.tails.changes import Masks, applies, change, edges_of
from mllm_probe.models.tails.outcome import AnswerReader
from mllm_probe.records.interventions import CUT, REPLACE, Intervention, Outcomes, Pass
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Site
from mllm_probe.records.spans import behind_from

MASKABLE = "sdpa"
PASS_TOKENS = 2_048


class Plain:
    """An `Intervenable` by full passes; `plain` says why."""

    plain: str | None

    def __init__(self, model: HFModel, blueprint: Blueprint, words: list[list[int]], why: str = "") -> None:
        self.anatomy, self.plain = model.anatomy, why
        model.network.requires_grad_(False)
        self._model, self._blueprint = model, blueprint
        self._blocks, self._reader = Blocks(model), AnswerReader(model, words)

    @torch.inference_mode()
    def outcomes(self, samples: Sequence[Sample], interventions: Sequence[Intervention]) -> Outcomes:
        """Raises ModelError, SpanError."""
        return self._reader.gathered(samples, interventions, self.passes(samples, interventions))

    @torch.inference_mode()
    def passes(self, samples: Sequence[Sample], interventions: Sequence[Intervention]) -> Iterator[Pass]:
        """Without intervention, then one intervention after the other. Raises ModelError, SpanError."""
        prompt = _Prompts(self._blueprint, samples[:1])
        step = max(1, PASS_TOKENS // prompt.columns)
        starts = range(0, len(samples), step)
        clean = [self._pass(samples[start : start + step], None, samples) for start in starts]
        yield Pass(None, np.arange(len(samples)), torch.cat(clean))
        for c, one in enumerate(interventions):
            changed = [n for n, sample in enumerate(samples) if applies(one, sample.uid)]
            for start in range(0, len(changed), step):
                rows = changed[start : start + step]
                states = self._pass([samples[n] for n in rows], one, samples)
                yield Pass(np.full(len(rows), c), np.asarray(rows), states)

    def gradients(self, samples: Sequence[Sample], sites: Sequence[Site], span: str) -> Mapping[Site, Tensor]:
        """See `Intervenable`."""
        parts = [self._gradients([sample], sites, span) for sample in samples]
        return {site: torch.cat([part[site] for part in parts]) for site in sites}

    def _gradients(self, samples: Sequence[Sample], sites: Sequence[Site], span: str) -> dict[Site, Tensor]:
        prompts, states = _Prompts(self._blueprint, samples), dict[Site, Tensor]()

        def see(site: Site, found: Tensor) -> None:
            found.requires_grad_().retain_grad()
            states[site] = found

        with torch.inference_mode(False), torch.enable_grad():
            top = self._blocks.run(prompts.inputs, None, seen=see, sites=sites)
            self._reader.d(self._reader.logits(prompts.last(top))).sum().backward()  # type: ignore[no-untyped-call]
        where = torch.from_numpy(prompts.masks.span(span)).to(top.device)[..., None]
        return {site: (found.grad * where).sum(1).float() for site, found in states.items() if found.grad is not None}

    def _pass(self, some: Sequence[Sample], one: Intervention | None, samples: Sequence[Sample]) -> Tensor:
        """[R, D] at the last tokens, behind the last block."""
        prompts = _Prompts(self._blueprint, some)
        if one is None or one.kind != CUT:
            changes = {} if one is None else self._changes(prompts, one, samples)
            return prompts.last(self._blocks.run(prompts.inputs, None, changes=changes))
        if (attn := self._blueprint.settings.attn) != MASKABLE:
            raise ModelError(f"model.attn={attn} cannot be masked edge by edge; set model.attn={MASKABLE}")
        reached: set[int] = set()
        assert one.window is not None
        top = self._blocks.run(prompts.inputs, _cutting(prompts.edges(one), one.window, reached))
        if lacking := sorted(set(range(one.window[0], one.window[1] + 1)) - reached):
            raise ModelError(
                f"the attention of block {lacking[0]} cannot be masked in this model, so no edge can be cut"
            )
        return prompts.last(top)

    def _changes(self, prompts: "_Prompts", one: Intervention, samples: Sequence[Sample]) -> dict[Site, Any]:
        assert one.site is not None
        where = torch.from_numpy(prompts.masks.span(one.span)).to(self._model.network.device)
        donors = None
        if one.kind == REPLACE:
            known, states = {sample.uid: sample for sample in samples}, dict[Site, Tensor]()
            given = [known[one.payload.get(uid, uid)] for uid in prompts.uids]
            theirs = _Prompts(self._blueprint, given)
            self._blocks.run(theirs.inputs, None, seen=states.__setitem__, sites=[one.site])
            if theirs.lengths != prompts.lengths:
                raise ModelError("a prompt cannot take states of one with another number of tokens; pair equal lengths")
            donors = states[one.site]
        return {one.site: change([one] * len(prompts.uids), where, donors)}


class _Prompts:
    """Whole prompts of R samples, as the processor makes them."""

    def __init__(self, blueprint: Blueprint, samples: Sequence[Sample]) -> None:
        self.inputs = dict(blueprint.process(samples))
        self.layouts: list[Layout] = blueprint.layouts(samples, self.inputs)
        self.uids = [sample.uid for sample in samples]
        self.lengths = [len(layout.ids) for layout in self.layouts]
        real = self.inputs["attention_mask"].bool().numpy()
        self.columns = real.shape[1]
        self._starts = real.argmax(axis=1).tolist()  # padding stands on either side
        self.masks = Masks(self.layouts, self._starts, self.columns)

    def last(self, top: Tensor) -> Tensor:
        """States [R, L, D] -> those of the last tokens [R, D]."""
        ends = [start + length - 1 for start, length in zip(self._starts, self.lengths, strict=True)]
        return top[torch.arange(len(ends)), torch.tensor(ends)]

    def edges(self, one: Intervention) -> Tensor:
        """[R, 1, L, L] bool: edges that are cut."""
        found = np.zeros((len(self.uids), 1, self.columns, self.columns), dtype=bool)
        for row, layout, start, length in zip(found, self.layouts, self._starts, self.lengths, strict=True):
            row[0, start + behind_from(layout) : start + length, start : start + length] = edges_of(layout, one)
        return torch.from_numpy(found)


def _cutting(edges: Tensor, window: tuple[int, int], reached: set[int]) -> Attend:
    """The model's own masks, less these edges in the blocks of a window; `reached` is told each block that attends."""

    def attend(
        block: int, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: Any
    ) -> Tensor:
        reached.add(block)
        pictured = query.shape[2] != key.shape[2]  # attention to a picture, of which the prompt holds no token
        if pictured or not window[0] <= block <= window[1]:
            return plainly(module, query, key, value, mask, options)
        tokens = query.shape[2]
        if mask is None:
            seen = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()
        else:
            seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        return plainly(module, query, key, value, seen & ~edges.to(query.device), {**options, "is_causal": False})

    return attend
