"""Each picture's own rows in the picture towers, however a family cuts, packs or pads its pictures."""

import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from PIL import Image

from mllm_probe.errors import ModelError
from mllm_probe.extraction.taps import read_states
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.models.prompts import picture_slots as pictures
from mllm_probe.models.prompts.picture_slots import Scale, Slots, find_slots
from mllm_probe.records.samples import Picture, Sample
from mllm_probe.records.sites import Key
from tests.support.checkpoints import blueprint_of
from tests.support.families_more import BUILDERS, SETTINGS

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of PaliGemma's processor
KEYS = [
    Key.parse(f"{site}@{position}") for site in ("vision.02", "connector") for position in ("mean_image", "last_image")
]
WITH_CLASS_TOKEN = ("CLIPVisionModel", "InternVLVisionModel", "Blip2VisionModel", "InstructBlipVisionModel")
WITH_CLASS_TOKEN += ("Kosmos2VisionTransformer",)
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


@pytest.fixture(scope="module", params=sorted(BUILDERS.keys() - {"chameleon"}))  # which has no picture tower
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HFModel]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of PaliGemma's processor under numpy 2
        folder = BUILDERS[request.param](tmp_path_factory.mktemp("family") / request.param)
        yield load_model(blueprint_of(folder, **SETTINGS.get(request.param, {})), "cpu")


FORMER = [Key.parse("qformer.01@mean_image"), Key.parse("qformer.01@last_image")]


def by_hand(model: HFModel, sample: Sample) -> Mapping[str, torch.Tensor]:
    """One picture alone: all that the second vision block and the connector give is its own, but for class tokens."""
    inputs, seen = dict(model._blueprint.process([sample])), {}
    whole = model._model.get_submodule(model._blueprint.structure.whole["vision"])
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
    if type(whole).__name__ in WITH_CLASS_TOKEN:
        seen["vision.02"] = seen["vision.02"][:, 1:]
    if "aspect_ratio_mask" in inputs:  # Mllama: four tiles, some of them empty; 1 + 16 tokens filled up to 24
        tiles = int(inputs["aspect_ratio_mask"].sum())
        seen = {name: states.reshape(4, -1, states.shape[-1])[:tiles] for name, states in seen.items()}
        seen["vision.02"] = seen["vision.02"][:, 1:17]
    return {name: states.reshape(-1, states.shape[-1]) for name, states in seen.items()}


def test_every_picture_has_the_rows_it_has_alone(model: HFModel, odd: list[Sample]) -> None:
    """Four pictures of four shapes in one batch, in two orders."""
    alone, keys = [by_hand(model, sample) for sample in odd], KEYS + FORMER * ("qformer" in model.anatomy.towers)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        chunk = read_states(model, model.collate([odd[i] for i in order], keys), keys, torch.float32)
        for key in keys:
            states = [alone[i][str(key.site)] for i in order]
            wanted = torch.stack([one.mean(dim=0) if key.position == "mean_image" else one[-1] for one in states])
            assert torch.allclose(chunk.values[key], wanted, atol=2e-5, rtol=1e-4), key


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
