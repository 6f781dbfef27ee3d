"""What a device cannot do is refused before anything is loaded onto it. Cards are described here, not used."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from mllm_probe.config.model import ModelSettings
from mllm_probe.errors import ConfigError, ModelError
from mllm_probe.extraction.taps import read_states
from mllm_probe.models.caption_loss import captioned, losses
from mllm_probe.models.hf import load_model
from mllm_probe.models.loading.device import check_bfloat16, check_device, check_placed, device_map
from mllm_probe.records.samples import Collection, Sample
from mllm_probe.records.sites import Key
from tests.support.checkpoints import blueprint_of
from tests.support.runs import Run, tiny


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
    told = rf"{name} \(compute capability 7.\d\) has no bfloat16, which needs 8.0 or more; use model.dtype=float16"
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


def test_float32_is_float32_on_cards() -> None:
    """cuDNN's convolutions, with which towers cut pictures into patches, otherwise round what they read to 10 bits."""
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_cards_give_the_states_of_the_cpu(checkpoint: Path, samples: Sequence[Sample], quantization: str) -> None:
    keys = [Key.parse(name) for name in ("vision.03@mean_image", "connector@mean_image", "lm.04@last")]
    here, there = (load_model(blueprint_of(checkpoint, quantization=quantization), name) for name in ("cpu", "cuda"))
    same, together = (read_states(one, one.collate(samples, keys), keys, torch.float32).values for one in (here, there))
    alone = [read_states(there, there.collate([sample], keys), keys, torch.float32).values for sample in samples]
    for key in keys:
        norm = float(together[key].norm())
        assert float((torch.cat([one[key] for one in alone]) - together[key]).norm()) < 1e-5 * norm
        if quantization == "none":  # what is rounded may lie on an edge, and round to the other side
            assert float((same[key] - together[key]).norm()) < 1e-5 * norm


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cards_say_a_loss_the_same_each_time(checkpoint: Path, scenes: Collection) -> None:
    blueprint = blueprint_of(checkpoint, chat="off")
    network = load_model(blueprint, "cuda").network.requires_grad_(False)
    batch = captioned(blueprint, [(picture, picture.captions[0]) for picture in scenes.pictures])
    first, *others = [losses(network, batch, "cuda") for _ in range(5)]
    assert all(torch.equal(first, other) for other in others)
