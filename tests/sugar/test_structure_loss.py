"""Sugar's tuning: slices found in real prompts, losses by hand, gradients of steps cut up, adapters that load."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor
from transformers.models.clip import CLIPImageProcessorPil

from mllm_probe.config.model import ModelSettings
from mllm_probe.config.tune import AVERAGE, LabelSettings, TrainSettings
from mllm_probe.data.documents import Document, Slice, draw_documents
from mllm_probe.errors import ConfigError, DataError, ModelError, SpanError, TrainError
from mllm_probe.files.digests import Digests
from mllm_probe.files.store_paths import TrainingPaths
from mllm_probe.models.caption_loss import captioned, last_states
from mllm_probe.models.hf import load_model
from mllm_probe.models.interleaved import rendered
from mllm_probe.models.loading import adapters
from mllm_probe.models.loading.projections import projections
from mllm_probe.records.samples import Collection
from mllm_probe.sugar.apprentice import SugarApprentice
from mllm_probe.sugar.labels import SliceVectors
from mllm_probe.sugar.settings import ARMS
from mllm_probe.sugar.structure_loss import permuted, structure_errors
from mllm_probe.sugar.target import SugarTuning
from mllm_probe.train.loop import train
from mllm_probe.train.material import Material
from tests.support.checkpoints import blueprint_of, make_tokenizer
from tests.support.families import FAMILIES
from tests.support.runs import Run, Silent, stored

SETTINGS = TrainSettings(steps=4, batch=6, micro_batch=6, lr=1e-2, weight_decay=0.0, save_every=1)
SMALL = {"documents": 20, "held_out": 7, "rank": 4, "lora_alpha": 8, "width": 16}


@pytest.fixture(scope="module")
def documents(scenes: Collection) -> list[Document]:
    """Of two, four and six slices."""
    drawn = draw_documents(scenes.pictures, 40, 3, seed=0)
    return [next(one for one in drawn if len(one.slices) == n) for n in (2, 6, 4)]


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "idefics3", "internvl", "gemma3"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_slices_are_where_the_expanded_ids_say(
    checkpoint: Path, documents: Sequence[Document], tmp_path: Path, family: str, side: str
) -> None:
    """Also where a picture's tokens stand in rows with new lines between them."""
    folder = checkpoint if family == "llava" else FAMILIES[family](tmp_path / family)
    blueprint = blueprint_of(folder, side, chat="off")
    batch, tokenizer = rendered(blueprint, documents), blueprint.processor.tokenizer
    image = blueprint.prompter.tag.image
    for document, ids, own, labels in zip(documents, batch.inputs["input_ids"], batch.spans, batch.labels, strict=True):
        shown = [(ids[list(span)] == image).all() for span in own]
        assert shown == [one.text is None for one in document.slices]
        assert sum(len(span) for span, picture in zip(own, shown, strict=True) if picture) == int((ids == image).sum())
        assert [t for span in own for t in span] == sorted(t for span in own for t in span)
        said = [one.text for one in document.slices if one.text is not None]
        assert [tokenizer.decode(ids[list(s)]) for s, p in zip(own, shown, strict=True) if not p] == said
        assert tokenizer.decode(labels[labels != -100]) == "\n".join(said) + tokenizer.eos_token


def test_a_picture_and_a_sentence_are_a_caption(checkpoint: Path, documents: Sequence[Document]) -> None:
    blueprint, document = blueprint_of(checkpoint, chat="off"), documents[0]
    one = rendered(blueprint, [document])
    other = captioned(blueprint, [(document.slices[0].picture, document.slices[1].text or "")])
    assert torch.equal(one.inputs["input_ids"], other.inputs["input_ids"]) and torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("image", ["mean", "last"])
