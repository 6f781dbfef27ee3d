"""Training a connector: the formulas by hand, the loop against a plain one, kills, checkpoints that load elsewhere."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

from mllm_probe.commands.tune import tune
from mllm_probe.config.compose import composed
from mllm_probe.config.tune import TrainSettings
from mllm_probe.errors import ConfigError, TrainError
from mllm_probe.features.recipes import KINDS, integrate, recipe
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.store_paths import TrainingPaths
from mllm_probe.models.caption_loss import captioned, losses
from mllm_probe.models.dense_connector import PROJECTOR, DenseLlavaForConditionalGeneration, fit_processor, reduced
from mllm_probe.models.hf import load_model
from mllm_probe.records.samples import Collection
from mllm_probe.train import loop
from mllm_probe.train.loop import Learner, share, train
from mllm_probe.train.material import Material
from mllm_probe.train.order import rows_of
from mllm_probe.vision.connector import ConnectorApprentice, ConnectorTuning
from tests.support.checkpoints import blueprint_of
from tests.support.runs import Run, Silent
from tests.support.straight_line import Line

SETTINGS = TrainSettings(steps=4, batch=6, micro_batch=4, save_every=1)


@pytest.mark.parametrize(
    ("final", "groups", "tokens", "own"),
    [(23, [range(12), range(12, 24)], 720, 576), (26, [range(13), range(13, 26)], 911, 729)],
)
def test_the_papers_towers(final: int, groups: Sequence[range], tokens: int, own: int) -> None:
    """CLIP ViT-L/14-336 and SigLIP so400m/14-384, as the released code reads them."""
    for kind in ("sti", "sci"):
        assert recipe(kind, final).groups == ((7,), (15,))
    assert [range(g[0], g[-1] + 1) for g in recipe("dci", final).groups] == groups
    assert recipe("sti", final).tokens(own) == tokens and recipe("sci", final).tokens(own) == own
    assert (recipe("sti", final).width, recipe("sci", final).width, recipe("dci", final).width) == (1, 3, 3)


def test_integrations_equal_naive_loops() -> None:
    rng = np.random.default_rng(0)
    states = {layer: rng.normal(size=(2, 11, 3)) for layer in range(9)}
    tensors = {layer: torch.from_numpy(value) for layer, value in states.items()}
    final = states[8]
    pooled = [states[n][:, 4 * i : 4 * i + 4].mean(axis=1, keepdims=True) for n in (2, 5) for i in range(2)]
    np.testing.assert_allclose(integrate(tensors, recipe("sti", 8, pooled=4)), np.concatenate([final, *pooled], axis=1))
    np.testing.assert_allclose(
        integrate(tensors, recipe("sci", 8)), np.concatenate([final, states[2], states[5]], axis=2)
    )
    means = [sum(states[n] for n in group) / 4 for group in (range(4), range(4, 8))]
    np.testing.assert_allclose(integrate(tensors, recipe("dci", 8)), np.concatenate([final, *means], axis=2))
    assert integrate(tensors, recipe("mlp", 8)) is not None
    np.testing.assert_array_equal(integrate(tensors, recipe("mlp", 8)), final)


def test_fewer_tokens() -> None:
    tokens = torch.arange(2 * 16 * 3, dtype=torch.float32).reshape(2, 16, 3) ** 1.5
    grid = tokens.reshape(2, 2, 2, 2, 2, 3)
    torch.testing.assert_close(reduced(tokens, "halved"), grid.mean(dim=(2, 4)).reshape(2, 4, 3))
    torch.testing.assert_close(reduced(tokens, "frames"), tokens.reshape(2, 8, 2, 3).amax(dim=2))


def test_the_rate_rises_and_falls() -> None:
    found = [share(step, 103, 0.03) for step in range(103)]
    assert found[:4] == [0.25, 0.5, 0.75, 1.0] and found[4] == 1.0
    assert found[53] == pytest.approx((1 + np.cos(np.pi * 49 / 99)) / 2)
    assert all(a > b for a, b in pairwise(found[4:])) and 0 < found[-1] < 0.001


def test_every_example_once_an_epoch() -> None:
    seen = [row for step in range(5) for row in rows_of(step, 4, 10, seed=1)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:] and seen != [row for step in range(5) for row in rows_of(step, 4, 10, seed=2)]


def test_the_loop_is_adamw(tmp_path: Path) -> None:
    settings = TrainSettings(steps=7, lr=0.1, warmup=0.3, weight_decay=0.1, clip=0.5)
    line, w = Line(), nn.Parameter(torch.ones(3))
    found = train(line, settings, TrainingPaths(tmp_path), Silent())
    optimiser = torch.optim.AdamW([w], lr=0.1, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: share(step, 7, 0.3))
    for step in range(7):
        torch.manual_seed(step)
        optimiser.zero_grad()
        loss = ((w - torch.randn(3)) ** 2).sum()
        loss.backward()
        assert found[step]["loss"] == float(loss.detach())
        nn.utils.clip_grad_norm_([w], 0.5)
        optimiser.step()
        schedule.step()
    torch.testing.assert_close(line.w, w, rtol=0, atol=0)


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path: Path, stop: int) -> None:
    settings = TrainSettings(steps=6, lr=0.1, save_every=2)
    whole = Line()
    expected = train(whole, settings, TrainingPaths(tmp_path / "whole"), Silent())
    with pytest.raises(KeyboardInterrupt):
        train(Line(stop), settings, TrainingPaths(tmp_path / "killed"), Silent())
    again = Line()
    assert train(again, settings, TrainingPaths(tmp_path / "killed"), Silent()) == expected
    assert torch.equal(again.w, whole.w)


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="the loss of step 9 is nan; the last good state is kept: lower train.lr"):
        train(Line(), TrainSettings(steps=20, save_every=9), TrainingPaths(tmp_path), Silent())
    assert TrainingPaths(tmp_path).state.exists()


def material(checkpoint: Path, scenes: Collection, settings: TrainSettings = SETTINGS, **model: object) -> Material:
    blueprint = blueprint_of(checkpoint, chat="off", **model)
    return Material(
        blueprint, load_model(blueprint, "cpu").network, "cpu", scenes.pictures[:4], scenes.pictures[4:7], settings
    )


def apprentice(kind: str, given: Material, **options: object) -> ConnectorApprentice:
    target = ConnectorTuning(kind, **options)  # type: ignore[arg-type]
    learnt, judged = target.examples(given)
    return target.apprentice(replace(given, learnt=learnt, judged=judged))


def test_the_loss_is_transformers_own(checkpoint: Path, scenes: Collection) -> None:
    """Prompt by prompt, unpadded, by the labels that a model takes; the caption and its end are predicted, no more."""
    given = material(checkpoint, scenes)
    given.network.requires_grad_(False)
    rows = [(picture, picture.captions[0]) for picture in scenes.pictures[:3]]
    batch = captioned(given.blueprint, rows)
    found = losses(given.network, batch, "cpu")
    tokenizer = given.blueprint.processor.tokenizer
    for i, row in enumerate(rows):
        alone = captioned(given.blueprint, [row])
        own = given.network(**alone.inputs, labels=alone.labels)
        assert float(found[i]) / batch.counts[i] == pytest.approx(float(own.loss), rel=1e-5)
        said = tokenizer.decode(batch.labels[i][batch.labels[i] != -100])
        assert said == row[1] + tokenizer.eos_token


def test_cutting_a_step_up_changes_nothing_but_rounding(checkpoint: Path, scenes: Collection) -> None:
    gradients = []
    for micro in (1, 6):
        one = apprentice("dci", material(checkpoint, scenes, replace(SETTINGS, micro_batch=micro)))
        loss = one.backward(0)["loss"]
        gradients.append([loss, *(value.grad for value in one.parameters().values())])
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-5)
    for a, b in zip(gradients[0][1:], gradients[1][1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "options", "tokens"),
    [
        *((kind, {}, 16 + 4 * (kind == "sti")) for kind in KINDS),
        ("dci", {"reduction": "halved"}, 4),
        ("mlp", {"reduction": "frames"}, 8),
    ],
)
def test_only_the_connector_moves_and_the_checkpoint_says_what_the_trained_model_says(
    checkpoint: Path, scenes: Collection, tmp_path: Path, kind: str, options: dict[str, object], tokens: int
) -> None:
    given = material(checkpoint, scenes)
    before = {name: value.clone() for name, value in given.network.state_dict().items() if "projector" not in name}
    one = apprentice(kind, given, **options)
    start = [value.detach().clone() for value in one.parameters().values()]
    train(one, SETTINGS, TrainingPaths(tmp_path / "state"), Silent())
    assert all(not torch.equal(a, b) for a, b in zip(start, one.parameters().values(), strict=True))
    after = given.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    one.save(tmp_path / "made")
    plain = kind != "sti" and not options
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "made", dtype=torch.float32)
    assert type(loaded) is (LlavaForConditionalGeneration if plain else DenseLlavaForConditionalGeneration)
    blueprint = blueprint_of(tmp_path / "made", chat="off")
    rows = [(picture, picture.captions[0]) for picture in given.test]
    batch = captioned(blueprint, rows)
    assert [int((ids == 3).sum()) for ids in batch.inputs["input_ids"]] == [tokens] * 3
    held = {(row.picture, row.item): row.loss for row in one.held_out()}
    found = losses(loaded.eval().requires_grad_(False), batch, "cpu").tolist()
    assert found == pytest.approx([held[picture.digest, 0] for picture, _ in rows], rel=1e-5)


@pytest.fixture(scope="module")
def half(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as most are: stored in float16."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("half") / "llava")
    LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float16).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "options", "model"),
    [
        ("dci", {}, {}),
        ("sci", {}, {"quantization": "nf4"}),
        ("dci", {}, {"dtype": "bfloat16", "quantization": "nf4"}),
        ("sti", {}, {"dtype": "bfloat16"}),
        ("mlp", {"reduction": "frames"}, {"dtype": "bfloat16"}),
    ],
)
def test_what_is_scored_is_what_was_saved(
    half: Path, scenes: Collection, tmp_path: Path, kind: str, options: dict[str, object], model: dict[str, object]
) -> None:
    given = material(half, scenes, **model)
    one = apprentice(kind, given, **options)
    train(one, SETTINGS, TrainingPaths(tmp_path / "state"), Silent())
    rows, trained = one.held_out(), [value.detach().clone() for value in one.parameters().values()]
    one.save(tmp_path / "made")
    blueprint = blueprint_of(tmp_path / "made", chat="off", **model)
    fresh = load_model(blueprint, "cpu").network.requires_grad_(False)
    told = [
        (picture, picture.captions[row.item]) for row in rows for picture in given.test if picture.digest == row.picture
    ]
    batches = [told[i : i + SETTINGS.micro_batch] for i in range(0, len(told), SETTINGS.micro_batch)]
    found = [loss for batch in batches for loss in losses(fresh, captioned(blueprint, batch), "cpu").tolist()]
    assert found == pytest.approx([row.loss for row in rows], rel=1e-6)
    stored = load_file(tmp_path / "made" / "model.safetensors")
    assert {value.dtype for name, value in stored.items() if PROJECTOR not in name} == {torch.float16}
    (last,) = [value for name, value in stored.items() if name.endswith(f"{PROJECTOR}.linear_2.weight")]
    assert torch.equal(last, trained[2]), "float32, as it was trained"
    bare = AutoModelForImageTextToText.from_pretrained(tmp_path / "made")
    assert {value.dtype for value in bare.parameters()} == {torch.float16}
    again = [row.loss for row in one.held_out()]
    assert again == [row.loss for row in rows] and all(map(torch.equal, trained, one.parameters().values()))


def test_arms_with_the_same_seed_and_another(checkpoint: Path, scenes: Collection) -> None:
    draw = [
        next(iter(apprentice("sci", material(checkpoint, scenes, replace(SETTINGS, seed=seed))).parameters().values()))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])


def test_the_command_trains_and_run_probes_what_it_left(probe: Run, tmp_path: Path) -> None:
    small = ("data.n=40", "dataset.pictures=40", "splits.blocks=4")
    quick = (*small, "train.steps=6", "train.batch=8", "connector=sti", "hydra.run.dir=tuned")
    code, _, err = probe("tune", *quick)
    assert code == 0, err
    folder = tmp_path / "tuned"
    table = pd.read_csv(folder / "losses.csv")
    assert list(table.columns) == ["step", "lr", "loss", "tokens", "gradient"] and len(table) == 6
    held, said = pd.read_csv(folder / "held_out.csv"), json.loads((folder / "summary.json").read_text())
    assert said["held_out"] == pytest.approx(held.loss.sum() / held.tokens.sum())
    assert said["low"] < said["held_out"] < said["high"] and "nats a token" in err
    assert not list((tmp_path / "outputs").glob("unfinished/*")) and (folder / "losses.png").exists()
    page = (folder / "report.html").read_text()
    assert "connector: sti" in page and "digests" not in page, "digests are for programs"
    bytes_of = (folder / "losses.csv").read_bytes()
    code, _, err = probe("tune", *quick)
    assert code == 0 and (folder / "losses.csv").read_bytes() == bytes_of
    code, out, err = probe(
        "run", "model=custom", f"model.path={folder / 'checkpoint'}", "model.dtype=float32", "experiment=smoke", *small
    )
    assert code == 0, err
    assert "connector" in out and "lm.08" in out


@pytest.mark.parametrize("killed", [False, True])
def test_equal_trainings_at_once_train_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool) -> None:
    """The second waits, then has the first one's states; where the first is killed it goes on from the last of them."""
    small = ("data.n=40", "dataset.pictures=40", "splits.blocks=4", "train.steps=4", "train.batch=8")
    config = composed("tune", [*small, "train.save_every=1", "connector=sti", f"paths.outputs={tmp_path / 'outputs'}"])
    said, step, taken, other = Silent(), loop._step, [], []

    def counted(learner: Learner, number: int, *more: Any) -> dict[str, float]:
        taken.append(number)
        if len(taken) == 1:
            other.append(threading.Thread(target=begin, args=("two", said)))
            other[0].start()
            while not any("trains the same: waiting for it" in note for note in said.notes):
                assert other[0].is_alive()
                time.sleep(0.05)
        if killed and len(taken) == 3:
            raise KeyboardInterrupt
        return step(learner, number, *more)

    def begin(name: str, reporter: Silent) -> None:
        (tmp_path / name).mkdir()
        tune(config, RunPaths(tmp_path / name), reporter)

    monkeypatch.setattr(loop, "_step", counted)
    with pytest.raises(KeyboardInterrupt) if killed else nullcontext():
        begin("one", Silent())
    other[0].join(120)
    assert taken == ([0, 1, 2, 2, 3] if killed else [0, 1, 2, 3])
    assert len(pd.read_csv(tmp_path / "two" / "losses.csv")) == 4
    if not killed:
        for name in ("losses.csv", "held_out.csv", "checkpoint/model.safetensors"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert not list(tmp_path.glob("outputs/unfinished/*"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("connector=stj",), "connector=stj is unknown; did you mean 'sti'? choose one of: dci, mlp, sci, sti"),
        (("target.layers=[9]", "connector=sci"), "sci joins layers below the final one, 0 to 7 here, and not 9"),
        (("target.groups=10",), "9 layers cannot be cut into 10 groups; choose 1 to 9"),
        (("target.reduction=halve",), "target.reduction=halve is unknown; did you mean 'halved'?"),
        (("target.reduction=halved", "connector=sti"), "target.reduction=halved needs one square grid of an even side"),
        (("train.batch=0",), "train.batch=0 must be 1 to 100,000"),
        (("train.lr=0",), "train.lr=0.0 must be above 0"),
        (("train.warmup=1",), "train.warmup=1.0 must be at least 0 and below 1"),
        (
            ("model.quantize=[lm,connector]",),
            "target=connector trains a connector in float32, but model.quantize=['lm', 'connector'] names it",
        ),
    ],
)
def test_bad_settings_are_one_sentence(probe: Run, tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    code, _, err = probe("tune", "data.n=40", "dataset.pictures=40", "splits.blocks=4", *args)
    assert code == 1 and message in err.strip().splitlines()[-1]
    assert not list(tmp_path.glob("outputs/tune/*/*/checkpoint"))


def test_a_model_without_such_a_connector(probe: Run, tmp_path: Path) -> None:
    from tests.support.families import FAMILIES

    folder = FAMILIES["qwen2_5_vl"](tmp_path / "qwen")
    code, _, err = probe("tune", "model=custom", f"model.path={folder}", "data.n=40", "dataset.pictures=40")
    assert code == 1 and "has no connector that can be exchanged; take a LLaVA checkpoint" in err


@pytest.mark.parametrize(
    ("kind", "reduction", "tokens"), [("dci", "none", 20), ("sti", "none", 24), ("dci", "frames", 10)]
)
def test_registers_of_a_tower_are_tokens_of_its_connector(kind: str, reduction: str, tokens: int) -> None:
    """A class token, which `default` drops, and four registers beside 4 x 4 patches."""
    config = LlavaConfig(vision_config=CLIPVisionConfig(image_size=32, patch_size=8))
    processor = SimpleNamespace(num_additional_image_tokens=5, vision_feature_select_strategy="default")
    fit_processor(processor, config, recipe(kind, 6), reduction)
    assert 16 + processor.num_additional_image_tokens - 1 == tokens
    with pytest.raises(ConfigError, match="needs one square grid .* on 4 x 4 patches and .* other tokens has none"):
        fit_processor(processor, config, recipe("dci", 6), "halved")


def test_a_checkpoint_of_the_connectors_own_class_is_known_to_a_new_process(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "dense_llava"}')
    code = f"from mllm_probe.models.loading.classes import *; print(type(load_config(Path({str(tmp_path)!r}), False)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "DenseLlavaConfig" in said.stdout, said.stderr


def test_recipes_refuse_what_is_no_layer() -> None:
    with pytest.raises(ConfigError, match="sti joins layers below the final one, 0 to 22 here, and not 23"):
        recipe("sti", 23, layers=[23])
