"""LLaVA's two stages on a few thousand photographs (Liu et al. 2023): `captions` teaches a connector what the tower
sees, `statements` teaches it and low-rank updates of the language model to answer whether a caption is true.

An example is a picture with its captions, all packed behind one copy of its tokens. The tower does not change, so that
it sees each picture once. For a statement, each caption is once said of its own picture and once of another one of the
same step: the text alone says nothing about the answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mllm_probe.errors import ConfigError, DataError
from mllm_probe.models.dense_connector import PROJECTOR
from mllm_probe.models.loading.adapters import need_peft, write_origin
from mllm_probe.models.loading.projections import projections
from mllm_probe.models.loading.weights import load_weights
from mllm_probe.models.loading.whole import refuse_quantised
from mllm_probe.models.packed_texts import (
    PackedRows,
    Packer,
    StandardisedConnector,
    Text,
    chosen,
    put_in,
    spread_of,
    text_losses,
    tower_states,
)
from mllm_probe.records.samples import Picture
from mllm_probe.tasks.entailment import said
from mllm_probe.train.lora import attach_lora
from mllm_probe.train.material import HeldOut, Material
from mllm_probe.train.order import rows_of

TRAINED = "trained/parts.safetensors"  # of a checkpoint: what was trained of it
SOME = 64  # pictures that the scale of a new connector is set by
LORA_A, LORA_B = ".lora_A.default.weight", ".lora_B.default.weight"


@dataclass(frozen=True)
class PictureTuning:
    """A step learns `captions` of each picture (null: all) with the weight `caption_weight`, and `statements` true and
    as many false ones, asked by `template` and answered by the first or second of `answers`, with the weight 1.

    `fresh` draws a new connector, whose tokens have the root mean square `spread` times that of word embeddings; else
    the checkpoint's own is trained on. `modules` of the language model are given updates of `rank` (0: none).
    """

    captions: int | None = None
    caption_weight: float = 1.0
    statements: int = 0
    template: str = "{caption}"
    answers: Sequence[str] = ("Yes", "No")
    fresh: bool = True
    spread: float = 7.0
    rank: int = 0
    lora_alpha: int = 16
    modules: Sequence[str] = field(default_factory=lambda: ("q_proj", "v_proj"))
    unit: ClassVar[str] = "captions"
    probed: ClassVar[str] = "model=custom model.path"

    def __post_init__(self) -> None:
        if self.template.count("{caption}") != 1:
            raise ConfigError(f"target.template={self.template!r} must hold {{caption}} exactly once")
        if len(self.answers) != 2:
            raise ConfigError(f"target.answers={list(self.answers)} must be two words, of a true and a false statement")

    @property
    def name(self) -> str:
        return "statements" if self.statements else "captions"

    @property
    def told(self) -> dict[str, Any]:
        return {"statements": self.statements, "rank": self.rank}

    def examples(self, material: Material) -> tuple[list[Picture], list[Picture]]:
        """Raises ConfigError, ModelError, DataError for what cannot be trained so."""
        blueprint, settings = material.blueprint, material.settings
        if blueprint.config.model_type != "llava":
            raise ConfigError(f"target=captions and statements train a LLaVA, found '{blueprint.config.model_type}'")
        if blueprint.settings.precision != "none":
            raise ConfigError("target=captions and statements need model.quantization=none: all is saved in one model")
        if self.statements and settings.batch < 2:
            raise ConfigError(
                f"train.batch={settings.batch} has no other picture for a false statement; give 2 or more"
            )
        if self.rank:
            need_peft()
        refuse_quantised(blueprint.folder, "target=captions")
        return captioned(material.train), captioned(material.test)

    def slices(self, _: Material) -> tuple[()]:
        return ()

    def memory(self, _: Material) -> None:
        return None

    def apprentice(self, material: Material) -> "PictureApprentice":
        return PictureApprentice(self, material)


@dataclass(frozen=True)
class HeldOutCaption(HeldOut):
    """`against`: the loss of the caption behind the next picture in place of its own; `wins`: whether that is more."""

    against: float
    wins: float


@dataclass(frozen=True)
class HeldOutStatement(HeldOutCaption):
    """`answered`: the share of two statements that are answered rightly, the caption and one of the next picture."""

    answered: float


def captioned(pictures: Sequence[Picture]) -> list[Picture]:
    """Those that have captions. Raises DataError where there are not two."""
    found = [picture for picture in pictures if picture.captions]
    if len(found) < 2:
        raise DataError(f"{len(found)} of {len(pictures)} pictures have a caption; at least 2 are needed to learn from")
    return found


class PictureApprentice:
    """The loss of a step is the mean over its caption tokens, and the mean over its statements."""

    def __init__(self, target: PictureTuning, material: Material) -> None:
        self._target, self._material, self._network = target, material, material.network
        blueprint, seed = material.blueprint.fork(), material.settings.seed
        self._blueprint, self._packer = blueprint, Packer(blueprint, material.learnt[0])
        self._words = (
            [self._packer.answer(self._asked("x", word)) for word in target.answers] if target.statements else []
        )
        self._network.requires_grad_(False)
        every = [*material.learnt, *material.judged]
        self._states = tower_states(self._network, blueprint, every, material.device)
        self._connector = self._made(seed).to(material.device)
        self._parameters = {f"{PROJECTOR}.{n}": value for n, value in self._connector.named_parameters()}
        if target.rank:
            matrices = projections(self._network, blueprint.structure, target.modules)
            self._parameters |= attach_lora(self._network, matrices, target.rank, target.lora_alpha, 0.0, seed)

    def _made(self, seed: int) -> StandardisedConnector:
        own = getattr(self._network.model, PROJECTOR)
        learnt = {one.digest: self._states[one.digest] for one in self._material.learnt}
        connector = StandardisedConnector(own, *spread_of(learnt))
        if self._target.fresh:
            some = torch.stack(list(learnt.values())[:SOME])
            words = self._network.get_input_embeddings().weight.float().square().mean().sqrt()
            connector.draw(some, self._target.spread * float(words), seed)
        else:
            connector.take(own)
        return connector

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return self._parameters

    def backward(self, step: int) -> Mapping[str, float]:
        settings, learnt = self._material.settings, self._material.learnt
        pictures = [learnt[i] for i in rows_of(step, settings.batch, len(learnt), settings.seed)]
        texts = self._texts(pictures, Random(f"pictures/{settings.seed}/{step}"))
        starts = range(0, len(pictures), settings.micro_batch)
        parts = [slice(start, start + settings.micro_batch) for start in starts]
        rows = [self._packer.rows(texts[part]) for part in parts]
        told = [_told(texts[part], one) for part, one in zip(parts, rows, strict=True)]
        tokens = sum(float(own.sum()) for own, _ in told)
        asked = sum(float(own.sum()) for _, own in told)
        captions = statements = 0.0
        for part, one, (each, marked) in zip(parts, rows, told, strict=True):
            nats = text_losses(self._network, self._seen(pictures[part]), one, self._material.device).cpu()
            own, more = (nats * (each > 0)).sum() / tokens, (nats * marked).sum() / max(asked, 1.0)
            (self._target.caption_weight * own + more).backward()  # type: ignore[no-untyped-call]
            captions, statements = captions + float(own.detach()), statements + float(more.detach())
        loss = self._target.caption_weight * captions + statements
        return {"loss": loss, "captions": captions, "statements": statements, "tokens": tokens}

    def _seen(self, pictures: Sequence[Picture]) -> Tensor:
        """Their tokens, [B, T, W]."""
        states = torch.stack([self._states[picture.digest] for picture in pictures])
        return self._connector(states.to(self._material.device))

    def _texts(self, pictures: Sequence[Picture], rng: Random) -> list[list[Text]]:
        """Captions of each, then statements: its own, which are true, and those of the next picture."""
        known = [rng.sample(one.captions, len(one.captions)) for one in pictures]
        most, count = self._target.captions, self._target.statements
        found = []
        for place, own in enumerate(known):
            other = known[(place + 1) % len(known)]
            told = [Text("", caption) for caption in own[:most]]
            true = [self._asked(caption, self._target.answers[0]) for caption in own[:count]]
            found.append([*told, *true, *(self._asked(caption, self._target.answers[1]) for caption in other[:count])])
        return found

    def _asked(self, caption: str, answer: str) -> Text:
        return Text(self._target.template.replace("{caption}", said(caption)), answer, ends=False)

    @torch.no_grad()
    def held_out(self) -> list[HeldOut]:
        judged, found = self._material.judged, list[HeldOut]()
        for place, picture in enumerate(judged):
            other = judged[(place + 1) % len(judged)]
            rows = self._packer.rows([[Text("", caption) for caption in picture.captions]])
            counts = rows.counts[0].tolist()
            own, against = (self._nats(one, rows) for one in (picture, other))
            answered = self._answered(picture, other) if self._words else None
            for item, tokens in enumerate(counts):
                given = (picture.digest, item, int(tokens), own[item], against[item], float(own[item] < against[item]))
                found.append(HeldOutCaption(*given) if answered is None else HeldOutStatement(*given, answered[item]))
        return found

    def _nats(self, picture: Picture, rows: PackedRows) -> list[float]:
        return text_losses(self._network, self._seen([picture]), rows, self._material.device)[0].tolist()

    def _answered(self, picture: Picture, other: Picture) -> list[float]:
        """For each caption, of it and of one of the other picture, the share that is answered rightly."""
        false = [other.captions[n % len(other.captions)] for n in range(len(picture.captions))]
        rows = self._packer.rows(
            [
                [
                    *(self._asked(one, self._target.answers[0]) for one in picture.captions),
                    *(self._asked(one, self._target.answers[1]) for one in false),
                ]
            ]
        )
        words = chosen(self._network, self._seen([picture]), rows, self._material.device, self._words).tolist()
        yes, no = words[: len(false)], words[len(false) :]
        return [((a == 0) + (b == 1)) / 2 for a, b in zip(yes, no, strict=True)]

    def save(self, folder: Path) -> None:
        """The whole model with what was trained in it, and that alone in a folder of its own, in float32."""
        blueprint, trained = self._material.blueprint, self._trained()
        base, lacking = load_weights(blueprint.model_class, blueprint.folder, blueprint.config, dtype="auto")
        put_in(base, trained)
        own = {name: value for name, value in base.state_dict().items() if name not in lacking.names}
        base.save_pretrained(folder, state_dict=own)
        self._blueprint.processor.save_pretrained(folder)
        (folder / TRAINED).parent.mkdir(exist_ok=True)
        save_file(trained, folder / TRAINED)
        settings = blueprint.settings
        write_origin(folder, self._material.base, settings.label, blueprint.model_class.__name__, asdict(self._target))

    def _trained(self) -> dict[str, Tensor]:
        """By the names of the model's tensors; of an update of a matrix, its two factors, the second one scaled."""
        found = {f"model.{PROJECTOR}.{name}": value for name, value in self._connector.plain().items()}
        scale = self._target.lora_alpha / max(self._target.rank, 1)
        for name, value in self._parameters.items():
            for ending, own, factor in ((LORA_A, ".lora_a", 1.0), (LORA_B, ".lora_b", scale)):
                if name.endswith(ending):
                    matrix = f"{name.removesuffix(ending)}.weight{own}"
                    found[matrix] = (value.detach() * factor).cpu().contiguous()
        return found


def _told(texts: Sequence[Sequence[Text]], rows: PackedRows) -> tuple[Tensor, Tensor]:
    """Of each text of each row [B, most texts]: tokens to be predicted if it is a caption, 1 if it is a statement."""
    counts, caption = rows.counts, torch.zeros_like(rows.counts)
    for row, own in enumerate(texts):
        caption[row, : len(own)] = torch.tensor([float(one.ends) for one in own])
    return counts * caption, (counts > 0) * (1 - caption)