def test_what_a_slice_ends_with(checkpoint: Path, documents: Sequence[Document], image: str) -> None:
    """Against output_hidden_states of a prefix that knows nothing of the slices behind it, and is not padded."""
    blueprint = blueprint_of(checkpoint, chat="off")
    network = load_model(blueprint, "cpu").network
    batch = rendered(blueprint, documents)
    with torch.no_grad():
        found = batch.ends(last_states(network, batch.inputs, "cpu"), [range(len(d.slices)) for d in documents], image)
        expected = []
        for document in documents:
            for k in range(1, len(document.slices) + 1):
                alone = rendered(blueprint, [Document(document.slices[:k])])
                states = network(**alone.inputs, output_hidden_states=True).hidden_states[-1][0]
                shown = (alone.inputs["input_ids"][0] == 3).nonzero()[-16:, 0]
                picture = states[shown].mean(dim=0) if image == "mean" else states[shown[-1]]
                expected.append(picture if document.slices[k - 1].text is None else states[-2])  # before the end
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of PaliGemma's processor
def test_documents_that_cannot_be_trusted_are_refused(
    checkpoint: Path, documents: Sequence[Document], tmp_path: Path
) -> None:
    blueprint, picture = blueprint_of(checkpoint, chat="plain"), documents[0].slices[0].picture
    with pytest.raises(SpanError, match="the processor's ids do not hold those of its sentences"):
        rendered(blueprint, [Document((Slice(picture), Slice(documents[1].slices[0].picture)))])
    with pytest.raises(DataError, match="contains the image tag <image>; remove it"):
        rendered(blueprint, [Document((Slice(picture), Slice(picture, "an <image> here")))])
    with pytest.raises(SpanError, match="the processor's ids do not hold"):
        rendered(blueprint_of(FAMILIES["paligemma"](tmp_path / "paligemma"), chat="off"), documents)


def test_the_structure_loss_is_the_mean_over_pairs() -> None:
    torch.manual_seed(0)
    vectors, labels = torch.randn(5, 3, requires_grad=True), torch.rand(5, 5, requires_grad=True)
    rows, told = vectors.detach().double().numpy(), labels.detach().double().numpy()
    pairs = [
        (rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j]) - told[i, j]) ** 2
        for i in range(5)
        for j in range(5)
        if i != j
    ]
    loss = structure_errors(vectors, labels).mean()
    assert float(loss.detach()) == pytest.approx(np.mean(pairs), rel=1e-5)
    loss.backward()
    assert labels.grad is None and vectors.grad is not None and vectors.grad.abs().sum() > 0
    unit = nn.functional.normalize(vectors.detach(), dim=1)
    assert float(structure_errors(vectors.detach(), unit @ unit.T).max()) < 1e-12
    with pytest.raises(TrainError, match="1 slice end gives no pair"):
        structure_errors(vectors[:1], labels[:1, :1])
    with pytest.raises(TrainError, match="1 of 2 vectors after the retrieval head are zeros"):
        structure_errors(vectors[:2] * torch.tensor([[0.0], [1.0]]), labels[:2, :2])


def test_permuted_labels_are_those_of_other_prefixes() -> None:
    labels = torch.rand(6, 6)
    labels = (labels + labels.T).fill_diagonal_(1)
    found = permuted(labels, 1)
    assert torch.equal(found, found.T) and torch.equal(found.diag(), torch.ones(6)) and not torch.equal(found, labels)
    assert torch.equal(found.flatten().sort().values, labels.flatten().sort().values)
    assert torch.equal(found, permuted(labels, 1)) and not torch.equal(found, permuted(labels, 2))


def vectors_of(target: SugarTuning, given: Material) -> SliceVectors:
    """Drawn, and not trained: the arithmetic is what is looked at."""
    slices = {one.uid: one for one in target.slices(given)}
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(len(slices), 8, generator=generator) for _ in range(2))
    return SliceVectors(tuple(slices), a, b, torch.tensor([int(one.text is not None) for one in slices.values()]))


def apprentice(
    checkpoint: Path,
    scenes: Collection,
    settings: TrainSettings = SETTINGS,
    quantization: str = "none",
    dtype: str = "float32",
    **options: object,
) -> SugarApprentice:
    target = SugarTuning(**{**SMALL, **options})  # type: ignore[arg-type]
    blueprint = blueprint_of(checkpoint, chat="off", quantization=quantization, dtype=dtype)
    network = load_model(blueprint, "cpu").network
    given = Material(blueprint, network, "cpu", scenes.pictures[:12], scenes.pictures[12:20], settings, "digest")
    learnt, judged = target.examples(given)
    given = replace(given, learnt=learnt, judged=judged)
    return target.apprentice(replace(given, vectors=vectors_of(target, given) if target.slices(given) else None))


def gradients(one: SugarApprentice) -> dict[str, Tensor]:
    return {name: value.grad for name, value in one.parameters().items() if value.grad is not None}


