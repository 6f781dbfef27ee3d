"""What a processor or a model refuses is named in a sentence, before the weights where it can be, or left out."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from mllm_probe.errors import DataError, ModelError, PassError
from mllm_probe.experiment.examples import readable
from mllm_probe.extraction.taps import read_states
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.records.batches import Batch
from mllm_probe.records.samples import Collection, Picture, Row, Sample
from mllm_probe.records.sites import Key
from tests.support.checkpoints import blueprint_of
from tests.support.families import save_qwen2_vl
from tests.support.families_more import save_blip2
from tests.support.runs import QUICK, Run, tiny

LAST = Key.parse("lm.02@last")


def drawn(path: Path, width: int, height: int) -> Picture:
    rng = np.random.default_rng(width)
    Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
    return Picture(path.name, path, path.name)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen2_vl(tmp_path_factory.mktemp("family") / "qwen")


def test_more_pictures_than_there_are_is_said(probe: Run) -> None:
    words = ("inspect", "n=1", "task=entailment", "dataset.pictures=24")
    for n, said in ((24, False), (25, True)):
        code, _, err = probe(*words, f"data.n={n}")
        assert code == 0, err
        assert (f"data.n={n} is more than there are: all 24 pictures" in " ".join(err.split())) is said


@pytest.mark.parametrize("ends", [True, False])
def test_without_a_pad_token_the_states_are_the_same(
    checkpoint: Path, tmp_path: Path, model: HFModel, samples: list[Sample], ends: bool
) -> None:
    """Another token pads, which the mask hides."""
    folder = shutil.copytree(checkpoint, tmp_path / "padless")
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.pad_token = None
    if not ends:
        processor.tokenizer.eos_token = None
    processor.save_pretrained(folder)
    blueprint = blueprint_of(folder)
    assert blueprint.processor.tokenizer.pad_token == ("</s>" if ends else "<pad>")
    other = load_model(blueprint, "cpu")
    found = [read_states(one, one.collate(samples[:4], [LAST]), [LAST], torch.float32) for one in (model, other)]
    assert torch.equal(found[0].values[LAST], found[1].values[LAST])


def test_pictures_that_a_processor_refuses_are_named_or_left_out(qwen: Path, tmp_path: Path) -> None:
    shapes = {"good.png": (60, 40), "strip.png": (900, 4), "thin.png": (1, 40), "again.png": (900, 4)}
    pictures = tuple(drawn(tmp_path / name, *size) for name, size in shapes.items())
    rows = tuple(Row(picture, "?", "x", i) for i, picture in enumerate(pictures))
    collection = Collection("own", pictures, (), lambda *_: False, ("before",), rows)
    made = blueprint_of(qwen)
    said = "picture strip.png: the model's processor refuses its 900 x 4 pixels .*ratio must be smaller than 200"
    with pytest.raises(DataError, match=f"{said}.*; cut it, or leave such pictures out with data.on_bad_row=skip"):
        readable(collection, "stop", lambda: made)
    kept = readable(collection, "skip", lambda: made)
    assert [picture.id for picture in kept.pictures] == ["good.png", "thin.png"] and kept.rows == (rows[0], rows[2])
    assert [one.split(":")[0] for one in kept.skipped] == ["before", "picture strip.png", "picture again.png"]
    with pytest.raises(DataError, match=f"no usable picture is left: {said}"):
        readable(Collection("own", pictures[1:2], (), lambda *_: False), "skip", lambda: made)


def test_usual_pictures_need_no_model(tmp_path: Path) -> None:
    collection = Collection("own", (drawn(tmp_path / "a.png", 1400, 28),), (), lambda *_: False)
    assert readable(collection, "stop", lambda: pytest.fail("a processor was made")) is collection


def test_what_a_processor_raises_names_the_picture(qwen: Path, tmp_path: Path) -> None:
    """Of a batch, the one that it is about; also where the sizes gave no sign."""
    pictures = [drawn(tmp_path / "good.png", 60, 40), drawn(tmp_path / "strip.png", 900, 4)]
    samples = [Sample.of([picture], "a cat", {}) for picture in pictures]
    with pytest.raises(PassError, match=r"Qwen2VLProcessor cannot read the prompt about strip.png \(absolute aspect"):
        blueprint_of(qwen).process(samples)


def test_what_a_model_raises_names_the_picture(model: HFModel, samples: list[Sample]) -> None:
    batch = model.collate(samples[:2], [LAST])
    broken = Batch(batch.uids, {**batch.inputs, "pixel_values": batch.inputs["pixel_values"][..., :24]}, batch.readings)
    for names, told in [(batch.names, samples[0].name), ((), samples[0].uid)]:
        one = Batch(broken.uids, broken.inputs, broken.readings, pictures=batch.pictures, names=names)
        with pytest.raises(
            PassError, match=rf"the model cannot read the prompt about {told} .*\(ValueError: Input image"
        ):
            read_states(model, one, [LAST], torch.float32)


def test_a_processor_of_another_size_is_refused_before_the_weights(
    checkpoint: Path, tmp_path: Path, samples: list[Sample]
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "small")
    told = json.loads((folder / "processor_config.json").read_text())
    told["image_processor"] |= {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
    (folder / "processor_config.json").write_text(json.dumps(told))
    with pytest.raises(
        ModelError, match="makes pictures of 24 x 24 pixels, and the vision tower reads 32 x 32; the pro"
    ):
        blueprint_of(folder).survey(samples, [LAST])


def test_the_commands_leave_out_what_the_processor_refuses(qwen: Path, probe: Run, tmp_path: Path) -> None:
    """Before anything is read of the model, and in every command alike."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(1, 25)]
    for image in images:
        drawn(
            tmp_path / "set" / "images" / f"{image['id']}.png",
            *((900, 4) if image["id"] == 7 else (60, 40 + image["id"])),
        )
    captions = [{"image_id": image["id"], "caption": f"A picture of {image['id']}."} for image in images]
    (tmp_path / "set" / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    words = (
        "task=entailment",
        "dataset=coco",
        f"dataset.root={tmp_path / 'set'}",
        "task.captions_per_picture=1",
        "splits.blocks=3",
    )
    words += (*tiny(qwen), "model.quantization=none", "splits.near_duplicates=false", "guards=note")
    code, _, err = probe("inspect", *words)
    assert code == 1 and "picture 7: the model's processor refuses its 900 x 4 pixels" in err
    code, out, err = probe("extract", *words, "data.on_bad_row=skip", "layers=lm", "layers.range=[1,1]")
    assert code == 0, err
    assert "skipped: picture 7: the model's processor refuses its 900 x 4 pixels" in " ".join((out + err).split())


def test_a_model_that_needs_a_picture_does_without_the_text_only_control(probe: Run, tmp_path: Path) -> None:
    folder = save_blip2(tmp_path / "blip2")
    code, out, err = probe(
        "extract", *QUICK, *tiny(folder), "model.quantization=none", "controls=[text_only]", "layers=lm"
    )
    assert code == 0, err
    assert "text_only: not applicable" in " ".join((out + err).split())
