"""The training of the bundled models, in small: a stop at any step changes no weight."""

from collections.abc import Iterator
from pathlib import Path

import mini_steps
import pytest
import train_mini
from train_mini import BUNDLED
from transformers import LlavaProcessor

STEPS = ("--steps", "4", "--eye-steps", "3", "--pictures", "4", "--lr", "1e-3", "--every", "2")


def train(out: Path, monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    words = ["train_mini.py", "base", *STEPS, "--out", str(out), "--state", str(out / "state"), *args]
    monkeypatch.setattr("sys.argv", words)
    train_mini.main()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mini_model.BLOCKS", 1)
    monkeypatch.setattr("train_mini.make_processor", lambda _: LlavaProcessor.from_pretrained(BUNDLED / "mini_base"))
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


def test_a_state_is_gone_on_with_by_the_same_settings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match=r"begun with .*'seed': 0.*, not with .*'seed': 1"):
        train(tmp_path, monkeypatch, "--seed", "1")
