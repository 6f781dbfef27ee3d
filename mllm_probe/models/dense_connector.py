"""LLaVA with a connector that reads several layers of its vision tower (Dense Connector). Knows no data and no loss.

Tower and language model are transformers' own; the projector alone is another. It is given what LLaVA gives to any
projector whose `vision_feature_layer` is a list: the layers side by side. MLP, SCI and DCI are exported as plain LLaVA
checkpoints, for their first linear layer can be written over the listed layers; STI and reduced tokens are numbers of
tokens that plain LLaVA cannot make, and are saved as the class of this file.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn.functional import interpolate, max_pool1d
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.activations import ACT2FN
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from mllm_probe.errors import ConfigError, ModelError, choices
from mllm_probe.features.recipes import STI, Recipe, integrate

PROJECTOR = "multi_modal_projector"
REDUCTIONS = NONE, HALVED, FRAMES = "none", "halved", "frames"


@strict
class DenseLlavaConfig(LlavaConfig):  # type: ignore[misc]
    """LlavaConfig, the recipe of its connector and what becomes of the tokens behind it, see `reduced`."""

    model_type = "dense_llava"
    recipe: dict[str, Any] | None = None
    reduction: str = NONE


class DenseProjector(nn.Module):
    """[B, T, K x D], the recipe's K layers side by side in ascending order -> [B, T', W]."""

    def __init__(self, recipe: Recipe, config: LlavaConfig, reduction: str) -> None:
        super().__init__()
        self.recipe, self.reduction = recipe, reduction
        width, wide = config.vision_config.hidden_size, config.text_config.hidden_size
        self.linear_1 = nn.Linear(recipe.width * width, wide, bias=config.multimodal_projector_bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(wide, wide, bias=config.multimodal_projector_bias)

    def forward(self, layers: torch.Tensor) -> torch.Tensor:
        states = dict(zip(self.recipe.layers, layers.chunk(len(self.recipe.layers), dim=-1), strict=True))
        joined = integrate(states, self.recipe)
        return reduced(self.linear_2(self.act(self.linear_1(joined.to(self.linear_1.weight.dtype)))), self.reduction)


def reduced(tokens: torch.Tensor, reduction: str) -> torch.Tensor:
    """Tokens [B, T, W]: all; `halved` a quarter, bilinear on their square grid, which is the mean of 2 x 2 (the paper's
    efficient variant); `frames` the larger of two neighbours, T / 2 of them (FreeVA's pooling of video frames)."""
    if reduction == NONE:
        return tokens
    rows = tokens.transpose(1, 2)
    if reduction == FRAMES:
        return max_pool1d(rows, 2).transpose(1, 2)
    side = round(tokens.shape[1] ** 0.5)
    grid = interpolate(rows.reshape(*rows.shape[:2], side, side), size=(side // 2, side // 2), mode="bilinear")
    return grid.flatten(2).transpose(1, 2)


class DenseLlavaForConditionalGeneration(LlavaForConditionalGeneration):  # type: ignore[misc]
    config_class = DenseLlavaConfig

    def __init__(self, config: DenseLlavaConfig) -> None:
        super().__init__(config)
        setattr(self.model, PROJECTOR, DenseProjector(recipe_of(config), config, config.reduction))
        self.post_init()


AutoConfig.register(DenseLlavaConfig.model_type, DenseLlavaConfig)
for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto.register(DenseLlavaConfig, DenseLlavaForConditionalGeneration)


def recipe_of(config: DenseLlavaConfig) -> Recipe:
    told = dict(config.recipe or {})
    return Recipe(**{**told, "groups": tuple(map(tuple, told["groups"]))})


def final_state(config: Any) -> int:
    """V_L of a LLaVA: the state its own projector reads. Raises ModelError for other models."""
    layer = getattr(config, "vision_feature_layer", None)
    if config.model_type != "llava" or not isinstance(layer, int):
        raise ModelError(
            f"a model of type '{config.model_type}' with vision_feature_layer={layer} has no connector that can be "
            "exchanged; take a LLaVA checkpoint that reads one vision layer"
        )
    return layer % (config.vision_config.num_hidden_layers + 1)


def attach(model: Any, processor: Any, recipe: Recipe, reduction: str, seed: int) -> DenseProjector:
    """Give a loaded LLaVA a new connector in float32, drawn by `seed`, and its processor as many tags as that makes.

    Raises ConfigError for tokens that cannot be reduced so.
    """
    config = model.config
    fit_processor(processor, config, recipe, reduction)
    config.vision_feature_layer = model.model.config.vision_feature_layer = list(recipe.layers)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        new = DenseProjector(recipe, config, reduction)
    setattr(model.model, PROJECTOR, new.to(next(getattr(model.model, PROJECTOR).parameters()).device))
    return new


def fit_processor(processor: Any, config: LlavaConfig, recipe: Recipe, reduction: str) -> None:
    """How many tags it writes for a picture: it counts patches, and takes a number of others on top."""
    if reduction not in REDUCTIONS:
        raise ConfigError(f"target.reduction={reduction} is unknown; {choices(reduction, REDUCTIONS)}")
    side = config.vision_config.image_size // config.vision_config.patch_size
    more = processor.num_additional_image_tokens - (processor.vision_feature_select_strategy == "default")
    if reduction == HALVED and (side % 2 or recipe.kind == STI or more):
        besides = f" and {more} other tokens" if more else ""
        raise ConfigError(
            f"target.reduction=halved needs one square grid of an even side, and connector={recipe.kind} on {side} x "
            f"{side} patches{besides} has none; set target.reduction=none"
        )
    given = side**2 + more
    made = recipe.tokens(given) // {NONE: 1, HALVED: 4, FRAMES: 2}[reduction]
    processor.num_additional_image_tokens += made - given


def export(base: Any, trained: DenseProjector) -> Any:
    """A LLaVA with its own projector, not quantised, -> the same with the trained one in float32, ready for
    save_pretrained."""
    recipe = trained.recipe
    base.config.vision_feature_layer = base.model.config.vision_feature_layer = list(recipe.layers)
    new = stored_form(trained, base.config).cpu()
    if not isinstance(new, DenseProjector):
        setattr(base.model, PROJECTOR, new)
        return base
    told = {name: value for name, value in base.config.to_dict().items() if name != "model_type"}
    config = DenseLlavaConfig(**told, recipe=asdict(recipe), reduction=trained.reduction)
    with torch.device("meta"):
        model = DenseLlavaForConditionalGeneration(config)
    weights = {name: value for name, value in base.state_dict().items() if f".{PROJECTOR}." not in name}
    weights |= {f"model.{PROJECTOR}.{name}": value for name, value in new.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    model.tie_weights()
    return model


def stored_form(trained: DenseProjector, config: LlavaConfig) -> nn.Module:
    """A copy as a checkpoint holds it: LLaVA's own projector where that can say the same, of the `config`'s layers.

    Its first linear layer is over every listed layer: a mean of M layers is each of them with a weight over M.
    """
    recipe, weights = trained.recipe, trained.state_dict()
    if recipe.kind == STI or trained.reduction != NONE:
        return copy.deepcopy(trained)
    blocks = torch.split(weights["linear_1.weight"], config.vision_config.hidden_size, dim=1)
    spread = {layer: torch.zeros_like(blocks[0]) for layer in recipe.layers}
    for group, block in zip(((recipe.final,), *recipe.groups), blocks, strict=True):
        for layer in group:
            spread[layer] += block / len(group)
    new = LlavaMultiModalProjector(config).to(blocks[0].device)
    new.load_state_dict({**weights, "linear_1.weight": torch.cat([spread[n] for n in recipe.layers], dim=1)})
    return new


@contextmanager
def as_loaded(model: Any, trained: DenseProjector, dtype: torch.dtype) -> Iterator[None]:
    """Let the model that was trained run with the connector that its checkpoint gives when loaded in `dtype`."""
    setattr(model.model, PROJECTOR, stored_form(trained, model.config).to(dtype))
    try:
        yield
    finally:
        setattr(model.model, PROJECTOR, trained)
