"""Models that follow each other."""

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from mllm_probe.experiment.fill import Models


class Loaded:
    """Holds itself, as models with hooks do."""

    def __init__(self) -> None:
        self.me, self.remarks = self, ()

    def require(self, _: Any) -> None:
        pass

    def keep_dequantised(self) -> None:
        pass


def test_a_model_is_gone_before_the_next_one_takes_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where Python never looks for what holds itself."""
    held: list[weakref.ref[Loaded]] = []

    def load(*_: Any) -> Loaded:
        assert all(one() is None for one in held)
        loaded = Loaded()
        held.append(weakref.ref(loaded))
        return loaded

    monkeypatch.setattr("mllm_probe.models.hf.load_model", load)
    monkeypatch.setattr("mllm_probe.experiment.fill.name_cache", lambda *_: None)
    models, told = Models(SimpleNamespace(note=lambda _: None)), SimpleNamespace(label="m", precision="none")  # type: ignore[arg-type]
    one, two = (
        SimpleNamespace(identity=SimpleNamespace(digest=name), device="cpu", model=told, blueprint=0, stored=0, store=0)
        for name in "ab"
    )
    gc.disable()
    try:
        assert [type(models.get(each)) for each in (one, one, two, one)] == [Loaded] * 4  # type: ignore[arg-type]
    finally:
        gc.enable()
    assert len(held) == 3
