"""The states of a language model in the words of its own vocabulary: by what it would say next, and by what it reads.

Letters in shapes: R rows, D width, V rows of the vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mllm_probe.models.hf import HFModel
from mllm_probe.records.sites import Site


class Vocabulary:
    """Of a loaded model whose head gives the logits of all words."""

    def __init__(self, model: HFModel) -> None:
        self._norm = model.module(Site("lm", model.anatomy.blocks["lm"], "norm"))[0]
        self._head = model.network.get_output_embeddings()
        self._read = model.network.get_input_embeddings().weight
        self._dtype: torch.dtype = model.network.dtype
        self._unit: Tensor | None = None  # the rows by which it reads, of length 1
        text = model.network.config.get_text_config()
        self._cap: float | None = getattr(text, "final_logit_softcapping", None)

    @property
    def device(self) -> torch.device:
        return self._head.weight.device  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        """V."""
        return int(self._head.weight.shape[0])

    def logits(self, states: Tensor, normed: bool = False) -> Tensor:
        """The logit lens (nostalgebraist 2020): W_U norm(h) of states [R, D], `normed` where they come from the final
        norm, capped where the model caps its logits: [R, V] float32."""
        states = states.to(self.device, self._dtype)
        if not normed:
            states = self._norm.forward(states)  # not called: it may carry a hook that is not meant
        logits = self._head(states).float()
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)

    def cosines(self, states: Tensor) -> Tensor:
        """Of states [R, D] with the rows by which the model reads its words: [R, V] float32."""
        if self._unit is None:
            self._unit = unit(self._read.detach().float())
        return unit(states.to(self._unit.device).float()) @ self._unit.T


def unit(rows: Tensor) -> Tensor:
    """Rows [R, D] of length 1; those of length 0 stay."""
    return torch.nn.functional.normalize(rows, dim=1)


def spellings(tokenizer: Any) -> tuple[str, ...]:
    """What each id of the vocabulary writes, a blank before a word among it."""
    ids: Sequence[int] = range(len(tokenizer))
    return tuple(tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False))
