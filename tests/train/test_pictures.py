"""The two stages on pictures: which statements a step learns, kills, and checkpoints that say what was trained."""

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from mllm_probe.config.tune import TrainSettings
from mllm_probe.errors import ConfigError, DataError, ModelError
from mllm_probe.files.store_paths import TrainingPaths
from mllm_probe.models.hf import load_model
from mllm_probe.models.loading.checkpoint import BUNDLED
from mllm_probe.models.packed_texts import put_in
from mllm_probe.records.samples import Collection
from mllm_probe.train.loop import train
from mllm_probe.train.material import Material
from mllm_probe.train.pictures import TRAINED, PictureApprentice, PictureTuning
from tests.support.checkpoints import blueprint_of
from tests.support.runs import Run, Silent

SETTINGS = TrainSettings(steps=3, batch=4, micro_batch=2, lr=1e-3, save_every=1)
YES_NO = (" yes", " no")  # as mini writes them
STATEMENTS: dict[str, Any] = {
    "statements": 1,
    "fresh": False,
    "rank": 2,
    "template": "{caption}: true?",
    "answers": YES_NO,
}


def material(scenes: Collection, folder: Path = BUNDLED / "mini", settings: TrainSettings = SETTINGS) -> Material:
    blueprint = blueprint_of(folder, chat="auto")
    network = load_model(blueprint, "cpu").network
    return Material(blueprint, network, "cpu", scenes.pictures[:6], scenes.pictures[6:9], settings)


def apprentice(given: Material, **options: Any) -> PictureApprentice:
    target = PictureTuning(**options)
    learnt, judged = target.examples(given)
    return target.apprentice(replace(given, learnt=learnt, judged=judged))


def test_each_caption_is_once_true_and_once_false_within_a_step(scenes: Collection) -> None:
    one = apprentice(material(scenes), **{**STATEMENTS, "statements": 2}, captions=1)
    pictures = list(scenes.pictures[:3])
    texts = one._texts(pictures, Random(0))
    told = Counter((text.said, text.answer) for row in texts for text in row if text.said)
    assert set(told.values()) == {1}
    assert {said for said, answer in told if answer == YES_NO[0]} == {
        said for said, answer in told if answer == YES_NO[1]
    }
    for picture, row in zip(pictures, texts, strict=True):
        own = {f"{caption.strip().rstrip('.')}: true?" for caption in picture.captions}
        assert all((text.said in own) == (text.answer == YES_NO[0]) for text in row if text.said)
        assert [text.answer in picture.captions for text in row if not text.said] == [True]


def test_cutting_a_step_up_changes_nothing_but_rounding(scenes: Collection) -> None:
    found = []
    for micro in (1, 4):
        one = apprentice(material(scenes, settings=replace(SETTINGS, micro_batch=micro)), **STATEMENTS, captions=2)
        found.append((one.backward(0), [value.grad for value in one.parameters().values()]))
    (first, slopes), (second, others) = found
    assert first == pytest.approx(second, rel=1e-5) and first["statements"] > 0
    for a, b in zip(slopes, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("options", [{"spread": 2.0}, STATEMENTS])
def test_the_checkpoint_says_what_the_trained_model_says(
    scenes: Collection, tmp_path: Path, options: dict[str, Any]
) -> None:
    given = material(scenes)
    one = apprentice(given, **options)
    train(one, SETTINGS, TrainingPaths(tmp_path / "state"), Silent())
    rows = one.held_out()
    one.save(tmp_path / "made")
    loaded = load_model(blueprint_of(tmp_path / "made", chat="auto"), "cpu").network
    again = apprentice(replace(material(scenes, tmp_path / "made"), network=loaded), **{**options, "fresh": False})
    for a, b in zip(rows, again.held_out(), strict=True):
        assert (a.picture, a.item, a.tokens) == (b.picture, b.item, b.tokens)
        assert a.loss == pytest.approx(b.loss, rel=2e-3), "mini is stored in float16"
    bare = LlavaForConditionalGeneration.from_pretrained(BUNDLED / "mini", dtype=torch.float32)
    put_in(bare, load_file(tmp_path / "made" / TRAINED))
    for name, value in LlavaForConditionalGeneration.from_pretrained(tmp_path / "made").state_dict().items():
        torch.testing.assert_close(value.float(), bare.state_dict()[name], rtol=2e-3, atol=1e-4)


def test_a_killed_training_goes_on(scenes: Collection, tmp_path: Path) -> None:
    whole = train(apprentice(material(scenes), **STATEMENTS), SETTINGS, TrainingPaths(tmp_path / "a"), Silent())

    class Killed(PictureApprentice):
        def backward(self, step: int) -> Any:
            if step == 2:
                raise KeyboardInterrupt
            return super().backward(step)

    target = PictureTuning(**STATEMENTS)
    given = material(scenes)
    learnt, judged = target.examples(given)
    with pytest.raises(KeyboardInterrupt):
        train(
            Killed(target, replace(given, learnt=learnt, judged=judged)),
            SETTINGS,
            TrainingPaths(tmp_path / "b"),
            Silent(),
        )
    assert train(apprentice(material(scenes), **STATEMENTS), SETTINGS, TrainingPaths(tmp_path / "b"), Silent()) == whole


def test_what_cannot_be_trained_so_is_refused(scenes: Collection) -> None:
    given = material(scenes)
    with pytest.raises(ConfigError, match="train.batch=1 has no other picture for a false statement; give 2 or more"):
        apprentice(replace(given, settings=replace(SETTINGS, batch=1)), **STATEMENTS)
    with pytest.raises(ConfigError, match="target.template='true\\?' must hold {caption} exactly once"):
        PictureTuning(template="true?")
    with pytest.raises(ConfigError, match="must be two words, of a true and a false statement"):
        PictureTuning(answers=("Yes",))
    with pytest.raises(ModelError, match="the answer 'Indeed' is [2-9] tokens for this tokenizer, and must be one"):
        apprentice(given, **{**STATEMENTS, "answers": (" yes", "Indeed")})
    bare = [replace(picture, captions=()) for picture in scenes.pictures[:6]]
    with pytest.raises(DataError, match="0 of 6 pictures have a caption; at least 2 are needed"):
        apprentice(replace(given, train=bare))
    nf4 = replace(given, blueprint=blueprint_of(BUNDLED / "mini", quantization="nf4"))
    with pytest.raises(ConfigError, match="need model.quantization=none"):
        apprentice(nf4)


def test_the_command_names_what_was_won_and_answered(probe: Run, tmp_path: Path) -> None:
    quick = ("data.n=30", "dataset.pictures=30", "splits.blocks=4", "train.steps=2", "hydra.run.dir=tuned")
    code, _, err = probe("tune", "target=statements", "target.answers=[' yes',' no']", *quick)
    assert code == 0, err
    with (tmp_path / "tuned" / "held_out.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert {float(row["answered"]) for row in rows} <= {0, 0.5, 1}
    assert all((float(row["against"]) > float(row["loss"])) == (float(row["wins"]) == 1) for row in rows)
