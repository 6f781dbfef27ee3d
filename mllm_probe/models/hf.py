"""A transformers image-text checkpoint as an Extractable. Knows nothing of tasks, caches or probes.

Pictures that a processor cuts into tiles or packs into one sequence are not understood in the picture towers yet;
such models are refused there by name, and their language model is read like any other.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from mllm_probe.data.pictures import open_rgb
from mllm_probe.errors import MllmProbeError, ModelError, SpanError
from mllm_probe.models.prompt import Prompter
from mllm_probe.models.quantize import check_quantized, quantization_config, quantized_modules
from mllm_probe.models.structure import Structure, find_structure
from mllm_probe.settings import ModelSettings, PromptSettings
from mllm_probe.types import PICTURE_POSITIONS, Anatomy, Batch, Key, Reading, Sample, Site

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def pick_device(name: str) -> str:
    """`auto` = CUDA where there is one. Raises ModelError."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("device=cuda, but torch sees no CUDA device here; use device=cpu or device=auto")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


class Blueprint:
    """A checkpoint without its weights: config, processor, structure. Enough to plan and to refuse."""

    def __init__(self, folder: Path, settings: ModelSettings, prompt: PromptSettings, padding_side: str) -> None:
        self.folder, self.settings = folder, settings
        self.config = self._read("config", AutoConfig)
        with torch.device("meta"):
            model = self._guarded("model", lambda: AutoModelForImageTextToText.from_config(self.config))
        self.model_class = type(model)
        self.structure: Structure = find_structure(model)
        self.processor = self._read("processor", AutoProcessor)
        if not hasattr(self.processor, "tokenizer"):
            raise ModelError(f"{folder}: the processor has no tokenizer ({type(self.processor).__name__})")
        self.processor.tokenizer.padding_side = padding_side
        image_id = getattr(self.config, "image_token_id", None) or getattr(self.config, "image_token_index", None)
        if image_id is None:
            raise ModelError(f"{folder}: config.json names no image token, so picture positions cannot be found")
        self.prompter = Prompter(self.processor, prompt, int(image_id))

    @property
    def anatomy(self) -> Anatomy:
        return self.structure.anatomy

    def _read(self, what: str, auto: Any) -> Any:
        return self._guarded(
            what, lambda: auto.from_pretrained(self.folder, trust_remote_code=self.settings.trust_remote_code)
        )

    def _guarded(self, what: str, load: Any) -> Any:
        """transformers raises anything here; the border turns it into one sentence."""
        try:
            return load()
        except MllmProbeError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"{self.folder}: the {what} cannot be used ({reason})") from error

    def check_prompts(self, samples: Sequence[Sample], keys: Sequence[Key]) -> None:
        """Render all, process the longest: refuse what the model has no room for and keys that cannot be read."""
        lengths = [len(self.prompter.tokenizer(self.prompter.render(sample).text).input_ids) for sample in samples]
        longest = samples[int(np.argmax(lengths))]
        inputs = self.process([longest])
        ids = inputs["input_ids"][0].tolist()
        self._fits(longest, len(ids))
        layout = next(self.prompter.layouts([longest], [ids]))
        for tower, position in dict.fromkeys((key.site.tower, key.position) for key in keys):
            layout.rows(position)
            if tower != "lm":
                check_whole(inputs["pixel_values"], tower)

    def _fits(self, sample: Sample, tokens: int) -> None:
        if tokens > self.anatomy.max_tokens:
            raise ModelError(
                f"sample {sample.uid} ({sample.images[0].name}) has {tokens} tokens, "
                f"the model reads at most {self.anatomy.max_tokens}; shorten the text or the template"
            )

    def process(self, samples: Sequence[Sample]) -> Any:
        """The processor's inputs for a batch, padded, never truncated."""
        texts = [self.prompter.render(sample).text for sample in samples]
        images = [[open_rgb(path) for path in sample.images] for sample in samples]
        return self.processor(text=texts, images=images, padding=True, return_tensors="pt")

    def load(self, device: str) -> "HFModel":
        """The model with its weights, quantised as asked. Raises ModelError."""
        dtype = getattr(torch, self.settings.dtype)
        quantization = quantization_config(self.settings, self.structure, dtype)
        options: dict[str, Any] = {"dtype": dtype, "attn_implementation": self.settings.attn}
        if quantization is not None:
            options |= {"quantization_config": quantization, "device_map": {"": device}}
        source: Path | None = self.folder
        if self.settings.weights == "random":
            source, options = None, options | {"state_dict": self._random_state(), "config": self.config}
        model = self._guarded("model", lambda: self.model_class.from_pretrained(source, **options))
        if quantization is None:
            model = model.to(device)
        found = quantized_modules(model)
        check_quantized(found, self.settings, self.structure)
        return HFModel(model.eval(), self, device, found)

    def _random_state(self) -> dict[str, torch.Tensor]:
        """The architecture's own initialisation, drawn with model.seed."""
        with torch.random.fork_rng():
            torch.manual_seed(self.settings.seed)
            return self.model_class(self.config).state_dict()


