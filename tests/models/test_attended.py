"""Rows of attention against transformers' own eager attention, of families that differ in how they attend.

The oracle is a model loaded apart, which returns the whole matrices; it knows pictures by their token id and the end of
a prompt by its length.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mllm_probe.errors import ModelError
from mllm_probe.models import attended
from mllm_probe.models.attended import Reader, rows_of, unreadable
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.models.tails.blocks import Blocks
from mllm_probe.records.samples import Picture, Sample
from tests.support.checkpoints import blueprint_of
from tests.support.families_more import BUILDERS, SETTINGS

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of PaliGemma's processor
KINDS = {
    "llava_next": {},  # heads with keys of their own
    "llava": {},
    "qwen2_5_vl": {"num_key_value_heads": 2},  # grouped, positions in three axes
    "gemma3": {"num_key_value_heads": 2},  # norms of queries and keys, pictures see ahead
    "paligemma2": {"num_key_value_heads": 1, "attn_logit_softcapping": 2.0},  # slides, caps scores, sees the text
    "internvl": {"num_key_value_heads": 2},
}
TEXTS = "Is there a zebra in this image?", "Is there a zebra in this image, or rather something else?"


@pytest.fixture(scope="module", params=KINDS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family's tiny checkpoint, whose language model attends in the way that is looked at."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("tests.support.families", "tests.support.families_more"):
            patch.setattr(f"{module}.TEXT", __import__(module, fromlist=["TEXT"]).TEXT | KINDS[request.param])
        folder = tmp_path_factory.mktemp("attended") / request.param
        return BUILDERS[request.param](folder)


@pytest.fixture(scope="module")
def family(built: Path) -> HFModel:
    return _loaded(built)


def _loaded(folder: Path, **more: str) -> HFModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return load_model(blueprint_of(folder, **SETTINGS.get(folder.name, {}) | more), "cpu")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Two questions of different length about one picture, so that a pass pads one of them."""
    path = tmp_path_factory.mktemp("pair") / "one.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
    return [Sample.of([Picture("one", path, "one")], text, {}) for text in TEXTS]


@pytest.fixture(scope="module")
def eager(built: Path, pair: list[Sample]) -> list[np.ndarray]:
    """Of each prompt alone all of its attention [B, H, L, L]."""
    model, found = _loaded(built, attn="eager"), []
    for sample in pair:
        inputs = model.moved(model._blueprint.process([sample]))
        with torch.inference_mode():
            whole = model.network(**inputs, output_attentions=True).attentions
        found.append(torch.stack([each[0] for each in whole]).numpy())
    return found


@pytest.mark.parametrize(("attn", "together", "most"), [("eager", 1, 1e-6), ("sdpa", 2, 1e-5)])
def test_rows_equal_those_of_eager_attention(
    built: Path, pair: list[Sample], eager: list[np.ndarray], attn: str, together: int, most: float
) -> None:
    """Last tokens, and the mean over the tokens of a statement. By another implementation, and of padded prompts, the
    states themselves are rounded otherwise, and these weights are wide."""
    family = _loaded(built, attn=SETTINGS.get(built.name, {}).get("attn", attn))
    reader = Reader(family, family._blueprint, (1, 2, 3, 4), heads=True)
    parts = [pair[i : i + together] for i in range(0, 2, together)]
    found = [one for part in parts for one in reader.read(part, ("last", "statement"))]
    assert len(found) == 2 and len({one.mean.shape[-1] for one in found}) == 2
    for sample, one, whole in zip(pair, found, eager, strict=True):
        ids, tail = one.layout.ids, family._blueprint.processor.tokenizer
        assert one.mean.shape == (4, 2, len(ids)) and whole.shape[-1] == len(ids)
        assert np.abs(one.mean[:, 0] - whole[:, :, -1].mean(1)).max() < most
        own = [i for i in range(len(ids) - 1) if _inside(sample, one, i)]
        assert tail.decode([ids[i] for i in own]).strip() == sample.text
        assert np.abs(one.mean[:, 1] - whole[:, :, own].mean(2).mean(1)).max() < most
        image = list(one.layout.image)
        assert np.abs(one.heads[:, 0] - whole[:, :, -1, image]).max() < most
        assert np.abs(one.heads[:, 1] - whole[:, :, own].mean(2)[..., image]).max() < most
        assert np.allclose(one.heads.mean(2), one.picture, atol=1e-7)
        assert one.mean.sum(-1) == pytest.approx(np.ones((4, 2)), abs=1e-5)


