"""The training of the bundled models, in small: a stop at any step changes no weight, and new blocks no answer."""

import json
from collections.abc import Iterator
from pathlib import Path

import mini_steps
import pytest
import torch
import train_mini
from mini_model import make_model, take_over
from tokenizers import Tokenizer
from train_mini import BUNDLED
from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

STEPS = ("--steps", "4", "--eye-steps", "3", "--pictures", "4", "--lr", "1e-3", "--every", "2", "--blocks", "1")


def train(out: Path, monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    words = ["train_mini.py", "base", *STEPS, "--out", str(out), "--state", str(out / "state"), *args]
    monkeypatch.setattr("sys.argv", words)
    train_mini.main()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mini_model.BLOCKS", 1)
    monkeypatch.setattr("train_mini.make_processor", lambda *_: LlavaProcessor.from_pretrained(BUNDLED / "mini_base"))
    monkeypatch.setattr("train_mini.zero_shot", lambda *_: {})


def stopping_at(monkeypatch: pytest.MonkeyPatch, phase: str, step: int) -> None:
    """The process is stopped within this step of the phase."""
    steps = mini_steps.Phase.steps

    def stopped(self: mini_steps.Phase) -> Iterator[int]:
        for at in steps(self):
            yield at
            if (self._name, at) == (phase, step):
                raise KeyboardInterrupt

    monkeypatch.setattr("mini_steps.Phase.steps", stopped)


def weights(out: Path) -> bytes:
    return (out / "mini_base" / "model.safetensors").read_bytes()


def test_a_stopped_training_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "whole", monkeypatch)
    for phase, step in (("eyes", 2), ("base", 0), ("base", 2)):
        out = tmp_path / f"{phase}{step}"
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            stopping_at(patch, phase, step)
            train(out, patch)
        train(out, monkeypatch)
        assert weights(out) == weights(tmp_path / "whole"), (phase, step)


def test_more_steps_may_follow_until_the_rate_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longer, falling = ("--steps", "6"), ("--fall", "2")
    train(tmp_path / "whole", monkeypatch, *longer, *falling)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stopping_at(patch, "base", 2)
        train(tmp_path / "short", patch, *falling)
    train(tmp_path / "short", monkeypatch, *longer, *falling)
    assert weights(tmp_path / "short") == weights(tmp_path / "whole")
    with pytest.raises(SystemExit, match=r"begun with .*'steps': 6.*, not with .*'steps': 8"):
        train(tmp_path / "short", monkeypatch, "--steps", "8", *falling)


def test_a_state_is_gone_on_with_by_the_same_settings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match=r"begun with .*'seed': 0.*, not with .*'seed': 1"):
        train(tmp_path, monkeypatch, "--seed", "1")


def swapped(words: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same words, of which two have each other's ids, and one more."""
    held = json.loads(words.backend_tokenizer.to_str())
    ids = held["model"]["vocab"]
    ids["Ġred"], ids["Ġblue"] = ids["Ġblue"], ids["Ġred"]
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(held)))
    other.add_tokens(["redblue"])
    return other


def test_a_checkpoint_neither_shrinks_nor_more_than_doubles() -> None:
    processor = LlavaProcessor.from_pretrained(BUNDLED / "mini")
    for blocks in (1, 30):
        with pytest.raises(SystemExit, match=f"--blocks={blocks}: .* blocks and can grow to"):
            take_over(make_model(processor, blocks), processor.tokenizer, BUNDLED / "mini")


def test_a_grown_model_answers_as_the_checkpoint_did(monkeypatch: pytest.MonkeyPatch) -> None:
    former = LlavaForConditionalGeneration.from_pretrained(BUNDLED / "mini", dtype=torch.float32)
    processor = LlavaProcessor.from_pretrained(BUNDLED / "mini")
    own, blocks = processor.tokenizer, former.config.text_config.num_hidden_layers
    words = swapped(own)
    monkeypatch.setattr("mini_model.BLOCKS", former.config.vision_config.num_hidden_layers)
    processor.tokenizer = words
    grown = make_model(processor, blocks + 3)
    take_over(grown, words, BUNDLED / "mini")
    adding = [bool(block.mlp.down_proj.weight.any()) for block in grown.model.language_model.layers]
    assert adding == [False, True] * 3 + [True] * (blocks - 3), "the new blocks stand before each of the first three"
    text = "<image>" * 36 + "\nThis image contains: a red ring and a blue ring. Is this right? ASSISTANT:"
    pixels = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        new, old = (
            model(input_ids=torch.tensor([each(text).input_ids]), pixel_values=pixels).logits[0, -1]
            for model, each in ((grown, words), (former, own))
        )
    names = sorted(own.get_vocab())
    torch.testing.assert_close(new[words.convert_tokens_to_ids(names)], old[own.convert_tokens_to_ids(names)])
    vectors = former.model.language_model.embed_tokens.weight
    spelt = vectors[own("redblue", add_special_tokens=False).input_ids].mean(0)
    torch.testing.assert_close(grown.model.language_model.embed_tokens.weight[len(own)], spelt)
