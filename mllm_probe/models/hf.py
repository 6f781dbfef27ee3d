"""A transformers image-text checkpoint as an Extractable. Knows nothing of tasks, caches or probes."""

import inspect
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from mllm_probe.config.model import ONE
from mllm_probe.errors import ModelError, first_line
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.loading.device import (
    check_device,
    check_placed,
    check_quantized,
    device_map,
    keep_dequantised,
    quantization_config,
    quantized_modules,
    round_weights_alone,
)
from mllm_probe.models.loading.weights import WHOLE, Lacking, arrives, load_weights
from mllm_probe.models.packed_attention import sharing
from mllm_probe.models.prompts.collate import Collator, Owners
from mllm_probe.models.prompts.picture_tags import picture_places
from mllm_probe.models.prompts.slot_tokens import scale_of
from mllm_probe.records.batches import Batch
from mllm_probe.records.samples import Sample
from mllm_probe.records.sites import ANSWER, Anatomy, Key, Site


def load_model(blueprint: Blueprint, device: str, keys: Sequence[Key] | None = None) -> "HFModel":
    """The model with its weights, quantised as asked, as far as `keys` need them (None: to its logits). Raises
    ModelError."""
    settings = blueprint.settings
    check_device(settings, device)
    dtype = getattr(torch, settings.dtype)
    quantization = quantization_config(settings, blueprint.structure, dtype)
    stored = hasattr(blueprint.config, "quantization_config")
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": settings.attn}
    if quantization is not None and not stored:
        options |= {"quantization_config": quantization}
    if quantization is not None or settings.placement != ONE:
        options |= {"device_map": device_map(settings, device)}
    source: Path | None = blueprint.folder
    if settings.weights == "random":
        source, options = None, options | {"state_dict": _random_state(blueprint)}
    model, lacking = blueprint.guarded(
        "model", lambda: load_weights(blueprint.model_class, source, blueprint.config, **options)
    )
    if "device_map" in options:
        check_placed(getattr(model, "hf_device_map", {}), settings)
    else:
        model = model.to(device)
    if settings.adapter_folder:
        _adapt(model, blueprint, settings.adapter_folder)
    loaded = HFModel(model.eval(), blueprint, device, lacking)
    loaded.require(keys)
    check_quantized(quantized_modules(model), settings, blueprint.structure)
    return loaded


def _adapt(model: Any, blueprint: Blueprint, folder: Path) -> None:
    from mllm_probe.models.loading.projections import load_adapter

    blueprint.guarded("adapter", lambda: load_adapter(model, folder, blueprint.adapter))


def _random_state(blueprint: Blueprint) -> dict[str, torch.Tensor]:
    """The architecture's own initialisation, drawn with model.seed."""
    with torch.random.fork_rng():
        torch.manual_seed(blueprint.settings.seed)
        return blueprint.model_class(blueprint.config).state_dict()


