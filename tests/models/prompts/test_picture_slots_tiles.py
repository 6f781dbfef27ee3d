"""A model that cuts pictures into tiles: every picture has its own number of tokens in the language model."""

import numpy as np
import pytest
import torch
from PIL import Image

from mllm_probe.errors import ModelError
from mllm_probe.extraction.taps import read_states
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.hf import load_model
from mllm_probe.records.samples import Picture, Sample
from mllm_probe.records.sites import Key
from tests.support.checkpoints import blueprint_of
from tests.support.families_more import save_llava_next


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Blueprint:
    return blueprint_of(save_llava_next(tmp_path_factory.mktemp("tiles")))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Three pictures of three shapes, so three numbers of tiles and of picture tokens."""
    place, rng = tmp_path_factory.mktemp("odd"), np.random.default_rng(0)
    samples = []
    for width, height in ((64, 64), (40, 90), (90, 40)):
        path = place / f"{width}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
        samples.append(Sample.of([Picture(path.stem, path, path.stem)], "a red circle", {}))
    return samples


def test_the_language_model_reads_each_pictures_own_tokens(tiled: Blueprint, odd: list[Sample]) -> None:
    model, keys = (
        load_model(tiled, "cpu"),
        [Key.parse(f"lm.02@{name}") for name in ("mean_image", "last_image", "last")],
    )
    together = read_states(model, model.collate(odd, keys), keys, torch.float32)
    alone = [read_states(model, model.collate([sample], keys), keys, torch.float32) for sample in odd]
    lengths = {model.collate([sample], keys).readings["lm", "mean_image"].tokens.size for sample in odd}
    assert len(lengths) > 1
    for key in keys:
        assert torch.allclose(together.values[key], torch.cat([one.values[key] for one in alone]), atol=1e-5)


def test_a_site_with_another_number_of_tokens_is_refused() -> None:
    from mllm_probe.extraction.taps import Pooling
    from mllm_probe.records.batches import Reading

    with pytest.raises(ModelError, match="a site has 10 tokens where 12 were expected"):
        Pooling(Reading.of([[[0]], [[6]]], among=12))(torch.zeros(2, 5, 3))