def _inside(sample: Sample, one: Any, token: int) -> bool:
    """By the characters of the tail."""
    place = token - len(one.layout.head)
    if not 0 <= place < len(one.layout.tail.offsets):
        return False
    start, stop = one.layout.tail.offsets[place]
    return start < len(sample.text) and stop > max(start, 0)


def test_reading_changes_no_bit_and_leaves_nothing_behind(
    family: HFModel, pair: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = dict(family._blueprint.process(pair))
    with torch.inference_mode():
        before = Blocks(family).run(inputs, None)
    tops: list[torch.Tensor] = []
    run = Blocks.run
    monkeypatch.setattr(Blocks, "run", lambda self, *args, **more: tops.append(run(self, *args, **more)) or tops[-1])
    there = dict(ALL_ATTENTION_FUNCTIONS)
    list(Reader(family, family._blueprint, (1, 2, 3, 4)).read(pair, ("last",)))
    assert len(tops) == 1 and torch.equal(before, tops[0])
    assert dict(ALL_ATTENTION_FUNCTIONS) == there


def test_a_block_alone_reads_as_all_of_them(family: HFModel, pair: list[Sample]) -> None:
    every = next(Reader(family, family._blueprint, (1, 2, 3, 4)).read(pair[:1], ("last",)))
    third = next(Reader(family, family._blueprint, (3,)).read(pair[:1], ("last",)))
    assert np.array_equal(every.mean[2:3], third.mean) and third.heads is None


def test_no_mask_hides_later_tokens_and_one_to_add_does_what_a_bool_does() -> None:
    """Against a loop over rows, heads and keys."""
    torch.manual_seed(0)
    query, key, rows = torch.randn(2, 4, 5, 3), torch.randn(2, 2, 5, 3), torch.tensor([[1, 4], [2, 3]])
    naive = torch.zeros(2, 4, 2, 5)
    for r in range(2):
        for h in range(4):
            for q in range(2):
                scores = [float(query[r, h, rows[r, q]] @ key[r, h // 2, k]) / 3**0.5 for k in range(rows[r, q] + 1)]
                weights = torch.tensor(scores).exp()
                naive[r, h, q, : len(scores)] = weights / weights.sum()
    seen = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    added = torch.zeros(1, 1, 5, 5).masked_fill(~seen, torch.finfo(torch.float32).min)
    for mask in (None, seen, added):
        assert torch.allclose(rows_of(query, key, rows, mask, None, None), naive, atol=1e-6)


def test_what_cannot_be_read_is_refused(
    checkpoint: Path, model: HFModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert unreadable(model._blueprint) == ""
    assert "model.attn=flex_attention is given no mask" in unreadable(blueprint_of(checkpoint, attn="flex_attention"))
    monkeypatch.setattr(attended, "_asks", lambda _: False)
    assert "LlamaDecoderLayer does not attend by transformers' AttentionInterface" in unreadable(model._blueprint)
    with _another_way(model), pytest.raises(ModelError, match="attention of block 2 does not pass"):
        list(Reader(model, model._blueprint, (1, 2)).read(samples[:1], ("last",)))


class _another_way:
    """Within it the second block attends to nothing, and asks nobody."""

    def __init__(self, model: HFModel) -> None:
        self.module = model.network.model.language_model.layers[1].self_attn

    def __enter__(self) -> None:
        self.module.forward = lambda hidden_states, **_: (torch.zeros_like(hidden_states), None)

    def __exit__(self, *_: object) -> None:
        del self.module.forward


def test_attention_with_more_than_a_mask_is_refused(
    model: HFModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attended, "BEYOND", ("scaling",))
    with pytest.raises(ModelError, match="LlamaAttention attends with scaling, which is not read here"):
        list(Reader(model, model._blueprint, (1,)).read(samples[:1], ("last",)))
    assert "eager" not in ALL_ATTENTION_FUNCTIONS


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    assert "eager" not in ALL_ATTENTION_FUNCTIONS
