"""What the model cards of the bundled checkpoints promise, on pictures no training step drew, through nf4."""

from dataclasses import replace
from pathlib import Path

import pytest
from check_mini import accuracy, held_out, load_mini
from PIL import Image

from mllm_probe.models.hf import HFModel
from mllm_probe.models.loading.checkpoint import BUNDLED
from mllm_probe.records.samples import Examples, Sample
from mllm_probe.tasks.entailment import Entailment
from tests.support.checkpoints import blueprint_of

NAMES = ("mini", "mini_base")


@pytest.fixture(scope="module")
def nf4() -> HFModel:
    return load_mini("nf4")


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return held_out(Entailment(), 150, 12, tmp_path_factory.mktemp("held_out"))


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
    assert anatomy.blocks == {"vision": 8, "lm": 12}
    assert all(width % 64 == 0 for width in anatomy.widths.values())
    assert anatomy.max_tokens >= 1024
    assert bool(blueprint.processor.chat_template) == (name != "mini_base"), "a base model has no chat template"


def test_mini_answers_right_without_a_probe(nf4: HFModel, examples: Examples) -> None:
    assert len(examples.decisions) >= 590
    assert accuracy(nf4, examples) >= 0.95


def test_the_answer_needs_the_picture(nf4: HFModel, examples: Examples, tmp_path: Path) -> None:
    """The same statements about a blank picture are answered at chance: matched texts say nothing."""
    blank = tmp_path / "blank.png"
    Image.new("RGB", (96, 96), (30, 30, 30)).save(blank)
    blind = replace(examples, samples=tuple(replace(sample, images=(blank,)) for sample in examples.samples))
    assert accuracy(nf4, blind) == 0.5


def test_prompts_with_two_pictures_are_answered(nf4: HFModel, examples: Examples) -> None:
    """The same picture twice, so that first and second need not be told apart (the card says it cannot do that)."""
    twice = []
    for sample in examples.samples:
        start, stop = sample.marks["caption"]
        text = f"The first image contains: {sample.text[start:stop]}. Is this right?"
        twice.append(Sample(sample.uid, sample.images * 2, sample.digests * 2, text, {}))
    assert accuracy(nf4, replace(examples, samples=tuple(twice))) >= 0.9
