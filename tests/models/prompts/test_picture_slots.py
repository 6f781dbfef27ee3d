"""Each picture's own rows in the picture towers, however a family cuts, packs or pads its pictures."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mllm_probe.errors import ModelError
from mllm_probe.extraction.taps import read_states
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.models.prompts import picture_slots as pictures
from mllm_probe.models.prompts.picture_slots import Scale, Slots, find_slots, leading_tokens
from mllm_probe.records.samples import Picture, Sample
from mllm_probe.records.sites import Key
from tests.support.checkpoints import blueprint_of
from tests.support.families_more import BUILDERS, LLAVAS, SETTINGS, TOWERS, save_tower

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of PaliGemma's processor
KEYS = [
    Key.parse(f"{site}@{position}") for site in ("vision.02", "connector") for position in ("mean_image", "last_image")
]
BUILT = BUILDERS | LLAVAS
LEADING = dict.fromkeys(("llava", "llava_next", "internvl", "blip2", "instructblip", "kosmos2", "mllama"), 1)
LEADING |= {f"llava_{name}": leading for name, (_, leading, _) in TOWERS.items()}  # class tokens, registers and such
SIZES = ((64, 64), (40, 90), (90, 40), (33, 31))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    place, rng = tmp_path_factory.mktemp("odd"), np.random.default_rng(1)
    samples = []
    for width, height in SIZES:
        path = place / f"{width}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
        samples.append(Sample.of([Picture(path.stem, path, path.stem)], "a red circle", {}))
    return samples


@pytest.fixture(scope="module", params=sorted(BUILT.keys() - {"chameleon"}))  # which has no picture tower
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(family: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HFModel]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of PaliGemma's processor under numpy 2
        folder = BUILT[family](tmp_path_factory.mktemp("family") / family)
        yield load_model(blueprint_of(folder, **SETTINGS.get(family, {})), "cpu")


FORMER = [Key.parse("qformer.01@mean_image"), Key.parse("qformer.01@last_image")]


def by_hand(model: HFModel, sample: Sample, leading: int) -> Mapping[str, torch.Tensor]:
    """One picture alone: all that the second vision block and the connector give is its own, but for the `leading`
    tokens of each tile."""
    inputs, seen = dict(model._blueprint.process([sample])), {}
    named = {
        "vision.02": model._model.get_submodule(f"{model._blueprint.structure.blocks['vision']}.1"),
        "connector": model._model.get_submodule(model._blueprint.structure.whole["connector"]),
    }
    if "qformer" in model.anatomy.towers:
        named["qformer.01"] = model._model.get_submodule(f"{model._blueprint.structure.blocks['qformer']}.0")
    handles = [
        module.register_forward_hook(
            lambda _m, _a, out, name=name: seen.update({name: out[0] if isinstance(out, tuple) else out})
        )
        for name, module in named.items()
    ]
    with torch.inference_mode():
        model._model(**inputs)
    for handle in handles:
        handle.remove()
    if "qformer.01" in seen:
        seen["qformer.01"] = seen["qformer.01"][:, :8]  # its queries; InstructBLIP's text stands behind them
    if "aspect_ratio_mask" in inputs:  # Mllama: four tiles, some of them empty; 1 + 16 tokens filled up to 24
        tiles = int(inputs["aspect_ratio_mask"].sum())
        seen = {name: states.reshape(4, -1, states.shape[-1])[:tiles] for name, states in seen.items()}
        seen["vision.02"] = seen["vision.02"][:, :17]
    if leading:
        seen["vision.02"] = seen["vision.02"][:, leading:]
    return {name: states.reshape(-1, states.shape[-1]) for name, states in seen.items()}


def test_every_picture_has_the_rows_it_has_alone(family: str, model: HFModel, odd: list[Sample]) -> None:
    """Four pictures of four shapes in one batch, in two orders."""
    alone = [by_hand(model, sample, LEADING.get(family, 0)) for sample in odd]
    keys = KEYS + FORMER * ("qformer" in model.anatomy.towers)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        chunk = read_states(model, model.collate([odd[i] for i in order], keys), keys, torch.float32)
        for key in keys:
            states = [alone[i][str(key.site)] for i in order]
            wanted = torch.stack([one.mean(dim=0) if key.position == "mean_image" else one[-1] for one in states])
            assert torch.allclose(chunk.values[key], wanted, atol=2e-5, rtol=1e-4), key


def test_the_whole_of_a_tower_is_all_that_takes_its_pixels(model: HFModel) -> None:
    """DINOv2's blocks are in a model of their own, inside the one that makes patches."""
    if "vision" in model.anatomy.towers:
        whole = model._model.get_submodule(model._blueprint.structure.whole["vision"])
        cuts = [part for part in whole.modules() if isinstance(part, torch.nn.Conv2d | torch.nn.Conv3d)]
        cuts += [part for name, part in whole.named_modules() if name.endswith("patch_embedding")]
        assert cuts


