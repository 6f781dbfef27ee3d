"""Frozen encoders against transformers' own hidden states, with real processors on tiny random checkpoints."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, ResNetConfig, ResNetModel
from transformers.models.clip import CLIPImageProcessorPil

from mllm_probe.config.model import CheckpointSettings
from mllm_probe.config.vision import EncoderSettings
from mllm_probe.errors import ConfigError, MllmProbeError, ModelError
from mllm_probe.models.encoders.by_kind import Encoder, load_encoder, plan_encoder
from tests.support.encoders import ENCODERS, noise


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    return {name: save(root / name) for name, (save, _) in ENCODERS.items()}


def loaded(name: str, folder: Path, normalisation: str = "own", **settings: object) -> Encoder:
    options = {"path": str(folder), "size": 32 if name == "dinov2" else None, **settings}
    return load_encoder(plan_encoder(name, EncoderSettings(**options)), normalisation, "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ENCODERS)
def test_features_are_the_patches_of_the_hidden_state(folders: dict[str, Path], name: str) -> None:
    """Pictures of the encoder's own size pass the checkpoint's processor unchanged."""
    encoder = loaded(name, folders[name])
    plan, leading = encoder.plan, ENCODERS[name][1]
    assert (plan.layer, plan.blocks, plan.width) == (2, 3, 32) and plan.grid == (3 if name == "siglip" else 4)
    pictures = [noise(plan.size, number) for number in range(3)]
    model = AutoModel.from_pretrained(folders[name])
    pixels = AutoImageProcessor.from_pretrained(folders[name])(pictures, return_tensors="pt").pixel_values
    assert pixels.shape == (3, 3, plan.size, plan.size)
    with torch.no_grad():
        states = getattr(model, "vision_model", model)(pixels, output_hidden_states=True).hidden_states
    torch.testing.assert_close(encoder.features(pictures), states[-2][:, leading:])
    top = loaded(name, folders[name], layer=-4)
    torch.testing.assert_close(top.features(pictures), states[0][:, leading:])


def test_the_released_codes_scaling_is_one_for_all(folders: dict[str, Path]) -> None:
    encoder, picture = loaded("clip", folders["clip"], "compat", layer=0), noise(32)
    pixels = torch.tensor(np.asarray(picture) / 255 * 2 - 1, dtype=torch.float32).permute(2, 0, 1)[None]
    with torch.no_grad():
        states = AutoModel.from_pretrained(folders["clip"]).vision_model(pixels, output_hidden_states=True)
    torch.testing.assert_close(encoder.features([picture])[0], states.hidden_states[0][0, 1:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_other_sizes_interpolate_the_positions(folders: dict[str, Path], name: str) -> None:
    encoder = loaded(name, folders[name], size=64)
    assert encoder.features([noise(64)]).shape == (1, encoder.plan.grid**2, 32)
    assert encoder.plan.grid == (8 if name == "clip" else 4)


def test_the_tower_of_a_multimodal_checkpoint_is_an_encoder(checkpoint: Path) -> None:
    encoder = loaded("llava", checkpoint)
    assert encoder.features([noise(32)]).shape == (1, 16, 64)


def test_tokens_that_are_no_grid_are_refused(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A tower that reads columns first, and one with a token behind the patches."""
    from mllm_probe.models.encoders import vit

    read = vit._states

    def turned(tower: object, pixels: torch.Tensor) -> list[torch.Tensor]:
        grids = [(s[:, :1], s[:, 1:].unflatten(1, (4, 4)).transpose(1, 2)) for s in read(tower, pixels)]
        return [torch.cat([first, grid.flatten(1, 2)], dim=1) for first, grid in grids]

    def behind(tower: object, pixels: torch.Tensor) -> list[torch.Tensor]:
        return [s.roll(-1, dims=1) for s in read(tower, pixels)]

    for other in (turned, behind):
        monkeypatch.setattr(vit, "_states", other)
        with pytest.raises(
            ModelError, match="the 17 tokens of CLIPVisionModel do not end in 4 x 4 patches, row by row"
        ):
            loaded("clip", folders["clip"])


def test_what_cannot_be_an_encoder_is_one_sentence(folders: dict[str, Path], tmp_path: Path) -> None:
    def refused(message: str, error: type[MllmProbeError] = ConfigError, **settings: object) -> None:
        with pytest.raises(error, match=message):
            plan_encoder("x", EncoderSettings(**{"path": str(folders["clip"]), **settings}))  # type: ignore[arg-type]

    refused("encoders.x.layer=-5 does not exist: the encoder has 3 blocks, so layers 0 to 3, or -1 to -4", layer=-5)
    refused("encoders.x.layer=4 does not exist", layer=4)
    refused("encoders.x.size=30 is cut into patches of 8 pixels; give a multiple of 8, two of them or more", size=30)
    refused("encoders.x.size=8 is cut", size=8)
    refused("no checkpoint is named; give encoders.x.path=FOLDER or encoders.x.hub_id=OWNER/NAME", path=None)
    refused("the checkpoint folder /nowhere does not exist", ModelError, path="/nowhere")
    refused(
        "nobody/nothing is not on this machine, .*give a local folder with encoders.x.path=FOLDER",
        ModelError, path=None, hub_id="nobody/nothing",
    )  # fmt: skip
    ResNetModel(ResNetConfig(depths=[1], hidden_sizes=[8], embedding_size=8)).save_pretrained(tmp_path)
    CLIPImageProcessorPil().save_pretrained(tmp_path)
    refused("ResNetModel cuts no patches of one size; choose a vision transformer", ModelError, path=str(tmp_path))


def test_the_first_place_that_is_given_counts() -> None:
    assert CheckpointSettings(path="/here", hub_id="a/b").path == "/here"
    assert plan_encoder("mini", EncoderSettings(bundled="mini", hub_id="a/b")).grid == 6
