"""What `vision score` reads of multimodal models: projected picture tokens, captions' likelihoods, captions' states."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mllm_probe.config.model import PLAIN, ModelSettings, PromptSettings
from mllm_probe.errors import ConfigError
from mllm_probe.extraction.taps import read_states
from mllm_probe.models.loading.checkpoint import BUNDLED, find_checkpoint
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import Picture, Sample
from mllm_probe.records.sites import Key, Site

if TYPE_CHECKING:
    from mllm_probe.models.hf import HFModel

TOKENS = Key(Site("connector"), "tokens:image")


def named_model(model: ModelSettings, given: str) -> ModelSettings:
    """The settings of `model` for another checkpoint: a folder, a bundled name or a hub id."""
    bare = replace(model, name=None, path=None, bundled=None, hub_id=None, revision=None, download_gb=None)
    if Path(given).expanduser().is_dir():
        return replace(bare, path=given)
    if (BUNDLED / given).is_dir():
        return replace(bare, bundled=given)
    if given.count("/") == 1 and not given.startswith((".", "/", "~")):
        return replace(bare, hub_id=given)
    raise ConfigError(f"mllms names {given}, which is neither a folder nor a bundled model nor OWNER/NAME on the hub")


def load_plain(settings: ModelSettings, device: str, reporter: Reporter, setting: str = "model.path") -> "HFModel":
    """The model with the prompts that connectors are trained on: the picture, the caption, a new line. Raises
    ModelError."""
    from mllm_probe.models.blueprint import Blueprint
    from mllm_probe.models.hf import load_model

    folder = find_checkpoint(settings, setting)
    model = load_model(Blueprint(folder, settings, PromptSettings(chat=PLAIN), "right"), device)
    for remark in model.remarks:
        reporter.note(remark)
    return model


def caption_log_probabilities(model: "HFModel", pictures: Sequence[Picture], batch: int) -> list[np.ndarray]:
    """Of each picture's first caption, with the new line that ends it: [T] a picture. Raises ModelError."""
    samples = [Sample.of([picture], f"{picture.captions[0]}\n", {}) for picture in pictures]
    return [one for part in _parts(samples, batch) for one in model.log_probabilities(part)]


def projected_tokens(model: "HFModel", pictures: Sequence[Picture], batch: int) -> list[np.ndarray]:
    """What the connector hands to the language model: [T, D] float32 a picture. Raises ModelError."""
    import torch

    found: list[np.ndarray] = []
    for part in _parts([Sample.of([picture], picture.captions[0], {}) for picture in pictures], batch):
        chunk = read_states(model, model.collate(part, [TOKENS]), [TOKENS], torch.float32)
        found += np.split(chunk.values[TOKENS].numpy(), chunk.rows[TOKENS][1:-1])
    return found


def caption_states(model: "HFModel", pictures: Sequence[Picture], layer: int, batch: int) -> tuple[np.ndarray, Site]:
    """The mean over a picture's captions of the mean over their tokens, without the picture: [n, D] float64, and the
    site they are read at. Raises ConfigError, ModelError."""
    import torch

    blocks = model.anatomy.blocks["lm"]
    if not -blocks - 1 <= layer <= blocks:
        raise ConfigError(
            f"score.text_layer={layer} does not exist: the language model has {blocks} blocks, so layers 0 to "
            f"{blocks}, or -1 to {-blocks - 1} from the top"
        )
    key = Key(Site("lm", layer % (blocks + 1)), "mean_text")
    samples = [Sample.of([picture], text, {}).showing((), ()) for picture in pictures for text in picture.captions]
    rows = [
        read_states(model, model.collate(part, [key]), [key], torch.float32).values[key].double().numpy()
        for part in _parts(samples, batch)
    ]
    bounds = np.cumsum([0, *(len(picture.captions) for picture in pictures)])
    return np.add.reduceat(np.concatenate(rows), bounds[:-1]) / np.diff(bounds)[:, None], key.site


def _parts(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    return (samples[start : start + size] for start in range(0, len(samples), size))
