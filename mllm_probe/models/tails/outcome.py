"""What a model answers at the last token of its prompts: d, and two numbers beside it.

Letters in shapes: R rows, D width, V words of the vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mllm_probe.models.hf import HFModel
from mllm_probe.records.sites import Site


@dataclass(frozen=True)
class Read:
    """Of R rows, each [R] float32 on the CPU: see Outcomes."""

    d: Tensor
    p: Tensor
    kl: Tensor


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

    def read(self, logits: Tensor, clean: Tensor) -> Read:
        """Logits [R, V] under an intervention, and without it."""
        tokens = clean.argmax(1, keepdim=True)
        p = logits.log_softmax(1).gather(1, tokens)[:, 0].exp()
        before, after = (one[:, self._others].log_softmax(1) for one in (clean, logits))
        kl = (before.exp() * (before - after)).sum(1).clamp_min(0)
        return Read(*(one.cpu() for one in (self.d(logits), p, kl)))
