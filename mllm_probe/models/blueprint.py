"""A checkpoint without its weights: config, processor, structure. Enough to plan, to estimate and to refuse."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from mllm_probe.config.model import ModelSettings, PromptSettings
from mllm_probe.data.pictures import open_rgb
from mllm_probe.errors import MllmProbeError, ModelError, PassError, is_out_of_memory
from mllm_probe.models.loading.classes import load_config, make_model, sound_config
from mllm_probe.models.loading.reasons import because, briefly
from mllm_probe.models.loading.weights import check_shapes
from mllm_probe.models.loading.whole import as_asked, check_numbers, check_stored, check_weights, stored_kind
from mllm_probe.models.prompts.picture_slots import find_slots, first_states
from mllm_probe.models.prompts.picture_tags import PICTURE, find_tag, pictured
from mllm_probe.models.prompts.processor import (
    check_tags,
    check_vocabulary,
    complete,
    load_processor,
    set_up,
    told_by,
)
from mllm_probe.models.prompts.prompt import Layout, Prompter
from mllm_probe.models.structure import Structure, find_structure, parameters_of
from mllm_probe.records.batches import Survey
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import ANSWER, Anatomy, Key

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


class Blueprint:
    """Raises ModelError where a part of the checkpoint cannot be used."""

    def __init__(self, folder: Path, settings: ModelSettings, prompt: PromptSettings, padding_side: str) -> None:
        self.folder, self.settings = folder, settings
        trust = settings.trust_remote_code
        self.config = self.guarded("config", self._config)
        model = self.bare()
        self.model_class = type(model)
        if settings.weights != "random":
            self.guarded("model", lambda: check_shapes(model, folder))
        self.structure: Structure = find_structure(model, settings.blocks.named)
        self.parameters = parameters_of(model, self.structure)
        self._positioned = any("position_embedding" in name for name, _ in model.named_parameters() if "vision" in name)
        self.adapter = self._adapter(settings.adapter_folder) if settings.adapter_folder else {}
        self.remarks: list[str] = []
        self.processor = load_processor(folder, trust)
        self._set_up(model)
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = padding_side
        if tokenizer.pad_token is None:  # the mask hides it, whichever it is
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
        image = getattr(self.config, "image_token_id", None) or getattr(self.config, "image_token_index", None)
        check_vocabulary(folder, self.processor.tokenizer, image, model.get_input_embeddings().weight.shape[0])
        tag = self.guarded("processor", lambda: find_tag(self.processor, image))
        self.prompter = Prompter(self.processor, prompt, tag)

    def _set_up(self, model: Any) -> None:
        """The processor as the settings, and config.json where its files say nothing, want it."""
        told = {name: value for file in told_by(self.folder) for name, value in file.items()}
        if hasattr(self.processor, "num_additional_image_tokens"):
            more = self.guarded("vision tower", lambda: self._beside_patches(model))
            if filled := complete(self.processor, self.config, told, more or 0):
                self.remarks.append(f"{self.folder}: the processor's files lack {filled}, taken from config.json")
            if more is not None:
                check_tags(self.folder, self.processor, self.config, more)
        set_up(self.folder, self.processor, self.settings.processor)

    def _beside_patches(self, model: Any) -> int | None:
        """Tokens of a picture in the vision tower that are none of its patches (class, registers), by their shapes.
        None of a tower that cuts no patches of pictures of one size."""
        config = getattr(self.config, "vision_config", None)
        size, blocks = getattr(config, "image_size", None), self.structure.blocks.get("vision")
        if size is None or blocks is None or getattr(config, "patch_size", None) is None:
            return None
        sides = [size, size] if isinstance(size, int) else list(size)
        tower = model.get_submodule(self.structure.whole["vision"])
        pixels = torch.zeros(1, getattr(config, "num_channels", 3), *sides, device="meta")
        tokens = first_states(model.get_submodule(blocks), lambda: tower(pixel_values=pixels)).shape[-2]
        if (more := int(tokens) - prod(side // self.patch for side in sides)) < 0:
            raise ModelError(f"{self.folder}: {type(tower).__name__} has {tokens} tokens for {tokens - more} patches")
        return more

    def _adapter(self, folder: Path) -> dict[str, torch.Tensor]:
        from mllm_probe.models.loading.projections import read_adapter

        return self.guarded("adapter", lambda: read_adapter(self.bare(), folder))

    def _config(self) -> Any:
        kind = stored_kind(self.folder)
        check_stored(self.folder, kind, self.settings)
        if self.settings.weights != "random":
            check_weights(self.folder)
            if kind is None:
                check_numbers(self.folder)
        config = sound_config(self.folder, load_config(self.folder, self.settings.trust_remote_code))
        return as_asked(config, self.settings)

    def bare(self) -> Any:
        """The model without weights, on the meta device."""
        with torch.device("meta"):
            return self.guarded("config", lambda: make_model(self.config, self.settings))

    @property
    def anatomy(self) -> Anatomy:
        return self.structure.anatomy

    @property
    def revision(self) -> str | None:
        """The commit of a hub checkpoint, by the folder the hub's own cache keeps it in."""
        return self.folder.name if self.folder.parent.name == "snapshots" else None

    def fork(self) -> "Blueprint":
        """A twin with a processor of its own: a tokenizer cannot serve two threads at once."""
        twin = copy.copy(self)
        twin.processor = copy.deepcopy(self.processor)
        twin.prompter = Prompter(twin.processor, self.prompter.settings, self.prompter.tag)
        return twin

    def guarded(self, what: str, load: Any) -> Any:
        """transformers raises anything here; the border turns it into one sentence."""
        try:
            return load()
        except MllmProbeError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise ModelError(
                    f"{self.folder}: the {what} does not fit into the memory of the device; use "
                    "model.quantization=nf4, or several cards with model.placement=spread"
                ) from error
            raise ModelError(
                f"{self.folder}: the {what} cannot be used ({because(self.folder, error, what)})"
            ) from error

    def refusal(self, path: Path) -> str:
        """Why its processor cannot read a picture, "" where it can."""
        sample = Sample(path.name, (path,), (path.name,), "picture", {})
        try:
            self.process([sample])
        except PassError as error:
            return briefly(error.__cause__ or error)
        return ""

    def survey(self, samples: Sequence[Sample], keys: Sequence[Key]) -> Survey:
        """Render and tokenise all, process the longest: refuse what the model has no room for and unreadable keys.

        Raises ModelError, SpanError, DataError.
        """
        found = self.prompter.survey(samples)
        longest = samples[int(found.tokens.argmax())]
        inputs = self.process([longest])
        self._check_size(inputs)
        (layout,) = self.layouts([longest], inputs)
        for tower, position in dict.fromkeys((key.site.tower, key.position) for key in keys):
            layout.rows(position)
            if position.startswith(ANSWER):
                self.answers(position)
            if tower != "lm":
                tokens = [len(layout.image)] if len(longest.images) == 1 else None
                find_slots(inputs, len(longest.images), tokens, self.patch)
        return replace(found, picture_tokens=len(layout.ids) - found.longest)

    def _check_size(self, inputs: Mapping[str, Any]) -> None:
        """Raises ModelError where pictures come in another size than the vision tower has learnt positions for."""
        size = getattr(getattr(self.config, "vision_config", None), "image_size", None)
        pixels = inputs.get("pixel_values")
        if (
            size is None or pixels is None or not self._positioned or "pixel_attention_mask" in inputs
        ):  # it takes others
            return
        sides, found = [size, size] if isinstance(size, int) else list(size), list(pixels.shape[-2:])
        if found != sides:
            raise ModelError(
                f"{self.folder}: the processor makes pictures of {found[1]} x {found[0]} pixels, and the vision tower "
                f"reads {sides[1]} x {sides[0]}; the processor is another model's, or its size was changed"
            )

    def example(self, picture: Image.Image = PICTURE) -> tuple[Any, Layout]:
        """A picture, by default a small drawn one, with a word, as a sample would be processed."""
        sample = Sample("example", (Path("example"),), ("example",), "example", {})
        inputs = self.processor(text=[self.prompter.render(sample).text], images=[[picture]], return_tensors="pt")
        (layout,) = self.layouts([sample], inputs)
        return inputs, layout

    @property
    def patch(self) -> int:
        """The side of a patch of the vision tower in pixels; 1 where that tower is not read."""
        if "vision" not in self.anatomy.towers:
            return 1
        size = getattr(getattr(self.config, "vision_config", self.config), "patch_size", None)
        if size is None:
            raise ModelError(
                f"{self.folder}: config.json names no patch size of a vision tower, so its sites cannot be read; use "
                "layers.towers=[lm]"
            )
        return int(size if isinstance(size, int) else size[0])

    def answers(self, position: str) -> list[list[int]]:
        """The token ids that may begin each word of an answer position. Raises ConfigError."""
        return self.prompter.answers(position.partition(":")[2].split("/"))

    def layouts(self, samples: Sequence[Sample], inputs: Any) -> list[Layout]:
        """The proven layouts of processed samples, each short enough for the model."""
        real = inputs["attention_mask"].bool()
        ids = [row[mask].tolist() for row, mask in zip(inputs["input_ids"], real, strict=True)]
        for sample, row in zip(samples, ids, strict=True):
            self.check_length(sample, len(row))
        places = zip(pictured(inputs, self.prompter.tag.image), real.numpy(), strict=True)
        images = [row[mask].nonzero()[0].tolist() for row, mask in places]
        return list(self.prompter.layouts(samples, ids, images))

    def check_length(self, sample: Sample, tokens: int) -> None:
        """Raises ModelError where the model has no room for so many tokens."""
        if tokens > self.anatomy.max_tokens:
            raise ModelError(
                f"sample {sample.uid} ({sample.name}) has {tokens} tokens, "
                f"the model reads at most {self.anatomy.max_tokens}; shorten the text or the template"
            )

    def process(self, samples: Sequence[Sample]) -> Any:
        """The processor's inputs for a batch, padded, never truncated."""
        texts = [self.prompter.render(sample).text for sample in samples]
        if not samples[0].images:
            return self._without_pictures(texts)
        images = [[open_rgb(path) for path in sample.images] for sample in samples]
        try:
            return self.processor(text=texts, images=images, padding=True, return_tensors="pt")
        except MllmProbeError:
            raise
        except Exception as error:  # transformers raises anything here
            if len(samples) > 1:
                for sample in samples:
                    self.process([sample])  # to name the one
            raise PassError(
                f"{type(self.processor).__name__} cannot read the prompt about {samples[0].name} ({briefly(error)})"
            ) from error

    def _without_pictures(self, texts: Sequence[str]) -> Any:
        try:
            return self.processor(text=texts, padding=True, return_tensors="pt")
        except Exception as error:  # transformers raises anything here
            raise PassError(
                f"{type(self.processor).__name__} needs a picture in every prompt ({briefly(error)})"
            ) from error
