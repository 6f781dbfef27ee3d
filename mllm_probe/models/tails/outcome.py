"""What a model answers at the last token of its prompts: d, and two numbers beside it.

Letters in shapes: R rows, D width, V words of the vocabulary.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mllm_probe.models.hf import HFModel
from mllm_probe.records.interventions import Intervention, Outcomes, Pass
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import Site


class AnswerReader:
    """`ids`: the token ids that may begin the first answer word, and the second."""

    def __init__(self, model: HFModel, ids: list[list[int]]) -> None:
        self._norm = model.module(Site("lm", model.anatomy.blocks["lm"], "norm"))[0]
        self._head = model.network.get_output_embeddings()
        text = model.network.config.get_text_config()
        self._cap: float | None = getattr(text, "final_logit_softcapping", None)
        device = self._head.weight.device
        self._ids = [torch.tensor(one, device=device) for one in ids]
        self._others = torch.ones(self._head.weight.shape[0], dtype=torch.bool, device=device)
        self._others[torch.cat(self._ids)] = False

    def logits(self, states: Tensor) -> Tensor:
        """States [R, D] of the last block -> [R, V] float32."""
        found: Any = self._norm.forward(states.to(self._head.weight.device))  # not called: it may carry a hook
        logits = self._head(found).float()
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)

    def d(self, logits: Tensor) -> Tensor:
        """log p(first answer word) - log p(second), summed over the ids of each: [R]."""
        first, second = (logits[:, ids].logsumexp(1) for ids in self._ids)
        return first - second

    def gathered(
        self, samples: Sequence[Sample], interventions: Sequence[Intervention], passes: Iterable[Pass]
    ) -> Outcomes:
        """Of passes, the first of them without intervention."""
        passes = iter(passes)
        clean = self.logits(next(passes).states)
        found = [np.full((len(interventions), len(samples)), np.nan, np.float32) for _ in range(3)]
        for one in passes:
            read = self._read(self.logits(one.states), clean[one.rows])
            for values, own in zip(found, read, strict=True):
                values[one.changed, one.rows] = own.cpu().numpy()
        d, p, _ = (own.cpu().numpy() for own in self._read(clean, clean))
        return Outcomes(tuple(sample.uid for sample in samples), d, p, *found)

    def _read(self, logits: Tensor, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """d, p and kl [R] of logits [R, V] under an intervention, and without it."""
        tokens = clean.argmax(1, keepdim=True)
        p = logits.log_softmax(1).gather(1, tokens)[:, 0].exp()
        before, after = (one[:, self._others].log_softmax(1) for one in (clean, logits))
        return self.d(logits), p, (before.exp() * (before - after)).sum(1).clamp_min(0)
