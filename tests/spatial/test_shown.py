"""What lies on picked tokens, against naive loops over drawn scenes on the grid of the bundled model."""

import numpy as np
import pytest
from PIL import Image

from mllm_probe.config.model import ModelSettings, PromptSettings
from mllm_probe.data.cells import covered
from mllm_probe.data.coco import Selection
from mllm_probe.data.scenes import Scenes
from mllm_probe.experiment.places import Places
from mllm_probe.files.digests import Digests
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.loading.checkpoint import BUNDLED
from mllm_probe.records.samples import Collection
from mllm_probe.spatial.shown import columns_of

SIDE, PIXELS = 6, 96


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    place = tmp_path_factory.mktemp("scenes")
    return Scenes(pictures=6, seed=3).load(place, Selection(), Digests(place / "digests.json"))


@pytest.fixture(scope="module")
def places(scenes: Collection) -> Places:
    settings = ModelSettings(name="mini", path=str(BUNDLED / "mini"), quantization="none", dtype="float32")
    return Places(scenes, Blueprint(BUNDLED / "mini", settings, PromptSettings(), "right"))


def test_the_bundled_model_sees_six_lines_of_six_tokens(scenes: Collection, places: Places) -> None:
    grid = places.grid(scenes.pictures[0])
    row, column = np.divmod(np.arange(SIDE**2), SIDE)
    assert (grid.rows == row).all() and (grid.columns == column).all()
    assert np.allclose(grid.cells, np.stack([column, row, column + 1, row + 1], axis=1) / SIDE, atol=0.003)


def test_shares_are_those_of_the_pixels_in_each_cell(scenes: Collection, places: Places) -> None:
    """Of a cell of 16 x 16 pixels the share that a mask holds, up to the half percent of a pixel's colour."""
    assert scenes.masks is not None
    for picture in scenes.pictures:
        found = places.shares(picture)
        assert found.keys() == picture.categories
        for name, mask in scenes.masks(picture).items():
            cells = mask.reshape(SIDE, PIXELS // SIDE, SIDE, PIXELS // SIDE).mean(axis=(1, 3)).ravel()
            assert np.allclose(found[name], cells, atol=0.05)


def test_columns_of_a_picture_against_loops(scenes: Collection, places: Places) -> None:
    picture = max(scenes.pictures, key=lambda one: len(one.categories or ()))
    tokens = np.asarray([0, 7, 14, 21, 35])
    found = columns_of(3, tokens, picture, places, scenes.categories)
    shares = places.shares(picture)
    pixels = np.asarray(Image.open(picture.path).convert("RGB")) / 255
    for i, token in enumerate(tokens):
        row, column = divmod(int(token), SIDE)
        for c, name in enumerate(scenes.categories):
            assert found["present"][i, c] == (name in shares)
            if name not in shares:
                assert found["shares"][i, c] == 0 and found["away"][i, c] == np.inf
                continue
            touched = [divmod(t, SIDE) for t in range(SIDE**2) if shares[name][t] > 0]
            assert found["shares"][i, c] == shares[name][token]
            assert found["away"][i, c] == min(max(abs(row - r), abs(column - k)) for r, k in touched)
        size = PIXELS // SIDE
        cell = pixels[row * size : (row + 1) * size, column * size : (column + 1) * size]
        assert np.allclose(found["colours"][i], cell.mean(axis=(0, 1)), atol=0.02)
    on = places.on_objects(picture)
    assert (found["objects"] == on[tokens]).all() and not found["whole"].any()
    assert found["weights"].sum() == pytest.approx(SIDE**2), "the picked stand for all"
    assert columns_of(0, np.arange(SIDE**2), picture, places, scenes.categories)["whole"].all()


def test_half_a_cell_away_other_tokens_are_covered(scenes: Collection, places: Places) -> None:
    assert scenes.masks is not None
    picture, shift = scenes.pictures[0], 0.5 / SIDE
    cells = places.grid(picture).cells
    moved = [
        np.abs(covered(mask, cells + shift) - covered(mask, cells)).max() for mask in scenes.masks(picture).values()
    ]
    assert min(moved) > 0.2
