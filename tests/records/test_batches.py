"""Batches on their way to a card. There is none here, so pinning is a copy that is remembered."""

import numpy as np
import pytest
import torch

from mllm_probe.extraction.taps import Pooling
from mllm_probe.records.batches import Batch, Reading


def test_inputs_and_indices_are_pinned_in_the_workers_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        pinned.append(copy.data_ptr())
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    reading = Reading.of([[[0, 1], [3]], [[2, 4, 5]]], among=6)
    batch = Batch(("a", "b"), {"input_ids": torch.arange(6)}, {("lm", "mean_all"): reading}, names=("one", "two"))
    moved = batch.pinned()
    found = moved.readings["lm", "mean_all"]
    arrays = (moved.inputs["input_ids"].numpy(), found.tokens, found.segments)
    assert [array.__array_interface__["data"][0] for array in arrays] == pinned
    assert (moved.uids, moved.names, found.among) == (batch.uids, batch.names, 6)
    states = torch.randn(6, 3)
    assert torch.equal(Pooling(found)(states), Pooling(reading)(states))
    assert np.array_equal(found.rows, reading.rows)
