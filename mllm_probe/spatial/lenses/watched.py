"""What statements attend to in one model after the other, as rows of attention.csv and sinks.csv, and maps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mllm_probe.config.lens import AttentionSettings
from mllm_probe.errors import ConfigError, ModelError
from mllm_probe.experiment.experiment import Experiment, columns_of
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.sites import Key, Site
from mllm_probe.results.lenses.attention import SINK, SPANS, Attention, Sink, save_maps
from mllm_probe.spatial.grid_file import RegionGrids
from mllm_probe.spatial.lenses.asked import Statements
from mllm_probe.spatial.lenses.masses import Masses
from mllm_probe.spatial.lenses.over_pictures import attention_grids
from mllm_probe.spatial.lenses.sinks import Sinks

if TYPE_CHECKING:
    from mllm_probe.models.attended import Attended

GB = 1e9


def blocks_of(experiment: Experiment) -> tuple[int, ...]:
    """Whose attention is read: those behind which `layers` reads the language model. Raises ConfigError for none."""
    found = sorted({site.layer for site in experiment.sites if site.tower == "lm" and site.layer})
    if not found:
        raise ConfigError(
            "layers selects lm.00 alone, which stands before the first block, and lens=[attention] reads the attention "
            "of blocks; select more layers"
        )
    return tuple(found)


def check_readable(experiment: Experiment) -> None:
    """Raises ModelError where it shows without weights that attention cannot be read."""
    from mllm_probe.models.attended import unreadable

    if why := unreadable(experiment.blueprint):
        raise ModelError(f"{experiment.model.label}: lens=[attention] cannot read its attention: {why}")


def size_said(experiment: Experiment, statements: Statements, settings: AttentionSettings) -> str:
    """How much is read and held, in words. Raises ConfigError where that is more than allowed."""
    blueprint, blocks = experiment.blueprint, blocks_of(experiment)
    prompts = len(statements.samples) + len(statements.neutral)
    (layout,) = blueprint.layouts(statements.samples[:1], blueprint.process(statements.samples[:1]))
    each, more = len(layout.ids), ""
    if settings.heads:
        heads = blueprint.config.get_text_config().num_attention_heads
        each, more = each + heads * len(layout.image), f", of {heads} heads each"
    size = 4 * prompts * len(blocks) * len(SPANS) * each / GB
    said = (
        f"to read: the attention of {len(statements.samples)} statements about {len(statements.neutral)} pictures and "
        f"of the neutral text at {len(blocks)} blocks{more}, {size:.2g} GB"
    )
    if size > settings.max_gb:
        raise ConfigError(
            f"{said}, more than attention.max_gb={settings.max_gb:g}; raise it, or take fewer pictures "
            "(attention.pictures), fewer layers (layers.stride=4) or attention.heads=false"
        )
    return said


@dataclass(frozen=True)
class Watched:
    """What one model of an experiment, its own or one of random weights, attends to; `run` is the digest of all
    settings."""

    experiment: Experiment
    statements: Statements
    settings: AttentionSettings
    run: str
    own: "Sequence[Attended]"
    neutral: "Sequence[Attended]"

    @classmethod
    def read(
        cls, experiment: Experiment, statements: Statements, settings: AttentionSettings, run: str, reporter: Reporter
    ) -> "Watched":
        """The model is loaded for it, and let go. Raises ModelError."""
        from mllm_probe.models.attended import Reader
        from mllm_probe.models.hf import load_model
        from mllm_probe.models.loading.device import pick_device

        device = pick_device(experiment.device)
        reporter.note(f"loading {experiment.model.label} ({experiment.model.precision}) on {device}")
        model = load_model(experiment.blueprint, device)
        model.keep_dequantised()
        reader = Reader(model, experiment.blueprint, blocks_of(experiment), settings.heads)
        found, prompts = [], [*statements.samples, *statements.neutral]
        for one in reader.read(prompts, SPANS):
            found.append(one)
            reporter.progress("attention", len(found), len(prompts), "prompts")
        n = len(statements.samples)
        return cls(experiment, statements, settings, run, found[:n], found[n:])

    def rows(self) -> Iterator[Attention]:
        """A row a measure; the area that objects cover is one of no layer."""
        masses = Masses(self.statements, self.own, self.neutral, self.experiment.sweep.ci_level)
        yield from masses.area(self._blank(None, ""))
        for place, block in enumerate(self.blocks):
            for span, name in enumerate(SPANS):
                blank = self._blank(block, name)
                yield from masses.rows(place, span, blank)
                yield from masses.row(self._sinks.share(place, span), self._blank(block, name, SINK))
                yield from masses.head_rows(place, span, blank)

    def sinks(self) -> Iterator[Sink]:
        tokenizer, label = self.experiment.blueprint.processor.tokenizer, self.experiment.model.label
        for place, block in enumerate(self.blocks):
            for span, name in enumerate(SPANS):
                for one in self._sinks.of(place, span):
                    pictured = one.token is None or one.name.startswith("image:")
                    token = "" if pictured else tokenizer.convert_ids_to_tokens(one.token)
                    same = label, str(_site(block)), name, self.experiment.control, one.name, token
                    yield Sink(*same, one.prompts, one.mass, len(self.own))

    def save_maps(self, path: Path) -> None:
        """Attention to picture tokens, [B, S, all tokens of all pictures] float32: `statement` of all statements,
        `neutral` of the neutral text; `bounds` [N + 1] and `neutral_bounds` [G + 1] say which are whose; `heads`
        [B, S, H, ...] where they were asked for. The header names blocks, spans, statements and pictures."""
        arrays, bounds = _joined([one.picture for one in self.own])
        plain, edges = _joined([one.picture for one in self.neutral])
        found = {"statement": arrays, "bounds": bounds, "neutral": plain, "neutral_bounds": edges}
        if self.settings.heads:
            found["heads"] = _joined([one.heads for one in self.own if one.heads is not None])[0]
        told = {
            "sites": [str(_site(block)) for block in self.blocks],
            "spans": SPANS,
            "statements": [sample.uid for sample in self.statements.samples],
            "texts": [sample.text for sample in self.statements.samples],
            "pictures": [sample.digests[0] for sample in self.statements.neutral],
            "picture_of": self.statements.owner.tolist(),
        }
        save_maps(path, found, told)

    def grids(self, run: Path) -> RegionGrids:
        """Some pictures under these maps, for the folder `run`."""
        sites = [str(_site(block)) for block in self.blocks]
        return attention_grids(self.experiment, self.statements, self.own, self.neutral, sites, run)

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        return blocks_of(self.experiment)

    @cached_property
    def _sinks(self) -> Sinks:
        return Sinks(self.own, self.settings.sink_mass, self.settings.sink_prompts)

    def _blank(self, block: int | None, span: str, metric: str = "") -> Attention:
        """What rows say of themselves, as those of scores.csv do."""
        experiment = self.experiment
        return Attention(
            run=self.run,
            cache=experiment.identity.digest,
            model=experiment.model.label,
            task=experiment.task.name,
            **columns_of(experiment, None if block is None else Key(_site(block), span)),
            control=experiment.control,
            metric=metric,
        )


def _site(block: int) -> Site:
    return Site("lm", block, "attn")


def _joined(maps: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Side by side, and where each begins and the last ends."""
    return np.concatenate(maps, axis=-1), np.cumsum([0, *(one.shape[-1] for one in maps)])