def test_only_lora_and_the_head_learn(checkpoint: Path, scenes: Collection, tmp_path: Path) -> None:
    """On a base that is really in nf4: W_q and W_v of the language model, none of the vision tower's."""
    one = apprentice(checkpoint, scenes, quantization="nf4")
    network = one._network
    before = {name: value.clone() for name, value in network.state_dict().items() if "lora" not in name}
    lora = {name for name in one.parameters() if "lora" in name}
    assert {name.split(".lora")[0] for name in lora} == {
        f"model.language_model.layers.{n}.self_attn.{part}" for n in range(4) for part in ("q_proj", "v_proj")
    }
    assert {name for name, value in network.named_parameters() if value.requires_grad} == lora
    assert set(one.parameters()) - lora == {f"retrieval.{n}.{kind}" for n in (0, 2) for kind in ("weight", "bias")}
    start = {name: value.detach().clone() for name, value in one.parameters().items()}
    losses = train(one, SETTINGS, TrainingPaths(tmp_path), Silent())
    assert all(not torch.equal(value, start[name]) for name, value in one.parameters().items())
    assert all(value.grad is None for name, value in network.named_parameters() if name not in lora)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    assert list(losses[0]) == ["step", "lr", "loss", "lg", "ld", "tokens", "gradient"]
    read = [{picture.digest for one in some for picture in one.pictures} for some in (one._learnt, one._judged)]
    known = [{picture.digest for picture in some} for some in (one._material.train, one._material.test)]
    assert read[0] <= known[0] and read[1] <= known[1] and known[0].isdisjoint(known[1])
    assert all(row["loss"] == pytest.approx(row["lg"] + row["ld"]) for row in losses)


@pytest.mark.parametrize("arm", ["lg_ld", "ld", "permuted"])
def test_cutting_a_step_up_changes_nothing_but_rounding(checkpoint: Path, scenes: Collection, arm: str) -> None:
    """Every pair of slice ends counts, whether or not one pass holds both."""
    found = []
    for micro in (6, 4, 1):
        one = apprentice(checkpoint, scenes, replace(SETTINGS, micro_batch=micro), arm=arm, alpha=3.0)
        found.append((one.backward(0), gradients(one)))
    (losses, whole), *cut = found
    assert set(whole) == set(one.parameters())
    for told, parts in cut:
        assert told == pytest.approx(losses, rel=1e-5)
        for name, value in parts.items():
            torch.testing.assert_close(value, whole[name], rtol=1e-3, atol=1e-6)


def test_a_second_pass_drops_out_what_the_first_did(checkpoint: Path, scenes: Collection) -> None:
    one = apprentice(checkpoint, scenes, dropout=0.5)
    one.backward(0)
    with torch.no_grad():
        for value in one.parameters().values():
            value += 0.1 * torch.ones_like(value)  # B begins at zero, behind which no dropout is seen
        work = one._read(1)
        first, again = one._pass(work, 0), one._pass(work, 0)
        other = one._pass(replace(work, name="other"), 0)
    assert torch.equal(first[1], again[1]) and not torch.equal(first[1], other[1])
    assert [row.loss for row in one.held_out()] == [row.loss for row in one.held_out()]


def test_alpha_zero_is_plain_captioning(checkpoint: Path, scenes: Collection, tmp_path: Path) -> None:
    """Step for step, and bit for bit."""
    plain = apprentice(checkpoint, scenes, arm="lg")
    zero = apprentice(checkpoint, scenes, alpha=0.0)
    one, other = (
        train(each, SETTINGS, TrainingPaths(tmp_path / name), Silent()) for name, each in (("lg", plain), ("0", zero))
    )
    assert [row["loss"] for row in one] == [row["loss"] for row in other] and "ld" not in one[0] and "ld" in other[0]
    assert one[0]["loss"] != one[-1]["loss"]
    for name, value in plain.parameters().items():
        assert torch.equal(value, zero.parameters()[name])
    assert [row.loss for row in plain.held_out()] == [row.loss for row in zero.held_out()]


def test_a_killed_tuning_goes_on_as_if_nothing_had_happened(
    checkpoint: Path, scenes: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"dropout": 0.2, "arm": "permuted"}
    expected = train(apprentice(checkpoint, scenes, **options), SETTINGS, TrainingPaths(tmp_path / "whole"), Silent())
    killed, own = apprentice(checkpoint, scenes, **options), SugarApprentice.backward

    def backward(self: SugarApprentice, step: int) -> Mapping[str, float]:
        if step == 2 and self is killed:
            raise KeyboardInterrupt
        return own(self, step)

    monkeypatch.setattr(SugarApprentice, "backward", backward)
    with pytest.raises(KeyboardInterrupt):
        train(killed, SETTINGS, TrainingPaths(tmp_path / "killed"), Silent())
    again = apprentice(checkpoint, scenes, **options)
    assert train(again, SETTINGS, TrainingPaths(tmp_path / "killed"), Silent()) == expected