class HFModel:
    """A loaded model; `remarks` are what there is to say of its weights. One instance lives for one extraction."""

    def __init__(self, model: Any, blueprint: Blueprint, device: str, lacking: Lacking = WHOLE) -> None:
        self._model, self._blueprint, self._device, self._lacking = model, blueprint, device, lacking
        self.remarks = [*blueprint.remarks, *lacking.remarks]
        self.anatomy: Anatomy = blueprint.anatomy
        round_weights_alone(model)
        spaced = any(name.endswith("image_newline") for name, _ in model.named_parameters())  # tokens without a feature
        self._counts = "connector" in self.anatomy.towers and not self.anatomy.crossed and not spaced
        self._scale = scale_of(model, blueprint, self._pass)
        blocks = model.get_submodule(blueprint.structure.blocks["lm"])
        found = {id(part.config): part.config for part in blocks.modules() if hasattr(part, "config")}
        self.configs = list(found.values())
        self._collators = threading.local()
        self._answer_rows: dict[str, list[torch.Tensor]] = {}  # {position: [D, ids] of each word}

    @property
    def network(self) -> Any:
        """The transformers model itself, for who trains a part of it."""
        return self._model

    def keep_dequantised(self) -> None:
        """As the settings have it; for who only reads the model."""
        if said := keep_dequantised(self._model, self._blueprint.settings, self._device):
            self.remarks.append(said)

    def module(self, site: Site) -> tuple[torch.nn.Module, bool]:
        return self._blueprint.structure.module(self._model, site)

    def require(self, keys: Sequence[Key] | None) -> None:
        """Raises ModelError where weights that the files lack lie on the way to these keys (None: to the logits)."""
        if self._lacking.names and self._depends(keys):
            raise self._lacking.error

    def top(self, keys: Sequence[Key]) -> int:
        """The highest block of the language model that can be read: where weights are lacking, that of these keys."""
        asked = [key.site.layer for key in keys if key.site.tower == "lm"]
        return max(asked, default=0) if self._lacking.names else self.anatomy.blocks["lm"]

    def _depends(self, keys: Sequence[Key] | None) -> bool:
        """Whether what is not-a-number, see `weights`, arrives there."""
        structure, norm = self._blueprint.structure, Site("lm", self.anatomy.blocks["lm"], "norm")
        answered = keys is None or any(key.position.startswith(ANSWER) for key in keys)
        outputs = (self._model.get_output_embeddings(), self.module(norm)[0])
        if answered and any(bool(value.isnan().any()) for part in outputs if part for value in part.parameters()):
            return True
        opaque = () if "vision" in structure.blocks else (f"{structure.whole.get('vision')}.",)  # it may round to words
        there = dict(self._model.state_dict(keep_vars=True))
        if any(name.startswith(opaque) or there[name].is_meta for name in self._lacking.names):
            return True
        sites = [norm] if keys is None else list(dict.fromkeys(key.site for key in keys))
        return arrives([self.module(site) for site in sites], lambda: self._pass(self._blueprint.example()[0]))

    def unshared(self, longest: int) -> str | None:
        if not self.anatomy.causal:
            return "its picture tokens see the text after them"
        if self.anatomy.informed:
            return "its Q-Former reads the text"
        if (attn := self._blueprint.settings.attn) != "sdpa":
            return f"model.attn={attn} has no shared form, model.attn=sdpa has"
        if self._window and self._window < longest:
            return f"its attention slides over {self._window} of {longest} tokens"
        return None

    @property
    def _window(self) -> int | None:
        """The narrowest sliding window of its attention."""
        windows = [getattr(config, "sliding_window", None) for config in self.configs]
        return min((window for window in windows if window), default=None)

    def collate(
        self, samples: Sequence[Sample], keys: Sequence[Key], shared: bool = False, owners: Owners = None
    ) -> Batch:
        collator = getattr(self._collators, "one", None)
        if collator is None:
            collator = self._collators.one = Collator(self._blueprint.fork(), self._scale, self.rotary, self._window)
        batch = (collator.shared if shared else collator.plain)(samples, keys, owners, self.anatomy)
        return batch.pinned() if self._device == "cuda" else batch

    def rotary(self, inputs: Any) -> np.ndarray:
        """[A, B, L]: the model's own positions where pictures have rows and columns (M-RoPE), else 0, 1, 2, ..."""
        made = getattr(self._model.base_model, "get_rope_index", None)
        if made is None:
            real = inputs["attention_mask"].numpy()
            return (np.cumsum(real, axis=1) - 1)[None]
        accepted = inspect.signature(made).parameters
        positions, _ = made(**{name: value for name, value in inputs.items() if name in accepted})
        return positions.numpy()

    def forward(self, batch: Batch) -> None:
        alike = nullcontext() if batch.shared is None else sharing(self.configs, batch.shared)
        with alike, self._repeating(batch.pictures):
            self._pass(batch.inputs)

    def _pass(self, inputs: Mapping[str, Any]) -> None:
        """Raises ModelError where the prompts have places for more or fewer picture features than there are."""
        try:
            with self._counted(inputs) if self._counts else nullcontext():
                self._model.base_model(**self.moved(inputs), use_cache=False)
        except ValueError as error:
            if "features" in str(error) and "token" in str(error):  # said by the model, with both counts
                raise ModelError(f"{type(self._model).__name__}: {first_line(error)}") from error
            raise

    def moved(self, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        dtype = getattr(torch, self._blueprint.settings.dtype)
        return {
            name: value.to(self._device, dtype if value.is_floating_point() else None, non_blocking=True)
            for name, value in inputs.items()
        }

    @contextmanager
    def _counted(self, inputs: Mapping[str, Any]) -> Iterator[None]:
        """Let the connector give as many features as the expanded ids have places for, or raise ModelError: not every
        model looks, and one that does may do so too late."""
        places = int(picture_places(inputs, self._blueprint.prompter.tag.image).sum())

        def count(_module: torch.nn.Module, _args: Any, out: Any) -> None:
            states = out[0] if isinstance(out, tuple | list) else out
            if (features := prod(states.shape[:-1])) != places:
                raise ModelError(
                    f"{type(self._model).__name__}: the prompts hold {places} picture tokens and "
                    f"{self._blueprint.structure.whole['connector']} gives {features} features; the processor is "
                    "another model's, or the connector another part (model.blocks.connector=NAME)"
                )

        handle = self.module(Site("connector"))[0].register_forward_hook(count)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _repeating(self, pictures: np.ndarray | None) -> Iterator[None]:
        """Let the connector hand out a picture once for every prompt that holds it."""
        if pictures is None:
            yield
            return
        order = torch.from_numpy(pictures)
        connector, _ = self.module(Site("connector"))
        handle = connector.register_forward_hook(lambda _module, _args, out: out[order.to(out.device)])
        try:
            yield
        finally:
            handle.remove()

    def answers(self, key: Key, states: torch.Tensor) -> torch.Tensor:
        """The logit lens (nostalgebraist 2020): states [T, D] of a site through the final norm and the output rows of
        an answer position's words: [T, words] float32, the log of the summed exponentials over each word's ids."""
        norm, _ = self.module(Site("lm", self.anatomy.blocks["lm"], "norm"))
        weight = self._model.get_output_embeddings().weight
        states = states.to(weight.device, weight.dtype)
        if key.site.part == "block":
            states = norm.forward(states)  # not called: it may carry a hook that is not meant
        rows = self._answer_rows.get(key.position)
        if rows is None:
            rows = [weight[ids].float().T for ids in self._blueprint.answers(key.position)]
            self._answer_rows[key.position] = rows
        return torch.stack([(states.float() @ row).logsumexp(1) for row in rows], dim=1)

    def log_probabilities(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """For each sample the natural logarithm of the probability of every token behind its pictures, given all before
        it: [T] float32. Logits of other tokens are computed only where the model cannot leave them out.

        Raises ModelError for models whose tokens see later ones.
        """
        if not self.anatomy.causal or self.anatomy.informed:
            raise ModelError(
                f"{type(self._model).__name__} sees a caption before it predicts it, because picture tokens read the "
                "text, so the caption's likelihood means nothing; leave a_loglik out of score.measures"
            )
        inputs = self._blueprint.process(samples)
        layouts = self._blueprint.layouts(samples, inputs)
        pads = inputs["attention_mask"].argmax(dim=1).tolist()  # before the prompt, where they are on the left
        before = [pad + len(layout.head) - 1 for pad, layout in zip(pads, layouts, strict=True)]
        length = inputs["input_ids"].shape[1]
        accepted = inspect.signature(self._model.forward).parameters
        more = {"logits_to_keep": length - min(before)} if "logits_to_keep" in accepted else {}
        with torch.inference_mode():
            logits = self._model(**self.moved(inputs), use_cache=False, **more).logits
        found = []
        for row, start, layout in zip(logits, before, layouts, strict=True):
            first, ids = start - (length - len(row)), torch.tensor(layout.tail.ids, device=row.device)
            scores = row[first : first + len(ids)].float().log_softmax(dim=1)
            found.append(scores.gather(1, ids[:, None])[:, 0].cpu().numpy())
        return found

    def provenance(self) -> dict[str, Any]:
        device = torch.cuda.get_device_name() if self._device == "cuda" else "cpu"
        return {
            "class": type(self._model).__name__,
            "device": device,
            "dtype": self._blueprint.settings.dtype,
            "attn": self._blueprint.settings.attn,
            "revision": self._blueprint.revision,
            "quantized_modules": quantized_modules(self._model),
            "padding_side": self._blueprint.processor.tokenizer.padding_side,
            "blocks": dict(self.anatomy.blocks),
            "widths": dict(self.anatomy.widths),
            "inside": {tower: list(parts) for tower, parts in self.anatomy.inside.items()},
            "informed": list(self.anatomy.informed),
            "crossed": self.anatomy.crossed,
            "causal": self.anatomy.causal,
            "max_tokens": self.anatomy.max_tokens,
            "torch": torch.__version__,
            "bitsandbytes": version("bitsandbytes"),
            "pillow": version("pillow"),
            "transformers": transformers.__version__,
        }
