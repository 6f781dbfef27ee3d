"""Frozen encoders that make one vector of a picture or of a sentence, and the two in one space of CLIP-class models.

Any vision, text or image-text checkpoint that transformers loads by `AutoModel`. Pictures are resized and cropped as
the checkpoint's own processor does it, sentences cut where the model can read no more. Knows no documents and no
labels.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, PreTrainedModel

from mllm_probe.config.model import CheckpointSettings
from mllm_probe.config.tune import CLASS, IMAGE, JOINT, LAST, MEAN, POOLER, POOLINGS, TEXT, EmbedderSettings
from mllm_probe.errors import ConfigError, ModelError, choices
from mllm_probe.models.encoders.encoder_plan import guarded
from mllm_probe.models.loading.checkpoint import PROCESSOR, TOKENIZER, find_checkpoint
from mllm_probe.models.loading.classes import check_scaling, sound_config
from mllm_probe.models.loading.weights import check_shapes, load_weights
from mllm_probe.models.loading.whole import refuse_quantised

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

NO_CODE = {"trust_remote_code": False}  # unsaid, transformers asks at the terminal
READS = {IMAGE: "pixel_values", TEXT: "input_ids"}
READERS = {IMAGE: (PROCESSOR,), TEXT: (TOKENIZER,), JOINT: (PROCESSOR, TOKENIZER)}
UNLIKE = ("a red circle", "a blue square above")  # who cannot tell these apart tells nothing apart


@dataclass(frozen=True)
class EmbedderPlan:
    """An encoder without its weights: `kind` is IMAGE, TEXT or JOINT, `leading` how many tokens (class, registers)
    stand before the patches of a picture."""

    kind: str
    folder: Path
    pooling: str = POOLER
    leading: int = 0

    @property
    def name(self) -> str:
        return f"labels.{self.kind}"


def plan_embedder(kind: str, settings: CheckpointSettings) -> EmbedderPlan:
    """Everything that can be wrong is found without weights. Raises ConfigError, ModelError."""
    pooling = settings.pooling if isinstance(settings, EmbedderSettings) else POOLER
    allowed = [name for name in POOLINGS if (kind, name) != (IMAGE, LAST)]
    if pooling not in allowed:
        raise ConfigError(f"labels.{kind}.pooling={pooling} is unknown; {choices(pooling, allowed)}")
    folder = find_checkpoint(settings, f"labels.{kind}.path", readers=READERS[kind])
    plan = EmbedderPlan(kind, folder, pooling)
    with torch.device("meta"):
        model = _guarded(plan, lambda: AutoModel.from_config(_config(plan)))
    _guarded(plan, lambda: check_shapes(model, folder))
    tower = _tower(plan, model)
    if kind == IMAGE and pooling in (CLASS, MEAN):
        return EmbedderPlan(kind, folder, pooling, _leading(plan, tower))
    return plan


def _tower(plan: EmbedderPlan, model: Any) -> Any:
    """The outermost part that takes pixels and nothing else, or token ids and nothing else; for the joint space the
    whole model, which takes either."""
    if plan.kind == JOINT:
        if hasattr(model, "get_image_features") and hasattr(model, "get_text_features"):
            return model
        raise ModelError(
            f"{plan.name}: {type(model).__name__} has no common space for pictures and sentences; choose a model of "
            "CLIP's or SigLIP's class"
        )
    other = READS[TEXT if plan.kind == IMAGE else IMAGE]
    for module in model.modules():
        reads = module.main_input_name if isinstance(module, PreTrainedModel) else None
        if reads == READS[plan.kind] and other not in inspect.signature(module.forward).parameters:
            return module
    what = {IMAGE: "vision", TEXT: "text"}[plan.kind]
    raise ModelError(f"{plan.name}: {type(model).__name__} has no {what} tower; choose a {what} encoder")


def _leading(plan: EmbedderPlan, tower: Any) -> int:
    """Raises ModelError where there are no patches, ConfigError without the class token that is asked for."""
    sides = [getattr(tower.config, key, None) for key in ("image_size", "patch_size")]
    size, patch = (side if isinstance(side, int) or side is None else side[0] for side in sides)
    if size is None or patch is None:
        raise ModelError(
            f"{plan.name}: {type(tower).__name__} cuts no patches, so {plan.name}.pooling={plan.pooling} does not "
            f"apply; use {plan.name}.pooling={POOLER}"
        )
    pixels = torch.zeros(1, 3, size, size, device="meta")
    states = _guarded(plan, lambda: tower(pixel_values=pixels).last_hidden_state)
    leading = states.shape[1] - (size // patch) ** 2
    if leading < 0 or (leading == 0 and plan.pooling == CLASS):
        raise ConfigError(
            f"{plan.name}.pooling={plan.pooling}: the {states.shape[1]} tokens of {type(tower).__name__} do not hold a "
            f"class token before {size // patch} x {size // patch} patches; use {MEAN} or {POOLER}"
        )
    return leading


def _config(plan: EmbedderPlan) -> Any:
    refuse_quantised(plan.folder, plan.name)
    return sound_config(plan.folder, AutoConfig.from_pretrained(plan.folder, **NO_CODE))


def _guarded(plan: EmbedderPlan, load: Callable[[], Any]) -> Any:
    return guarded(plan.kind, plan.folder, load, "labels")


class Embedder:
    """A loaded encoder, in float32. Raises ModelError where it gives all inputs one vector."""

    def __init__(self, plan: EmbedderPlan, device: str) -> None:
        self.plan, self._device = plan, device
        self._images: Any = None
        self._texts: Any = None
        if plan.kind != TEXT:
            self._images = _guarded(plan, lambda: AutoImageProcessor.from_pretrained(plan.folder, **NO_CODE))
            check_scaling(plan.folder, self._images)
        if plan.kind != IMAGE:
            self._texts = _guarded(plan, lambda: AutoTokenizer.from_pretrained(plan.folder, **NO_CODE))
        load = partial(load_weights, AutoModel, plan.folder, _config(plan), part=True, dtype=torch.float32, **NO_CODE)
        model, self._lacking = _guarded(plan, load)
        self._tower = _tower(plan, model).eval().to(device)
        self.remarks = self._lacking.remarks
        self._prove()

    def pictures(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        """RGB pictures [B] of any size -> [B, D] float32 on the CPU."""
        inputs = self._images(images=list(pictures), return_tensors="pt")
        return self._vectors("get_image_features", inputs)

    def sentences(self, sentences: Sequence[str]) -> torch.Tensor:
        """[B] -> [B, D] float32 on the CPU. In the joint space filled up to the full length, as such models learn."""
        padding = "max_length" if self.plan.kind == JOINT and self.limit else True
        inputs = self._texts(
            list(sentences), padding=padding, truncation=True, max_length=self.limit, return_tensors="pt"
        )
        return self._vectors("get_text_features", inputs)

    @property
    def limit(self) -> int | None:
        """How many tokens a sentence may have; None where nothing says."""
        config = self._tower.config.get_text_config()
        told = [self._texts.model_max_length, getattr(config, "max_position_embeddings", None)]
        return min((limit for limit in told if limit and limit < 1 << 20), default=None)

    def cut(self, sentences: Sequence[str]) -> int:
        """How many of the sentences are longer than the encoder reads."""
        lengths = [len(ids) for ids in self._texts(list(sentences))["input_ids"]]
        return sum(length > (self.limit or length) for length in lengths)

    def _vectors(self, joint: str, inputs: Any) -> torch.Tensor:
        inputs = inputs.to(self._device)
        read = getattr(self._tower, joint) if self.plan.kind == JOINT else self._tower
        with torch.inference_mode():
            found = _guarded(self.plan, lambda: self._pooled(read(**inputs), inputs.get("attention_mask")))
        if found is None or found.ndim != 2 or len(found) != len(next(iter(inputs.values()))):
            raise ModelError(
                f"{self.plan.name}: {type(self._tower).__name__} gives no vector for an input with pooling="
                f"{self.plan.pooling}; choose another encoder or pooling"
            )
        return found.float().cpu()

    def _pooled(self, output: Any, mask: torch.Tensor | None) -> torch.Tensor | None:
        """The states behind the last norm as the plan pools them: [B, D]."""
        plan = self.plan
        if plan.pooling == POOLER:
            pooled = output.get("pooler_output")
            return None if pooled is None else pooled.flatten(1)
        states = output.last_hidden_state
        if plan.kind == IMAGE:
            return states[:, 0] if plan.pooling == CLASS else states[:, plan.leading :].mean(dim=1)
        real = torch.ones(states.shape[:2], device=states.device) if mask is None else mask
        if plan.pooling == MEAN:
            return (states * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
        places = torch.arange(real.shape[1], device=real.device) * (real > 0) + (real > 0)
        chosen = places.argmax(dim=1) if plan.pooling == LAST else (real > 0).int().argmax(dim=1)
        return states[torch.arange(len(states)), chosen]

    def _prove(self) -> None:
        """A decoder's first token, say, has seen nothing but itself."""
        found = []
        if self.plan.kind != TEXT:
            found.append(self.pictures([Image.new("RGB", (64, 64), colour) for colour in ("red", "white")]))
        if self.plan.kind != IMAGE:
            found.append(self.sentences(UNLIKE))
        for one, other in found:
            self._lacking.check(one)
            if not (one - other).norm() > 1e-5 * one.norm():
                raise ModelError(
                    f"{self.plan.name}: {type(self._tower).__name__} gives one vector for different inputs with "
                    f"pooling={self.plan.pooling}; choose another pooling"
                )
