"""A small architecture that transformers does not know, as a checkpoint brings it: config, model and processor.

Saved beside its weights, this file is the checkpoint's own code. Nothing in it attends, so its blocks must be named;
`gauge` stands beside the connector, so that one must be named, too.
"""

from typing import Any

import torch
from torch import nn
from transformers import BatchFeature, PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPast


class OwnConfig(PreTrainedConfig):
    model_type = "own"

    vocab_size: int = 300
    hidden_size: int = 64
    patch_size: int = 8
    layers: int = 4
    image_token_id: int = 3
    max_position_embeddings: int = 512


class OwnBlock(nn.Module):
    """A token gets the mean of all tokens up to itself, or of all, and then a step of its own."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.step = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        seen = self.before(states)
        counts = torch.arange(1, states.shape[1] + 1, device=states.device, dtype=states.dtype)[:, None]
        mean = seen.cumsum(dim=1) / counts if self.causal else seen.mean(dim=1, keepdim=True)
        states = states + self.mix(mean)
        return states + torch.tanh(self.step(self.between(states)))


class OwnEyes(nn.Module):
    def __init__(self, config: OwnConfig) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, config.hidden_size, config.patch_size, config.patch_size)
        self.stack = nn.ModuleList(OwnBlock(config.hidden_size, False) for _ in range(3))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        states = self.patches(pixels).flatten(2).transpose(1, 2)
        for block in self.stack:
            states = block(states)
        return states


class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    _supports_sdpa = True

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embed, self.eyes = nn.Embedding(config.vocab_size, width), OwnEyes(config)
        self.bridge, self.gauge = nn.Linear(width, width), nn.Linear(width, 1)
        self.stack = nn.ModuleList(OwnBlock(width, True) for _ in range(config.layers))
        self.final_norm, self.head = nn.LayerNorm(width), nn.Linear(width, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPast:
        features = self.bridge(self.eyes(pixel_values))
        states = self.embed(input_ids)
        states = states.masked_scatter((input_ids == self.config.image_token_id)[..., None], features)
        for block in self.stack:
            states = block(states)
        return BaseModelOutputWithPast(last_hidden_state=self.final_norm(states))


class OwnProcessor(ProcessorMixin):
    """Pictures of one size, each as many tokens as it has patches."""

    def __init__(self, image_processor: Any, tokenizer: Any, picture_tokens: int = 16) -> None:
        super().__init__(image_processor, tokenizer)
        self.picture_tokens, self.image_token = picture_tokens, "<image>"

    def __call__(self, images: Any = None, text: Any = None, padding: bool = False, **_: Any) -> BatchFeature:
        expanded = [one.replace(self.image_token, self.image_token * self.picture_tokens) for one in text]
        inputs = dict(self.tokenizer(expanded, padding=padding, return_tensors="pt"))
        pictures = [picture for row in images for picture in row]
        return BatchFeature(inputs | dict(self.image_processor(pictures, return_tensors="pt")))