def test_arms_set_what_they_say(checkpoint: Path, scenes: Collection) -> None:
    arms = {arm: SugarTuning(arm=arm, labels=LabelSettings()).resolved for arm in ARMS}
    whole = arms["lg_ld"]
    assert arms["lg"] == replace(whole, arm="lg", structured=False)
    assert arms["ld"] == replace(whole, arm="ld", lm_weight=0.0)
    assert arms["permuted"] == replace(whole, arm="permuted", permuted=True)
    assert arms["average"] == replace(whole, arm="average", labels=replace(whole.labels, kernel=AVERAGE))
    assert arms["joint_only"] == replace(whole, arm="joint_only", labels=replace(whole.labels, joint_only=True))
    assert arms["last_token"] == replace(whole, arm="last_token", image_readout="last")
    started = {arm: apprentice(checkpoint, scenes, arm=arm).backward(0) for arm in ARMS}
    assert len({tuple(row.values()) for row in started.values()}) == len(ARMS)
    assert len({row["lg"] for row in started.values()}) == 1


def test_structure_is_learnt(checkpoint: Path, scenes: Collection, tmp_path: Path) -> None:
    """Labels of few documents can be learnt by heart, alone as well as beside the captions."""
    settings = replace(SETTINGS, steps=40)
    one = apprentice(checkpoint, scenes, settings, arm="ld", documents=6, ends=9)
    losses = train(one, settings, TrainingPaths(tmp_path), Silent())
    assert losses[-1]["ld"] < 0.2 * losses[0]["ld"]


@pytest.mark.parametrize(("kind", "dtype"), [("nf4", "float32"), ("nf4", "bfloat16"), ("int8", "float32")])
def test_the_saved_adapter_is_the_trained_model(
    checkpoint: Path, scenes: Collection, tmp_path: Path, kind: str, dtype: str
) -> None:
    """Both its losses, with the head beside it."""
    one = apprentice(checkpoint, scenes, quantization=kind, dtype=dtype)
    train(one, SETTINGS, TrainingPaths(tmp_path / "state"), Silent())
    held = one.held_out()
    one.save(tmp_path / "adapter")
    blueprint = blueprint_of(checkpoint, chat="off", quantization=kind, dtype=dtype, adapter=str(tmp_path / "adapter"))
    network = load_model(blueprint, "cpu").network
    assert not any(value.requires_grad for name, value in network.named_parameters() if "lora" in name)
    one._network = network
    one._head.load_state_dict(load_file(tmp_path / "adapter" / "retrieval.safetensors"))
    for row, again in zip(held, one.held_out(), strict=True):
        assert again.picture == row.picture
        assert (again.loss, again.ld) == pytest.approx((row.loss, row.ld), rel=1e-6)
    told = json.loads((tmp_path / "adapter" / adapters.ORIGIN).read_text())
    assert told["base"] == "digest" and told["training"]["rank"] == 4


def test_adapters_of_other_models_are_refused(checkpoint: Path, scenes: Collection, tmp_path: Path) -> None:
    apprentice(checkpoint, scenes, arm="lg").save(tmp_path / "adapter")
    with pytest.raises(ModelError, match=r"does not fit this LlavaForConditionalGeneration: .* wide; choose the model"):
        blueprint_of(Path("mllm_probe/bundled/mini").resolve(), adapter=str(tmp_path / "adapter"))
    with pytest.raises(ModelError, match=r"does not fit this Qwen2VL\w+: it was trained on a LlavaFor"):
        blueprint_of(FAMILIES["qwen2_vl"](tmp_path / "qwen"), adapter=str(tmp_path / "adapter"))
    told = (tmp_path / "adapter" / adapters.TENSORS).read_bytes()
    (tmp_path / "adapter" / adapters.TENSORS).write_bytes(told.replace(b"self_attn.q_proj", b"self_attn.q_prox"))
    with pytest.raises(ModelError, match=r"self_attn.q_prox.lora_A.weight has no place there; choose the model"):
        blueprint_of(checkpoint, adapter=str(tmp_path / "adapter"))
    (tmp_path / "adapter" / adapters.TENSORS).write_bytes(told[:100])
    with pytest.raises(ModelError, match=r"adapter_model.safetensors cannot be read"):
        blueprint_of(checkpoint, adapter=str(tmp_path / "adapter"))


