"""What a processor is told beside its files: the user's settings, and what older files left to config.json."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from mllm_probe.errors import ConfigError
from mllm_probe.records.samples import Sample
from tests.support.broken import SMALL, check
from tests.support.checkpoints import blueprint_of
from tests.support.families import FAMILIES
from tests.support.runs import Run, tiny


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES["qwen2_vl"](tmp_path_factory.mktemp("qwen") / "model")


@pytest.mark.parametrize(
    "left_out",
    [("patch_size", "num_additional_image_tokens", "vision_feature_select_strategy"), ("num_additional_image_tokens",)],
    ids=["all", "the class token"],
)
def test_what_a_llavas_processor_lacks_is_in_config_json(
    checkpoint: Path, tmp_path: Path, samples: Sequence[Sample], left_out: Sequence[str]
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "older"))
    told = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({k: v for k, v in told.items() if k not in left_out}))
    found, expected = blueprint_of(folder), blueprint_of(checkpoint)
    assert torch.equal(found.process(samples[:1])["input_ids"], expected.process(samples[:1])["input_ids"])
    assert all(name in found.remarks[0] for name in left_out) and not expected.remarks


def test_settings_of_the_picture_processor_are_passed_on(qwen: Path) -> None:
    def tokens(**settings: Any) -> int:
        return blueprint_of(qwen, processor=settings).example()[0]["input_ids"].shape[1]

    assert tokens(max_pixels=28 * 28) < tokens() < tokens(min_pixels=200 * 200, max_pixels=400 * 400)


def test_what_a_class_always_asks_for_gives_way(tmp_path: Path) -> None:
    folder = FAMILIES["internvl"](tmp_path / "model")

    def tokens(**settings: Any) -> int:
        return blueprint_of(folder, processor=settings).example()[0]["input_ids"].shape[1]

    assert tokens(crop_to_patches=False) < tokens()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{max_pixles: 100}", "model.processor names 'max_pixles', which Qwen2VLImageProcessor"),
        ("{max_pixels: many}", "model.processor={'max_pixels': 'many'} cannot be used by Qwen2VLImageProcessor"),
        ("{rescale_factor: 0}", "rescale_factor=0; it must be above 0"),
        ("{do_resize: maybe}", "model.processor.do_resize=maybe must be true or false"),
        ("{size: {longest_edge: 3}}", "keys but got {longest_edge: 3})"),
        ("{do_normalize: false, image_mean: [1, 1, 1]}", "model.processor.image_mean does nothing, since Qwen2VL"),
        ("high", "model.processor=high must be null or settings, such as {max_pixels: 401408}"),
        ("{size: 3}", "cannot be used by Qwen2VLImageProcessor"),
    ],
)
def test_settings_that_cannot_be_met(probe: Run, qwen: Path, tmp_path: Path, settings: str, message: str) -> None:
    check(probe("inspect", *tiny(qwen), f"model.processor={settings}", "n=1", *SMALL), tmp_path, message)


def test_settings_are_part_of_the_identity(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    names = []
    for more in ((), ("model.processor={image_mean: [0.5, 0.5, 0.5]}",)):
        code, _, err = probe("extract", *tiny(checkpoint), "experiment=smoke", *SMALL, *more)
        assert code == 0, err
        names.append({path.name for path in (tmp_path / "outputs" / "cache").iterdir() if path.is_dir()})
    assert len(names[0]) == 1 and len(names[1]) == 2


def test_settings_of_another_family_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="which CLIPImageProcessor"):
        blueprint_of(checkpoint, processor={"max_pixels": 3})
