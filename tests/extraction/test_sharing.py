"""Statements packed behind a shared head have the states they have alone, in every causal family."""

import json
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mllm_probe.errors import ModelError
from mllm_probe.extraction.proof import Proof, prove, prove_once
from mllm_probe.extraction.taps import read_states
from mllm_probe.files.digests import Digests
from mllm_probe.models.hf import HFModel, load_model
from mllm_probe.models.prompts import collate
from mllm_probe.records.batches import Batch, Chunk, common_head
from mllm_probe.records.samples import Picture, Sample
from mllm_probe.records.sites import Key
from tests.support.checkpoints import blueprint_of, save_llava
from tests.support.families import FAMILIES
from tests.support.families_more import BUILDERS, SETTINGS

ROOT = Path(__file__).parents[2]
TABLE = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs" / "families.md").read_text(), flags=re.MULTILINE))
PLAIN = {  # family: why its statements are read one by one
    "paligemma": "its picture tokens see the text after them",
    "paligemma2": "its picture tokens see the text after them",
    "gemma3": "its attention slides over 8 of 200 tokens",
    "instructblip": "its picture tokens see the text after them",
    "kosmos2": "its forward pass refuses packed prompts",
    "mllama": "its forward pass refuses packed prompts",
}
TEXTS = ("a red circle", "a red circle is left of many blue squares", "what a mess")
LM = [Key.parse(f"lm.{name}") for name in ("00@last", "02@mean_text", "04@mean_all", "04@last", "04.norm@last")]
MARKED = [Key.parse(f"lm.04@{name}") for name in ("mark:thing", "before:thing", "tokens:text", "tokens:all")]
OF_PICTURE = [Key.parse(f"{name}@mean_image") for name in ("vision.02", "connector", "lm.04")]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Three statements about each of two pictures of different shape; all begin with the same letters."""
    place, rng = tmp_path_factory.mktemp("odd"), np.random.default_rng(0)
    samples = []
    for width, height in ((64, 64), (40, 90)):
        path = place / f"{width}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
        picture = Picture(path.stem, path, path.stem)
        samples += [Sample.of([picture], text, {"thing": (2, 5)}) for text in TEXTS]
    return samples


@pytest.fixture(scope="module", params=sorted(TABLE))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, HFModel]]:
    folder = BUILDERS[request.param](tmp_path_factory.mktemp("family") / request.param)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of PaliGemma's processor under numpy 2
        yield request.param, load_model(blueprint_of(folder, **SETTINGS.get(request.param, {})), "cpu")


def chunk(model: HFModel, samples: Sequence[Sample], keys: Sequence[Key], shared: bool) -> Chunk:
    return read_states(model, model.collate(samples, keys, shared), keys, torch.float32)


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def check_shared(model: HFModel, samples: Sequence[Sample], keys: Sequence[Key]) -> None:
    """Packed in one pass against each sample alone."""
    packed = chunk(model, samples, keys, shared=True)
    alone = [chunk(model, [sample], keys, shared=False) for sample in samples]
    for key in keys:
        expected = torch.cat([one.values[key] for one in alone])
        assert packed.values[key].shape == expected.shape
        assert error(packed.values[key], expected) <= 1e-5, key
        assert np.diff(packed.rows[key]).tolist() == [len(one.values[key]) for one in alone]


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
def test_every_family_does_as_the_table_says(family: tuple[str, HFModel], odd: list[Sample]) -> None:
    name, model = family
    proof = prove(model, odd, LM, 200)
    if TABLE[name] == "shared":
        assert proof.why == "" and proof.causal and proof.error <= 1e-5
        check_shared(model, odd, LM + MARKED)
    else:
        assert PLAIN[name] in proof.why


def test_the_table_names_every_family_that_is_tried() -> None:
    assert set(TABLE) == set(BUILDERS)
    assert f"the {len(TABLE)} families of models" in (ROOT / "README.md").read_text()
    assert {name for name, heads in TABLE.items() if heads == "plain"} == set(PLAIN)


def test_every_position_and_tower_of_llava(model: HFModel, odd: list[Sample]) -> None:
    check_shared(model, odd, [*LM, *MARKED, *OF_PICTURE, Key.parse("lm.03@tokens:image")])


def test_heads_are_found_on_token_ids(model: HFModel, odd: list[Sample]) -> None:
    """The first words are common, too: they are computed once, and the tails are what is left."""
    batch = model.collate(odd[:2], LM, shared=True)
    ids = [model.collate([sample], LM).inputs["input_ids"][0].tolist() for sample in odd[:2]]
    head = common_head(ids)
    words = model._blueprint.processor.tokenizer.decode(ids[0][:head])
    assert words.endswith("a red circle") and batch.shared == head
    assert batch.inputs["input_ids"].shape == (1, head + sum(len(row) - head for row in ids))
    assert batch.inputs["pixel_values"].shape[0] == 1


def test_a_statement_alone_is_all_head(model: HFModel, odd: list[Sample]) -> None:
    batch = model.collate([odd[0], odd[3]], LM, shared=True)
    assert batch.inputs["attention_mask"].shape[2] == 0
    check_shared(model, [odd[0], odd[3]], LM)


def test_equal_pictures_pass_through_the_tower_once(model: HFModel, odd: list[Sample]) -> None:
    seen: list[int] = []
    tower = model._model.get_submodule(model._blueprint.structure.whole["vision"])
    handle = tower.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append(len([*args, *kwargs.values()][0])), with_kwargs=True
    )
    mixed = [odd[i] for i in (0, 3, 1, 4, 2)]
    keys = [*LM, *OF_PICTURE]
    try:
        together = chunk(model, mixed, keys, shared=False)
        assert seen == [2]
        chunk(model, odd, keys, shared=True)
        assert seen == [2, 2]
    finally:
        handle.remove()
    for key in keys:
        alone = torch.cat([chunk(model, [sample], [key], shared=False).values[key] for sample in mixed])
        assert error(together.values[key], alone) <= 1e-5


def off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    right = collate._continued
    monkeypatch.setattr(collate, "_continued", lambda *args: right(*args) + 1)


def neighbours_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = collate._mask
    monkeypatch.setattr(collate, "_mask", lambda heads, owner, columns: right(heads, np.minimum(owner, 0), columns))


def head_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    right = collate._mask
    monkeypatch.setattr(collate, "_mask", lambda heads, owner, columns: right(heads - 1, owner, columns))


@pytest.mark.parametrize("fault", [off_by_one, neighbours_seen, head_unseen])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_the_proof_finds_faults(name: str, fault, tmp_path: Path, odd: list[Sample], monkeypatch) -> None:
    model = load_model(blueprint_of(BUILDERS[name](tmp_path)), "cpu")
    fault(monkeypatch)
    assert re.fullmatch(r"packed states are .* off, 1.0e-05 is allowed", prove(model, odd, LM, 200).why)


def test_what_sees_later_text_is_found_by_measure(tmp_path: Path, odd: list[Sample], monkeypatch) -> None:
    """A prefix language model that nobody told us of."""
    monkeypatch.setattr("mllm_probe.models.structure.LATER_TOKENS_SEEN", ())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = load_model(blueprint_of(FAMILIES["paligemma"](tmp_path)), "cpu")
        assert model.anatomy.causal
        proof = prove(model, odd, LM, 200)
    assert proof == Proof(False, "its picture tokens see the text after them", noise=proof.noise)


def test_reasons_against_sharing(checkpoint: Path, model: HFModel, odd: list[Sample], monkeypatch) -> None:
    eager = load_model(blueprint_of(checkpoint, attn="eager"), "cpu")
    assert prove(eager, odd, LM, 200).why == "model.attn=eager has no shared form, model.attn=sdpa has"
    for config in model.configs:
        monkeypatch.setattr(config, "sliding_window", 64, raising=False)
    assert model.unshared(64) is None
    assert model.unshared(65) == "its attention slides over 64 of 65 tokens"


def test_nothing_to_prove_without_the_language_model(model: HFModel, odd: list[Sample]) -> None:
    assert prove(model, odd, OF_PICTURE[:2], 200) == Proof(causal=True)


def test_plain_batches_that_disagree_are_no_oracle(model: HFModel, odd: list[Sample], monkeypatch) -> None:
    right = HFModel.collate

    def wrong(self: HFModel, samples: Sequence[Sample], *how: object) -> object:
        batch = right(self, samples, *how)
        inputs = dict(batch.inputs) | {"input_ids": batch.inputs["input_ids"].clamp(max=40)}
        return replace(batch, inputs=inputs) if len(samples) > 1 else batch

    monkeypatch.setattr(HFModel, "collate", wrong)
    with pytest.raises(ModelError, match="prompts change by .* when they are in one batch"):
        prove(model, odd, LM, 200)


@pytest.mark.parametrize("settings", [{"quantization": "nf4"}, {"quantization": "nf4", "dtype": "bfloat16"}])
def test_nf4_shares(checkpoint: Path, odd: list[Sample], settings: dict[str, str]) -> None:
    """In bfloat16 packing changes no more than company in a plain batch does."""
    model = load_model(blueprint_of(checkpoint, **settings), "cpu")
    proof = prove(model, odd, LM, 200)
    assert proof.why == ""
    assert proof.error <= (1e-5 if "dtype" not in settings else max(4 * proof.noise, 2e-2))


def test_later_text_is_looked_for_whatever_is_asked(tmp_path: Path, odd: list[Sample], monkeypatch) -> None:
    """No two samples with a common picture, and no layer above the embeddings: a twin and the top block show it."""
    monkeypatch.setattr("mllm_probe.models.structure.LATER_TOKENS_SEEN", ())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = load_model(blueprint_of(FAMILIES["paligemma"](tmp_path)), "cpu")
        assert not prove(model, [odd[0], odd[3]], [Key.parse("lm.00@last")], 200).causal


def test_every_statement_of_a_row_must_fit(tmp_path: Path, odd: list[Sample]) -> None:
    model = load_model(blueprint_of(save_llava(tmp_path, max_positions=45)), "cpu")
    with pytest.raises(ModelError, match="the model reads at most 45"):
        model.collate(odd[:2], LM, shared=True)


def test_a_prompt_beyond_the_window_is_not_packed(model: HFModel, odd: list[Sample], monkeypatch) -> None:
    for config in model.configs:
        monkeypatch.setattr(config, "sliding_window", 40, raising=False)
    monkeypatch.setattr(model, "_collators", threading.local())
    assert model.collate(odd[:1], LM, shared=True).shared is not None
    assert model.collate(odd[:2], LM, shared=True).shared is None


def test_memory_for_one_prompt_but_not_for_several(model: HFModel, odd: list[Sample], monkeypatch) -> None:
    forward = HFModel.forward

    def limited(self: HFModel, batch: Batch) -> None:
        if len(batch.uids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        forward(self, batch)

    monkeypatch.setattr(HFModel, "forward", limited)
    assert prove(model, odd, LM, 200).why == "memory ran out with a few packed prompts"


def passes_of(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the sizes of the forward passes that follow."""
    forward, sizes = HFModel.forward, []

    def counted(self: HFModel, batch: Batch) -> None:
        sizes.append(len(batch.uids))
        forward(self, batch)

    monkeypatch.setattr(HFModel, "forward", counted)
    return sizes


