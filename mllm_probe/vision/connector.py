"""A connector is trained on captions while tower and language model stay as they are (Dense Connector, stage 1).

Yao et al. 2024 train LLaVA's first stage with it: 558 K captions once, batch 256, rate 1e-3, cosine after 3 % of
warm-up, no weight decay. Every connector here begins anew from `train.seed`, the plain MLP too, so that all have learnt
as long.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from mllm_probe.data.pictures import ahead
from mllm_probe.errors import ConfigError, DataError
from mllm_probe.features.recipes import POOLED, recipe
from mllm_probe.models.caption_loss import LabelledBatch, captioned, losses
from mllm_probe.models.dense_connector import NONE, DenseProjector, as_loaded, attach, export, final_state
from mllm_probe.models.loading.adapters import write_origin
from mllm_probe.models.loading.weights import load_weights
from mllm_probe.models.loading.whole import refuse_quantised
from mllm_probe.records.samples import Picture
from mllm_probe.train.material import HeldOut, Material
from mllm_probe.train.order import rows_of

Caption = tuple[Picture, str]


@dataclass(frozen=True)
class ConnectorTuning:
    """`connector`: mlp, sti, sci or dci; `layers`, `groups` and `pooled` as in `integration.recipe`; `reduction` of the
    tokens behind it: none, halved or frames."""

    connector: str = "dci"
    layers: Sequence[int] | None = None
    groups: int = 2
    pooled: int = POOLED
    reduction: str = NONE
    name: ClassVar[str] = "connector"
    unit: ClassVar[str] = "captions"
    probed: ClassVar[str] = "model=custom model.path"

    @property
    def told(self) -> dict[str, str]:
        return {"connector": self.connector}

    def examples(self, material: Material) -> tuple[list[Caption], list[Caption]]:
        """Raises ConfigError for settings of the model that do not go with these, DataError."""
        model = material.blueprint.settings
        if model.quantization != "none" and "connector" in model.quantize:
            raise ConfigError(
                f"target=connector trains a connector in float32, but model.quantize={list(model.quantize)} names it; "
                "leave it out there"
            )
        refuse_quantised(material.blueprint.folder, "target=connector")  # it writes them into its checkpoint
        return captions(material.train), captions(material.test)

    def slices(self, _: Material) -> tuple[()]:
        return ()

    def memory(self, _: Material) -> None:
        return None

    def apprentice(self, material: Material) -> "ConnectorApprentice":
        network, processor = material.network, material.blueprint.processor
        chosen = recipe(self.connector, final_state(network.config), self.layers, self.groups, self.pooled)
        network.requires_grad_(False)
        projector = attach(network, processor, chosen, self.reduction, material.settings.seed)
        return ConnectorApprentice(material, projector, asdict(self))


class ConnectorApprentice:
    """The loss of a step is the mean over the caption tokens of all its rows, however they are cut up."""

    def __init__(self, material: Material, projector: DenseProjector, told: Mapping[str, Any]) -> None:
        self._material, self._projector, self._told = material, projector, told
        self._blueprint = material.blueprint.fork()
        self._steps: Iterator[tuple[int, list[LabelledBatch]]] | None = None

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return dict(self._projector.named_parameters())

    def backward(self, step: int) -> Mapping[str, float]:
        if self._steps is None:
            self._steps = ahead(range(step, self._material.settings.steps or 0), self._read, 1)
        _, parts = next(self._steps)
        tokens, total = sum(sum(part.counts) for part in parts), 0.0
        for part in parts:
            loss = losses(self._material.network, part, self._material.device).sum() / tokens
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return {"loss": total, "tokens": tokens}

    def _read(self, step: int) -> list[LabelledBatch]:
        settings = self._material.settings
        chosen = rows_of(step, settings.batch, len(self._material.learnt), settings.seed)
        return list(self._batches([self._material.learnt[i] for i in chosen]))

    def _batches(self, rows: Sequence[Caption]) -> Iterator[LabelledBatch]:
        size = self._material.settings.micro_batch
        return (captioned(self._blueprint, rows[start : start + size]) for start in range(0, len(rows), size))

    @torch.no_grad()
    def held_out(self) -> list[HeldOut]:
        """Of the connector as `run` loads it: in the dtype of the model, where it was trained in float32."""
        rows, found = self._material.judged, list[tuple[int, float]]()
        network, dtype = self._material.network, getattr(torch, self._blueprint.settings.dtype)
        with as_loaded(network, self._projector, dtype):
            for batch in self._batches(rows):
                nats = losses(network, batch, self._material.device).tolist()
                found += zip(batch.counts, nats, strict=True)
        return [
            HeldOut(picture.digest, picture.captions.index(caption), *one)
            for (picture, caption), one in zip(rows, found, strict=True)
        ]

    def save(self, folder: Path) -> None:
        """The connector in float32, and what it was trained on. The base is loaded once more without quantisation, into
        the CPU's memory, in the dtype it was stored in."""
        blueprint = self._material.blueprint
        base, lacking = load_weights(blueprint.model_class, blueprint.folder, blueprint.config, dtype="auto")
        model = export(base, self._projector)
        own = {name: value for name, value in model.state_dict().items() if name not in lacking.names}
        model.save_pretrained(folder, state_dict=own)
        self._blueprint.processor.save_pretrained(folder)
        settings = blueprint.settings
        write_origin(folder, self._material.base, settings.label, blueprint.model_class.__name__, self._told)


def captions(pictures: Sequence[Picture]) -> list[Caption]:
    """Every caption of every picture. Raises DataError where there is none."""
    found = [(picture, caption) for picture in pictures for caption in dict.fromkeys(picture.captions)]
    if not found:
        raise DataError(f"none of the {len(pictures)} pictures has a caption to learn from; choose another dataset")
    return found
