"""Captions after pictures, as a language model learns them: the tokens to predict, and their loss.

The prompt is the plain one of LLaVA's first stage (Liu et al. 2023): the picture, then the caption and an end of
sequence; no instruction. Knows a loaded model and its processor, no training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from mllm_probe.data.pictures import open_rgb
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.records.samples import Picture, Sample

IGNORED = -100


@dataclass(frozen=True)
class LabelledBatch:
    """A padded batch on the CPU: inputs of B texts and `labels` [B, L], the id to predict at a token from the one
    before, or IGNORED."""

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor

    @property
    def counts(self) -> list[int]:
        """Tokens to predict, text by text."""
        return (self.labels[:, 1:] != IGNORED).sum(dim=1).tolist()


def captioned(blueprint: Blueprint, rows: Sequence[tuple[Picture, str]]) -> LabelledBatch:
    """(picture, caption) -> a padded batch on the CPU. Raises SpanError, DataError."""
    processor, tokenizer = blueprint.processor, blueprint.processor.tokenizer
    samples = [Sample.of([picture], caption, {}) for picture, caption in rows]
    texts = [blueprint.prompter.render(sample).text + tokenizer.eos_token for sample in samples]
    pictures = [[open_rgb(picture.path)] for picture, _ in rows]
    inputs = dict(processor(text=texts, images=pictures, padding=True, return_tensors="pt"))
    labels = torch.full_like(inputs["input_ids"], IGNORED)
    real = inputs["attention_mask"].bool()
    for row, layout in enumerate(blueprint.layouts(samples, inputs)):
        (first, *_) = layout.rows("tokens:text")[0]
        places = real[row].nonzero()[first:, 0]  # the caption and what ends it
        labels[row, places] = inputs["input_ids"][row, places]
    return LabelledBatch(inputs, labels)


def losses(model: Any, batch: LabelledBatch, device: str) -> torch.Tensor:
    """Negative log-likelihood of each prompt's caption, summed over its tokens, in nats: [B] float32."""
    return negative_log_likelihood(model, last_states(model, batch.inputs, device), batch.labels)


def last_states(model: Any, inputs: Mapping[str, torch.Tensor], device: str) -> torch.Tensor:
    """What the output head reads, behind the final norm: [B, L, W]."""
    moved = {n: v.to(device, model.dtype if v.is_floating_point() else None) for n, v in inputs.items()}
    return model.base_model(**moved, use_cache=False).last_hidden_state


def negative_log_likelihood(model: Any, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """States [B, L, W] and labels [B, L] -> nats summed over each row's tokens to be predicted: [B] float32.

    Logits are made for these tokens alone.
    """
    labels = labels[:, 1:].to(states.device)
    wanted = labels != IGNORED
    logits = model.get_output_embeddings()(states[:, :-1][wanted]).float()
    each = cross_entropy(logits, labels[wanted], reduction="none")
    return torch.zeros(labels.shape, device=each.device).masked_scatter(wanted, each).sum(dim=1)  # in a fixed order