def test_a_proof_is_remembered_for_the_same_weights_code_and_versions(
    model: HFModel, odd: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, memo = passes_of(monkeypatch), tmp_path / "digests.json"
    first = prove_once(Digests(memo), "one", model, odd, LM, 200)
    assert passes and first == prove(model, odd, LM, 200)
    passes.clear()
    assert prove_once(Digests(memo), "one", model, odd, LM, 200) == first and not passes

    def proves(identity: str = "one", keys: Sequence[Key] = LM, trust: str = "sample", longest: int = 200) -> bool:
        passes.clear()
        assert prove_once(Digests(memo, trust), identity, model, odd, keys, longest).why == ""
        return bool(passes)

    assert proves("another") and proves(keys=LM[:1]) and proves(trust="content") and proves(longest=300)
    assert not proves() and not proves(longest=210)
    there = model.provenance()
    for name in ("torch", "transformers", "bitsandbytes", "device"):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(HFModel, "provenance", lambda self, name=name: there | {name: "another"})
            assert proves(), name
    with monkeypatch.context() as edited:
        edited.setattr("mllm_probe.extraction.proof.code_here", lambda: "another")
        assert proves()


@pytest.mark.parametrize("said", ["", "nothing", "[]", '{"causal": 1}', '{"causal": true, "why": "", "error": "0"}'])
def test_a_damaged_memory_of_a_proof_is_not_believed(
    model: HFModel, odd: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    """Neither where the seal of the entry is broken, nor where a whole entry is no proof."""
    memo = tmp_path / "digests.json"
    first = prove_once(Digests(memo), "one", model, odd, LM, 200)
    ((name, entry),) = json.loads(memo.read_text()).items()
    passes = passes_of(monkeypatch)
    memo.write_text(json.dumps({name: entry.replace("true", "false")}))
    assert prove_once(Digests(memo), "one", model, odd, LM, 200) == first and passes
    passes.clear()
    Digests(memo).keep(name, said)
    assert prove_once(Digests(memo), "one", model, odd, LM, 200) == first and passes


def test_a_proof_that_failed_is_tried_again(
    model: HFModel, odd: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as scarce:
        test_memory_for_one_prompt_but_not_for_several(model, odd, scarce)
        assert prove_once(Digests(tmp_path / "memo.json"), "one", model, odd, LM, 200).why
    assert prove_once(Digests(tmp_path / "memo.json"), "one", model, odd, LM, 200).why == ""