def test_queries_and_values_are_found_by_structure(tmp_path: Path) -> None:
    for family in ("qwen2_5_vl", "mistral3"):
        blueprint = blueprint_of(FAMILIES[family](tmp_path / family))
        assert projections(blueprint.bare(), blueprint.structure, None).endswith("(?:q_proj|v_proj)")
        blocks = {"lm": blueprint.structure.blocks["vision"]}
        if family == "qwen2_5_vl":  # whose vision tower has one matrix for all three
            with pytest.raises(
                ModelError, match="has no W_q and W_v by themselves, but proj, qkv; name those to train"
            ):
                projections(blueprint.bare(), replace(blueprint.structure, blocks=blocks), None)
    with pytest.raises(ConfigError, match="target.modules names 'k_prj', which no block has; did you mean 'k_proj'"):
        projections(blueprint.bare(), blueprint.structure, ["k_prj"])


def test_the_estimate_is_near_what_is_kept_for_the_gradients(checkpoint: Path, scenes: Collection) -> None:
    one = apprentice(checkpoint, scenes)
    target, given = SugarTuning(**SMALL), one._material
    longest = max(one._learnt, key=lambda document: sum(len(slice.text or 1000 * " ") for slice in document.slices))
    kept: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        kept[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        return value

    own = {value.untyped_storage().data_ptr() for value in given.network.state_dict().values()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        nats, vectors = one._pass(one._work([longest] * 6, "x"), 0)
    (nats.sum() + vectors.sum()).backward()
    found = sum(size for place, size in kept.items() if place not in own)
    assert 0.9 < target.memory(given).states / found < 1.2
    assert target.memory(given).moving == 16 * sum(value.numel() for value in one.parameters().values())


def save_seven_billion(folder: Path) -> Path:
    """The shape of LLaVA-1.5 7B and a processor, no weights."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(vocab_size=32064, max_position_embeddings=4096),
        image_token_id=3,
        vision_feature_layer=-2,
    )
    config.save_pretrained(folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    tags = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    LlavaProcessor(images, make_tokenizer(), patch_size=14, **tags).save_pretrained(folder)
    return folder


def test_the_memory_of_a_large_model_is_told_before_anything_is_loaded(probe: Run, tmp_path: Path) -> None:
    folder = save_seven_billion(tmp_path / "seven")
    code, _, err = probe("tune", "target=sugar", "target.arm=lg", "model=custom", f"model.path={folder}", *FEW)
    told = re.search(r"about ([\d.]+) GB \(([\d.]+) GB of weights, ([\d.]+) GB of what is trained", err)
    assert code == 1 and told and "has no weights (model.safetensors" in err
    assert 4.2 < float(told[2]) < 5  # 6.5e9 weights of half a byte, and half a billion of two bytes
    assert float(told[3]) == pytest.approx(16 * 32 * 4 * 128 * 4096 / 1e9, abs=0.01)  # the paper's 67.1M parameters
    assert 15 < float(told[1]) < 25


FEW = ("data.n=40", "dataset.pictures=40", "splits.blocks=4")


def test_the_command_tunes_and_run_probes_the_adapter(probe: Run, tmp_path: Path) -> None:
    few = ("train.steps=4", "train.batch=8", "target.documents=40", "target.held_out=10", "hydra.run.dir=tuned")
    code, _, err = probe("tune", "target=sugar_mini", *FEW, *few)
    assert code == 0, err
    folder = tmp_path / "tuned"
    held, said = pd.read_csv(folder / "held_out.csv"), json.loads((folder / "summary.json").read_text())
    assert list(held.columns) == ["picture", "item", "tokens", "loss", "ld"] and len(held) == said["rows"] == 10
    assert said["ld"] == pytest.approx(held.ld.mean()) and said["arm"] == "lg_ld"
    losses = (folder / "losses.csv").read_bytes()
    assert f"`mllm-probe run model=mini model.adapter={folder / 'checkpoint'}` probes it" in err
    assert probe("tune", "target=sugar_mini", *FEW, *few)[0] == 0 and (folder / "losses.csv").read_bytes() == losses

    command = ("experiment=smoke", *FEW, "sweep.draws=50", "controls=[random_weights]")
    adapter, caches = f"model.adapter={folder / 'checkpoint'}", tmp_path / "outputs" / "cache"
    assert probe("extract", *command)[0] == 0
    before = {path.parent.name: json.loads(path.read_text())["model"] for path in caches.glob("*/identity.json")}
    assert set(before.values()) == {"mini", "mini-random"}
    code, _, err = probe("run", *command, adapter, "hydra.run.dir=adapted")
    assert code == 0, err
    scores = pd.read_csv(tmp_path / "adapted" / "scores.csv", keep_default_na=False)
    assert set(scores.model) == {
        "mini+sugar_lg_ld",
        "mini-random",
    }  # random weights have no adapter, and their cache is there
    (own,) = {path.parent.name for path in caches.glob("*/identity.json")} - set(before)
    assert set(scores[scores.model == "mini+sugar_lg_ld"].cache) - {""} == {own}
    plain = next(name for name, model in before.items() if model == "mini")
    for key, same in (("lm.08@last", False), ("lm.00@last", True)):
        one, other = (stored(caches / cache, key) for cache in (plain, own))
        assert one.keys() == other.keys() and all(np.array_equal(one[uid], other[uid]) for uid in one) is same

    code, _, err = probe("run", *command, adapter, "model=mini_base")
    assert code == 1 and "was trained on other weights (those of mini, digest" in err
    code, _, err = probe("inspect", "task=entailment", *FEW, adapter, "n=1")
    assert code == 0, err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("target.arm=lgld",),
            "unknown; did you mean 'lg_ld'? choose one of: average, joint_only, last_token, ld, lg,",
        ),
        (("target.image_readout=first",), "target.image_readout=first is unknown; choose one of: last, mean"),
        (("target.head=liner",), "target.head=liner is unknown; did you mean 'linear'?"),
        (("target.alpha=-1",), "target.alpha=-1 must be 0 or more, because it weighs a loss"),
        (("target.arm=ld", "target.alpha=0"), "target.lm_weight=0 and target.alpha=0 leave nothing to learn"),
        (("target.rank=0",), "target.rank=0 must be 1 to 8,192"),
        (("target.dropout=1",), "target.dropout=1 must be at least 0 and below 1"),
        (("train.batch=1", "target.ends=1"), "train.batch=1 and target.ends=1 give one slice end a step"),
        (("prompt.chat=auto",), "target=sugar takes prompt.chat=off or plain"),
        (("target.modules=[q_prj]",), "target.modules names 'q_prj', which no block has; did you mean 'q_proj'?"),
        (("model.adapter=somewhere",), "tune starts from the weights alone; leave out model.adapter"),
    ],
)
def test_bad_settings_are_one_sentence(probe: Run, tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    code, _, err = probe("tune", "target=sugar_mini", *FEW, *args)
    assert code == 1 and message in err.strip().splitlines()[-1]
    assert not list(tmp_path.glob("outputs/tune/*/*/checkpoint"))


def test_adapters_that_cannot_be_used_are_one_sentence(
    checkpoint: Path, scenes: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apprentice(checkpoint, scenes, arm="lg").save(tmp_path / "adapter")
    settings, digests = ModelSettings(adapter=str(tmp_path / "adapter")), Digests(tmp_path / "digests.json")
    files = adapters.adapter_digests(settings, "digest", digests)
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors"}
    with pytest.raises(ModelError, match="was trained on other weights"):
        adapters.adapter_digests(settings, "another", digests)
    with pytest.raises(ConfigError, match="model.weights=random has none"):
        adapters.adapter_digests(replace(settings, weights="random"), "digest", digests)
    with pytest.raises(ModelError, match="nowhere has no adapter_config.json; give the folder"):
        adapters.adapter_digests(replace(settings, adapter="nowhere"), "digest", digests)
    (tmp_path / "adapter" / adapters.ORIGIN).write_text("{")
    with pytest.raises(ModelError, match="origin.json is damaged"):
        adapters.adapter_digests(settings, "digest", digests)
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs peft, which is not installed; run `pip install 'mllm-probe\[tune\]'`"):
        adapters.adapter_digests(settings, "digest", digests)
    with pytest.raises(ModelError, match="needs peft"):
        SugarTuning()