class HFModel:
    """A loaded model. One instance lives for one extraction."""

    def __init__(self, model: Any, blueprint: Blueprint, device: str, quantized: list[str]) -> None:
        self._model, self._blueprint, self._device, self._quantized = model, blueprint, device, quantized
        self.anatomy = blueprint.anatomy
        vision = model.get_submodule(blueprint.structure.vision)
        self._leading, self._patch = _leading_tokens(vision), vision.config.patch_size

    def module(self, site: Site) -> tuple[torch.nn.Module, bool]:
        return self._blueprint.structure.module(self._model, site)

    def collate(self, samples: Sequence[Sample], keys: Sequence[Key]) -> Batch:
        inputs = self._blueprint.process(samples)
        real = inputs["attention_mask"].bool()
        ids = [row[mask].tolist() for row, mask in zip(inputs["input_ids"], real, strict=True)]
        for sample, row in zip(samples, ids, strict=True):
            self._blueprint._fits(sample, len(row))
        layouts = list(self._blueprint.prompter.layouts(samples, ids))
        first = real.int().argmax(dim=1).tolist()  # left padding moves every index
        width, readings = real.shape[1], {}
        for tower, position in dict.fromkeys((key.site.tower, key.position) for key in keys):
            if tower != "lm":
                readings[tower, position] = self._picture_reading(tower, position, samples, ids, inputs)
                continue
            rows = [
                [[b * width + first[b] + i for i in segment] for segment in layout.rows(position)]
                for b, layout in enumerate(layouts)
            ]
            readings[tower, position] = Reading.of(rows, among=real.numel())
        return Batch(tuple(sample.uid for sample in samples), dict(inputs), readings)

    def _picture_reading(
        self, tower: str, position: str, samples: Sequence[Sample], ids: list[list[int]], inputs: Any
    ) -> Reading:
        """Tokens among [pictures * tokens per picture]; leading class tokens of a vision tower are never read."""
        if position not in PICTURE_POSITIONS:
            raise SpanError(
                f"position {position} does not exist in the {tower}; use one of: {', '.join(PICTURE_POSITIONS)}"
            )
        pixels = inputs["pixel_values"]
        check_whole(pixels, tower)
        pictures = sum(len(sample.images) for sample in samples)
        per_picture, leading = sum(row.count(self._blueprint.prompter.image_id) for row in ids) // pictures, 0
        if tower == "vision":
            patch, leading = self._patch, self._leading
            per_picture = (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch) + leading
        rows, picture = [], 0
        for sample in samples:
            read: list[int] = []
            for _ in sample.images:
                read += range(picture * per_picture + leading, (picture + 1) * per_picture)
                picture += 1
            rows.append([read if position == "mean_image" else read[-1:]])
        return Reading.of(rows, among=pictures * per_picture)

    def forward(self, batch: Batch) -> None:
        dtype = getattr(torch, self._blueprint.settings.dtype)
        inputs = {
            name: value.to(self._device, dtype) if value.is_floating_point() else value.to(self._device)
            for name, value in batch.inputs.items()
        }
        self._model.base_model(**inputs, use_cache=False)

    def provenance(self) -> dict[str, Any]:
        device = torch.cuda.get_device_name() if self._device == "cuda" else "cpu"
        return {
            "class": type(self._model).__name__,
            "device": device,
            "dtype": self._blueprint.settings.dtype,
            "quantized_modules": self._quantized,
            "padding_side": self._blueprint.processor.tokenizer.padding_side,
            "blocks": dict(self.anatomy.blocks),
            "widths": dict(self.anatomy.widths),
            "causal": self.anatomy.causal,
            "max_tokens": self.anatomy.max_tokens,
            "torch": torch.__version__,
            "bitsandbytes": version("bitsandbytes"),
            "transformers": transformers.__version__,
        }


def check_whole(pixels: torch.Tensor, tower: str) -> None:
    """Picture towers are read where each picture is one tensor [3, height, width]. Raises ModelError."""
    if pixels.ndim != 4:
        raise ModelError(
            f"this model cuts or packs its pictures (pixel values of shape {tuple(pixels.shape)}), "
            f"and the sites of its {tower} cannot be read yet; use layers.towers=[lm]"
        )


def _leading_tokens(vision: torch.nn.Module) -> int:
    """Class tokens in front of the patches."""
    return sum(name.endswith(("class_embedding", "cls_token")) for name, _ in vision.named_parameters())
