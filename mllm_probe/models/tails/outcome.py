"""What a model answers at the last token of its prompts: d, and two numbers beside it.

Letters in shapes: R rows, D width, V words of the vocabulary.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from mllm_probe.models.hf import HFModel
from mllm_probe.models.vocabulary import Vocabulary
from mllm_probe.records.interventions import Intervention, Outcomes, Pass
from mllm_probe.records.samples import Sample


class AnswerReader:
    """`ids`: the token ids that may begin the first answer word, and the second."""

    def __init__(self, model: HFModel, ids: list[list[int]]) -> None:
        self._words = Vocabulary(model)
        device = self._words.device
        self._ids = [torch.tensor(one, device=device) for one in ids]
        self._others = torch.ones(self._words.size, dtype=torch.bool, device=device)
        self._others[torch.cat(self._ids)] = False

    def logits(self, states: Tensor) -> Tensor:
        """States [R, D] of the last block -> [R, V] float32."""
        return self._words.logits(states)

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
