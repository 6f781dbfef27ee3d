"""What is kept for the same command, a bit of it flipped: named and made again, never read in silence."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mllm_probe.config.tune import TrainSettings
from mllm_probe.files.seals import read_sealed, save_sealed
from mllm_probe.files.store_paths import PartPaths, TrainingPaths
from mllm_probe.fitting.resume import Parts
from mllm_probe.fitting.trials import Trial
from mllm_probe.records.sites import Key
from mllm_probe.train.loop import train
from tests.support.edits import unsealed
from tests.support.runs import Silent
from tests.support.straight_line import Line

SETTINGS = TrainSettings(steps=4, lr=0.1, save_every=1)
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "none": torch.zeros(0, 2)}


def flip(path: Path, place: int) -> None:
    """The lowest bit of a byte, as a disk or a copy may."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_each_bit_of_a_sealed_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "sealed.safetensors"
    save_sealed(path, TENSORS, {"uids": '["x"]'})
    found, metadata = read_sealed(path, lambda name: name != "b")
    assert metadata == {"uids": '["x"]'} and set(found) == {"a", "none"} and torch.equal(found["a"], TENSORS["a"])
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [whole.index(b'[\\"x') + 3, whole.index(b'"a"') + 1, whole.index(b"[2,3]") + 1, header, len(whole) - 1]
    for place in places:
        flip(path, place)
        with pytest.raises(ValueError, match="."):
            read_sealed(path)
        path.write_bytes(whole)
    unsealed(path)
    assert read_sealed(path)[1] == metadata, "files of older releases are read"


def test_a_state_with_a_flipped_bit_is_named_and_the_training_begins_anew(tmp_path: Path) -> None:
    paths, again, said = TrainingPaths(tmp_path), Line(), Silent()
    expected = train(Line(), SETTINGS, paths, Silent())
    flip(paths.state, -1)
    assert train(again, SETTINGS, paths, said) == expected
    assert said.notes == [f"{paths.state} is damaged (it differs from what was written), so the training starts again"]
    unsealed(paths.state)
    assert train(Line(), SETTINGS, paths, said) == expected and len(said.notes) == 1


def test_a_part_with_a_flipped_bit_is_fitted_again(tmp_path: Path) -> None:
    arrays = {"weights": np.arange(5.0)}
    trial = Trial(
        Key.parse("lm.01@last"), "", "logistic", 0, np.arange(3, dtype=np.float32), {"converged": 1.0}, arrays
    )
    paths, made = PartPaths(tmp_path / "parts"), []
    for place in (None, -1, -45):  # nothing, a logit or a weight, another of them
        if place is not None:
            flip(paths.part("lm.01@last"), place)
        (found,) = Parts(paths).get("lm.01@last", lambda: made.append(1) or [trial])  # type: ignore[func-returns-value]
        assert np.array_equal(found.logits, trial.logits)
    assert len(made) == 3
    unsealed(paths.part("lm.01@last"))
    Parts(paths).get("lm.01@last", lambda: pytest.fail("it is there"))
    assert json.loads(read_sealed(paths.part("lm.01@last"))[1]["trials"])
