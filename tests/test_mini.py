"""What the model cards of the bundled checkpoints promise, on pictures no training step drew, through nf4."""

from pathlib import Path

import pytest
import torch
from conftest import blueprint_of

from mllm_probe.data.coco import Selection
from mllm_probe.data.scenes import Scenes
from mllm_probe.digests import Digests
from mllm_probe.extract.taps import read_states
from mllm_probe.models.checkpoint import BUNDLED
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.tasks.folds import Folds
from mllm_probe.types import Examples, Key, Sample

NAMES = ("mini", "mini_base")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    place = tmp_path_factory.mktemp("held_out")
    collection = Scenes(pictures=100, seed=11).load(place, Selection(), Digests(place / "digests.json"))
    return Entailment().examples(collection, Folds(blocks=4))


@pytest.mark.parametrize("name", NAMES)
def test_the_checkpoint_is_small_complete_and_described(name: str) -> None:
    files = {path.name: path.stat().st_size for path in (BUNDLED / name).iterdir()}
    assert sum(files.values()) <= 8e6
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md"} <= set(files)
    card = (BUNDLED / name / "README.md").read_text()
    for word in ("Data", "Steps", "Time", "Hardware", "Seed", "Limits", "accuracy"):
        assert word in card


@pytest.mark.parametrize("name", NAMES)
def test_size_and_reach(name: str) -> None:
    blueprint = blueprint_of(BUNDLED / name)
    anatomy = blueprint.anatomy
    assert anatomy.blocks["vision"] >= 8 and anatomy.blocks["lm"] >= 8
    assert all(width % 64 == 0 for width in anatomy.widths.values())
    assert anatomy.max_tokens >= 1024
    assert bool(blueprint.processor.chat_template) == (name == "mini"), "a base model has no chat template"


def yes_or_no(examples: Examples, samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-odds of yes [B] at the last token of each prompt, and the labels [B]."""
    model = blueprint_of(BUNDLED / "mini", quantization="nf4").load("cpu")
    tokenizer = model._blueprint.processor.tokenizer
    yes, no = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in (" yes", " no"))
    key = Key.parse("lm.08.norm@last")
    with torch.inference_mode():
        states = read_states(model, model.collate(samples, [key]), [key], torch.float32).values[key]
        logits = model._model.lm_head(states)
    label = {decision.sample: decision.label for decision in examples.decisions}
    return logits[:, yes] - logits[:, no], torch.tensor([label[sample.uid] for sample in samples])


def test_mini_answers_right_without_a_probe(held_out: Examples) -> None:
    odds, labels = yes_or_no(held_out, list(held_out.samples))
    assert len(labels) >= 390
    assert float(((odds > 0) == (labels > 0)).float().mean()) >= 0.95


def test_the_answer_needs_the_picture(held_out: Examples, tmp_path: Path) -> None:
    """The same statements about a blank picture are answered at chance: matched texts say nothing."""
    from dataclasses import replace

    from PIL import Image

    blank = tmp_path / "blank.png"
    Image.new("RGB", (96, 96), (30, 30, 30)).save(blank)
    samples = [replace(sample, images=(blank,)) for sample in held_out.samples]
    odds, labels = yes_or_no(held_out, samples)
    assert 0.45 <= float(((odds > 0) == (labels > 0)).float().mean()) <= 0.55


def test_two_pictures_are_told_apart(held_out: Examples, tmp_path: Path) -> None:
    """Each true caption asked of the first picture of two: right when it belongs there, wrong when swapped."""
    true = [sample for sample in held_out.samples if held_out.decisions]
    label = {decision.sample: decision.label for decision in held_out.decisions}
    pairs = []
    for sample in true[:200]:
        other = next(s for s in reversed(held_out.samples) if s.group != sample.group)
        start, stop = sample.marks["caption"]
        text = f"The first image contains: {sample.text[start:stop]}. Is this right?"
        both = Sample(sample.uid, sample.images + other.images, sample.digests + other.digests, text, {})
        pairs.append((both, label[sample.uid]))
    odds, _ = yes_or_no(held_out, [both for both, _ in pairs])
    wanted = torch.tensor([value for _, value in pairs])
    assert float(((odds > 0) == (wanted > 0)).float().mean()) >= 0.75
