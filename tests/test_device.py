"""What a device cannot do is refused before anything is loaded onto it. Cards are described here, not used."""

from pathlib import Path

import pytest
import torch
from conftest import Run, blueprint_of, tiny

from mllm_probe.errors import ConfigError, ModelError
from mllm_probe.models.device import check_bfloat16, check_device, check_placed, device_map
from mllm_probe.settings import ModelSettings


def test_placements_need_cards(probe: Run, checkpoint: Path) -> None:
    code, _, err = probe("run", *tiny(checkpoint), "model.placement=spread", "experiment=smoke", "data.n=30")
    assert code == 1 and "model.placement=spread places a model on CUDA cards, and device is cpu" in err
    code, _, err = probe("run", *tiny(checkpoint), "model.placement=everywhere")
    assert code == 1 and "model.placement=everywhere is unknown; choose one of: offload, one, spread" in err
    assert device_map(ModelSettings(placement="one"), "cuda") == {"": "cuda"}
    assert device_map(ModelSettings(placement="offload"), "cuda") == "auto"
    with pytest.raises(ConfigError, match="use model.placement=one"):
        check_device(ModelSettings(placement="offload"), "cpu")


def test_parts_beside_the_cards_are_refused_unless_allowed() -> None:
    placed: dict[str, object] = {"vision": 0, "lm.layers.0": 1, "lm.layers.1": "cpu", "lm_head": "disk"}
    with pytest.raises(ModelError, match=r"2 of 4 parts of the model do not fit on the cards \(lm.layers.1, lm_head\)"):
        check_placed(placed, ModelSettings(placement="spread"))
    check_placed(placed, ModelSettings(placement="offload"))
    check_placed({"vision": 0, "lm": 1}, ModelSettings(placement="spread"))


@pytest.mark.parametrize(("name", "capability"), [("Tesla V100", (7, 0)), ("Tesla T4", (7, 5))])
def test_a_card_without_bfloat16_is_named(name: str, capability: tuple[int, int]) -> None:
    told = rf"{name} \(compute capability 7.\d\) has no bfloat16, which begins with 8.0; use model.dtype=float16"
    with pytest.raises(ModelError, match=told):
        check_bfloat16(name, capability)
    check_bfloat16("A100", (8, 0))
    check_bfloat16("H100", (9, 0))


def test_every_card_that_a_model_lies_on_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch says of a T4, too, that it supports bfloat16."""
    cards = [("A100", (8, 0)), ("Tesla T4", (7, 5))]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda card: cards[card][0])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda card: cards[card][1])
    check_device(ModelSettings(dtype="bfloat16"), "cuda")
    check_device(ModelSettings(dtype="float16", placement="spread"), "cuda")
    with pytest.raises(ModelError, match="Tesla T4"):
        check_device(ModelSettings(dtype="bfloat16", placement="spread"), "cuda")


def test_weights_that_do_not_fit_are_one_sentence(checkpoint: Path) -> None:
    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 14.00 GiB.\nGPU 0 has ...")

    with pytest.raises(
        ModelError, match="does not fit into the memory of the device; use model.quantization=nf4"
    ) as found:
        blueprint_of(checkpoint).guarded("model", full)
    assert "\n" not in str(found.value)


def test_the_commit_of_a_hub_checkpoint_is_known(tmp_path: Path, checkpoint: Path) -> None:
    place = tmp_path / "models--some--model" / "snapshots" / "0a1b2c"
    place.parent.mkdir(parents=True)
    place.symlink_to(checkpoint)
    assert blueprint_of(place).revision == "0a1b2c" and blueprint_of(checkpoint).revision is None