@pytest.mark.parametrize("name", sorted(TOWERS))
def test_a_processor_that_counts_other_tokens_than_the_tower_is_refused_before_the_weights(
    tmp_path: Path, name: str
) -> None:
    folder = save_tower(tmp_path / "other", name, num_additional_image_tokens=3)
    (folder / "model.safetensors").write_bytes(b"")
    leading = TOWERS[name][1]
    with pytest.raises(ModelError, match=f"set num_additional_image_tokens={leading} and this strategy"):
        blueprint_of(folder, weights="random")


def test_the_place_of_patches_is_measured() -> None:
    """Registers before them, and whatever stands behind; a tower that mixes patches, or turns them, is refused."""
    pixels, slots = torch.zeros(2, 3, 16, 24), Slots((np.arange(1),), 2, 6)

    def states(given: torch.Tensor, before: int = 3, behind: int = 2) -> torch.Tensor:
        patches = given.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).reshape(2, 6, -1)
        return torch.cat([torch.ones(2, before, 192), patches, torch.ones(2, behind, 192)], dim=1)

    assert leading_tokens(pixels, 8, slots, states) == 3
    assert leading_tokens(pixels, 8, slots, lambda given: states(given, 0, 0)) == 0
    for wrong in (lambda given: states(given).cumsum(dim=1), lambda given: states(given).flip(1), torch.zeros_like):
        with pytest.raises(ModelError, match="do not hold 6 patches a tile, row by row"):
            leading_tokens(pixels, 8, slots, wrong)


def test_rows_of_another_picture_are_others(model: HFModel, odd: list[Sample], monkeypatch) -> None:
    """The comparison above can fail."""
    found = pictures.find_slots

    def exchanged(*args: object) -> Slots:
        slots = found(*args)
        return Slots((*slots.which[1:], slots.which[0]), slots.total, slots.patches)

    key = Key.parse("connector@mean_image")
    right = read_states(model, model.collate(odd, [key]), [key], torch.float32).values[key]
    monkeypatch.setattr("mllm_probe.models.prompts.collate.find_slots", exchanged)
    wrong = read_states(model, model.collate(odd, [key]), [key], torch.float32).values[key]
    assert not torch.allclose(right, wrong, atol=1e-3)


def test_tiles_of_several_pictures_a_prompt_are_refused_where_they_cannot_be_told() -> None:
    pixels = torch.ones(5, 3, 16, 16)
    with pytest.raises(ModelError, match="the tiles of each picture are unknown"):
        find_slots({"pixel_values": pixels}, 2, None, 8)
    with pytest.raises(ModelError, match="the tiles of each picture are unknown"):
        find_slots({"pixel_values": pixels}, 2, [7, 5], 8)
    slots = find_slots({"pixel_values": pixels}, 2, [8, 12], 8)
    assert [own.tolist() for own in slots.which] == [[0, 1], [2, 3, 4]] and slots.patches == 4


def test_empty_tiles_are_no_tiles() -> None:
    pixels = torch.ones(2, 3, 3, 16, 16)
    pixels[0, 2] = 0
    slots = find_slots({"pixel_values": pixels}, 2, None, 8)
    assert [own.tolist() for own in slots.which] == [[0, 1], [2, 3, 4]]
    rows, among = Scale({"vision": 6}, leading=1).rows("vision", slots)  # type: ignore[dict-item]
    assert among == 30 and rows[0].tolist() == [1, 2, 3, 4, 7, 8, 9, 10], "one token before and one behind the patches"


def test_inputs_without_pixels_are_refused() -> None:
    with pytest.raises(ModelError, match="the processor gives input_ids and no pixel values; use layers.towers"):
        find_slots({"input_ids": torch.ones(1, 3)}, 1, None, 8)
