"""The places of picture tokens, measured on a skeleton, against the loaded model and pictures with one white spot."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mllm_probe.errors import ModelError
from mllm_probe.models.grids.tracing import Grids
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.records.grids import Grid
from mllm_probe.records.samples import Picked, Picture, Sample
from mllm_probe.records.sites import PICKED, Key, Site
from tests.support.checkpoints import blueprint_of
from tests.support.families_more import BUILDERS, SETTINGS
from tests.support.naive_pass import first, read

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of PaliGemma's processor
PLACELESS = {
    "blip2": "Q-Former",
    "chameleon": "no blocks of attention",
    "instructblip": "Q-Former",
    "kosmos2": "reads the whole picture",
    "mllama": "no token of theirs",
}
SIZES = {"wide": (96, 48), "square": (64, 64), "tall": (40, 90)}
LOOKS = {  # (looks, tokens of a square picture with a place, tokens without)
    "gemma3": (1, 16, 0),
    "idefics3": (2, 20, 0),
    "internvl": (2, 20, 0),
    "llava": (1, 16, 0),
    "llava_next": (2, 80, 8),
    "llava_onevision": (2, 32, 4),
    "mistral3": (1, 16, 0),
    "paligemma": (1, 16, 0),
    "paligemma2": (1, 16, 0),
    "pixtral": (1, 16, 0),
    "qwen2_5_vl": (1, 16, 0),
    "qwen2_vl": (1, 16, 0),
    "qwen3_vl": (1, 16, 0),
    "smolvlm": (2, 20, 0),
}


@pytest.fixture(scope="module", params=sorted(LOOKS))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, HFModel, Grids]:
    name = request.param
    folder = BUILDERS[name](tmp_path_factory.mktemp("family") / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = load_model(blueprint_of(folder, **SETTINGS.get(name, {})), "cpu")
    return name, model, Grids(model._blueprint)


def sample_of(folder: Path, pixels: np.ndarray) -> Sample:
    path = folder / f"{pixels.sum()}.png"
    Image.fromarray(pixels).save(path)
    return Sample.of([Picture(path.stem, path, path.stem)], "Is there a zebra?", {})


def rows(model: HFModel, sample: Sample, name: str) -> np.ndarray:
    return np.asarray(read(model, [sample], name)[name])


def changed(before: np.ndarray, after: np.ndarray) -> set[int]:
    change = np.abs(after - before).max(axis=1)
    return set(np.flatnonzero(change > 1e-4 * change.max()).tolist()) if change.max() > 0 else set()


@pytest.mark.parametrize("shape", SIZES)
def test_a_white_spot_changes_the_patches_at_its_place(
    family: tuple[str, HFModel, Grids], shape: str, tmp_path: Path
) -> None:
    """Of a token's cell the middle third is white: at vision.00 its own patches change, and others only where another
    look at the picture shows the spot."""
    _, model, grids = family
    grid, (width, height) = grids.of(SIZES[shape]), SIZES[shape]
    black = np.zeros((height, width, 3), np.uint8)
    before = rows(model, sample_of(tmp_path, black), "vision.00@tokens:image")
    assert len(before) == len(grid.patches)
    for token in (grid.placed[0], grid.placed[len(grid.placed) // 3], grid.placed[-1]):
        left, top, right, bottom = grid.cells[token] * (width, height, width, height)
        spot = black.copy()
        x, y = (
            slice(round(a + (b - a) / 3), max(round(a + (b - a) / 3) + 1, round(b - (b - a) / 3)))
            for a, b in ((left, right), (top, bottom))
        )
        spot[y, x] = 255
        found = changed(before, rows(model, sample_of(tmp_path, spot), "vision.00@tokens:image"))
        own = set(grid.read[token].tolist())
        assert own <= found
        assert all(touches(grid.patches[patch], x, y, (width, height)) for patch in found - own), (token, found, own)


def touches(cell: np.ndarray, x: slice, y: slice, size: tuple[int, int]) -> bool:
    """Whether a patch shows some of the spot, or is so near that resampling spreads it there."""
    left, top, right, bottom = cell * (*size, *size)
    near_x, near_y = 0.45 * (right - left), 0.45 * (bottom - top)
    return left - near_x < x.stop and x.start < right + near_x and top - near_y < y.stop and y.start < bottom + near_y


@pytest.mark.parametrize("shape", ["square", "tall"])
def test_one_patch_changes_the_tokens_that_are_made_of_it(
    family: tuple[str, HFModel, Grids], shape: str, tmp_path: Path
) -> None:
    """In the loaded model, of which the state of one patch is changed where the connector reads it."""
    _, model, grids = family
    grid, size = grids.of(SIZES[shape]), SIZES[shape]
    sample = sample_of(tmp_path, np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    before = rows(model, sample, "lm.00@tokens:image")
    assert len(before) == len(grid.cells)
    batch = model.collate([sample], [Key(Site("vision", 1), "tokens:image")])
    places = batch.readings["vision", "tokens:image"].tokens
    layer = next(
        layer
        for layer in range(model.anatomy.blocks["vision"], 0, -1)
        if touched(model, sample, layer, int(places[0]), before)
    )
    assert all(
        touched(model, sample, layer, int(places[patch]), before) == made_of(grid, patch)
        for patch in range(0, len(places), max(1, len(places) // 7))
    )


def made_of(grid: Grid, patch: int) -> set[int]:
    return {token for token, own in enumerate(grid.read) if patch in own}


def touched(model: HFModel, sample: Sample, layer: int, token: int, before: np.ndarray) -> set[int]:
    with noise_at(model.module(Site("vision", layer))[0], token):
        return changed(before, rows(model, sample, "lm.00@tokens:image"))


@contextmanager
def noise_at(block: torch.nn.Module, token: int) -> Iterator[None]:
    forward = block.forward

    def spoilt(*args: Any, **more: Any) -> Any:
        out = forward(*args, **more)
        states = first(out)
        flat = states.clone().flatten(0, -2)
        flat[token] += torch.randn(flat.shape[1], generator=torch.Generator().manual_seed(1)) * flat.std() * 3
        new = flat.view_as(states)
        return (new, *out[1:]) if isinstance(out, tuple) else new

    block.forward = spoilt  # not a hook: the model's own ones, by which it keeps a layer, might come first
    try:
        yield
    finally:
        del block.forward


def test_picked_tokens_are_rows_of_all_and_means_of_their_patches(
    family: tuple[str, HFModel, Grids], tmp_path: Path
) -> None:
    _, model, grids = family
    grid, (width, height) = grids.of(SIZES["wide"]), SIZES["wide"]
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    tokens = grid.placed[[0, len(grid.placed) // 2, -1]]
    read_of = tuple(tuple(grid.read[token].tolist()) for token in tokens)
    sample = replace(sample_of(tmp_path, pixels), picked=Picked(tuple(tokens.tolist()), read_of))
    for site, expected in (
        ("lm.02", lambda every: every[tokens]),
        ("vision.01", lambda every: np.stack([every[list(own)].mean(axis=0) for own in read_of])),
    ):
        found = rows(model, sample, f"{site}@{PICKED}3.0123abcd")
        assert np.allclose(found, expected(rows(model, sample, f"{site}@tokens:image")), atol=1e-5)
    assert not model.anatomy.has(Site("connector"), f"{PICKED}3.0123abcd")


def test_how_many_looks_and_places_a_square_picture_has(family: tuple[str, HFModel, Grids]) -> None:
    name, _, grids = family
    grid = grids.of((64, 64))
    places = len(grid.placed)
    assert (len(np.unique(grid.views[grid.placed])), places, len(grid.cells) - places) == LOOKS[name]
    for view in np.unique(grid.views[grid.placed]):
        own = grid.views == view
        side = round(own.sum() ** 0.5)
        if side**2 == own.sum():
            assert sorted(zip(grid.rows[own].tolist(), grid.columns[own].tolist(), strict=True)) == [
                (row, column) for row in range(side) for column in range(side)
            ]
            cells = np.stack([grid.columns[own], grid.rows[own], grid.columns[own] + 1, grid.rows[own] + 1], axis=1)
            assert np.allclose(grid.cells[own], cells / side, atol=0.01)


@pytest.mark.parametrize("name", sorted(PLACELESS))
def test_picture_tokens_without_a_place_are_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=PLACELESS[name]):
        Grids(blueprint_of(BUILDERS[name](tmp_path / name), **SETTINGS.get(name, {}))).of((64, 64))


def test_every_family_has_places_or_is_refused() -> None:
    assert set(LOOKS) | set(PLACELESS) == set(BUILDERS)
