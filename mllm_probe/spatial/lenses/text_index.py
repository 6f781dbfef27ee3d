"""Words as the model itself reads them: states of its text-only passes over captions, one for each token and layer, to
hold picture tokens against (LatentLens, Krojer et al. 2026: there one for each distinct prefix, up to 50 a token).

Letters: E tokens of the index, D width, S sites, R rows.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from mllm_probe.errors import ConfigError, DataError
from mllm_probe.experiment.experiment import Attempts, Experiment
from mllm_probe.records.samples import Examples, Sample
from mllm_probe.records.sites import Key

if TYPE_CHECKING:
    import torch

    from mllm_probe.models.prompts.prompt import Tail

AT = "tokens:text"
FIRST = 2  # tokens of a prompt are passed over: they gather attention, and stand for no word
GB = 1e9


def read_by(experiment: Experiment) -> tuple[Key, ...]:
    """What lenses read of an experiment: its keys of the language model."""
    return tuple(key for key in experiment.keys if key.site.tower == "lm")


@dataclass(frozen=True)
class Texts:
    """Captions in which every token of all captions occurs: `places` [E, 2] int are the caption and the row of its text
    tokens that each of the tokens `ids` [E] int is read at."""

    samples: tuple[Sample, ...]
    ids: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, experiment: Experiment, seed: int) -> "Texts":
        """In an order that `seed` draws, as few captions as come along. Raises DataError without captions."""
        captions = sorted({text for picture in experiment.collection.pictures for text in picture.captions})
        if not captions:
            raise DataError(
                f"dataset {experiment.collection.name} has no captions, and lens=[latent] reads its words in them; "
                "leave latent out"
            )
        Random(f"lens/{seed}").shuffle(captions)
        every = [Sample.of([], text, {}) for text in captions]
        kept: list[Sample] = []
        place: dict[int, tuple[int, int]] = {}
        for sample, tail in zip(every, experiment.blueprint.prompter.tails(every), strict=True):
            own = {token: row for row, (at, token) in enumerate(_read(sample, tail)) if at >= FIRST}
            if new := own.keys() - place.keys():
                place |= {token: (len(kept), own[token]) for token in sorted(new)}
                kept.append(sample)
        return cls(tuple(kept), np.asarray(list(place), int), np.asarray(list(place.values()), int))

    def bytes(self, experiment: Experiment) -> int:
        """Of the index of an experiment's sites, in memory."""
        return 4 * len(self.ids) * len(read_by(experiment)) * experiment.anatomy.widths["lm"]

    def check(self, experiment: Experiment, most_gb: float) -> str:
        """How large the index will be, in words. Raises ConfigError where that is more than allowed."""
        size, sites = self.bytes(experiment) / GB, len(read_by(experiment))
        said = f"the index of lens=[latent] holds {len(self.ids)} tokens at {sites} sites, {size:.2g} GB"
        if size > most_gb:
            raise ConfigError(
                f"{said}, more than words.max_index_gb={most_gb:g}; raise it, or read fewer layers (layers.stride=4)"
            )
        return f"{said}, from {len(self.samples)} captions"

    def side(self, experiment: Experiment) -> Experiment:
        """The experiment that reads them, without a picture, at the sites of another; its variants likewise."""
        own = replace(
            experiment,
            extract=replace(experiment.extract, positions=[AT], answers=None),
            examples=Examples(self.samples, (), experiment.examples.folds),
            attempts=Attempts(),
            variants=(),
        )
        return replace(own, variants=tuple(self.side(one) for one in experiment.variants))


def _read(sample: Sample, tail: "Tail") -> list[tuple[int, int]]:
    """(its place among the prompt's, id) of each token that `tokens:text` reads."""
    spans = enumerate(zip(tail.ids, tail.offsets, strict=True))
    return [(at, token) for at, (token, (start, stop)) in spans if start < len(sample.text) and stop > max(start, 0)]


@dataclass(frozen=True)
class Index:
    """The states of some texts in a filled cache, as `side` reads them."""

    side: Experiment
    texts: Texts
    device: str

    @cached_property
    def states(self) -> "torch.Tensor":
        """[S, E, D] float32, of length 1."""
        import torch

        from mllm_probe.models.vocabulary import unit

        coverage, uids = self.side.store.coverage(), [sample.uid for sample in self.texts.samples]
        found = []
        for key in read_by(self.side):
            rows, bounds = self.side.store.rows(key, uids, coverage)
            place = bounds[self.texts.places[:, 0]] + self.texts.places[:, 1]
            found.append(unit(rows.take(place)[:].float()))
        return torch.stack(found).to(self.device)

    def cosines(self, states: "torch.Tensor") -> "torch.Tensor":
        """Of states [R, D] with each token at the layer where it is nearest: [R, E] float32."""
        from mllm_probe.models.vocabulary import unit

        rows = unit(states.to(self.device).float())
        best = rows @ self.states[0].T
        for layer in self.states[1:]:
            best = best.maximum(rows @ layer.T)
        return best
