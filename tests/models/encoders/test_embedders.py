"""One vector a slice against transformers' own outputs, on tiny random checkpoints; each is computed once and kept."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from safetensors import safe_open
from torch.nn.functional import normalize
from train_mini_encoders import CATEGORIES, WORDS, held_out, listed, multi_hot, neighbours, recall, said, shown
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, ResNetConfig, ResNetModel
from transformers.models.clip import CLIPImageProcessorPil

from mllm_probe.config.model import CheckpointSettings
from mllm_probe.config.tune import EmbedderSettings, LabelSettings
from mllm_probe.data.documents import Slice, draw_documents
from mllm_probe.data.drawing import draw
from mllm_probe.data.facts import false_fact, true_fact
from mllm_probe.errors import ConfigError, MllmProbeError, ModelError
from mllm_probe.files.digests import Digests
from mllm_probe.files.paths import OutputPaths, config_dir
from mllm_probe.models.encoders.embedders import Embedder, plan_embedder
from mllm_probe.models.loading.checkpoint import BUNDLED
from mllm_probe.records.samples import Collection
from mllm_probe.sugar.label_vectors import plan_labels, slice_vectors
from mllm_probe.sugar.labels import SliceVectors
from tests.support.checkpoints import make_tokenizer
from tests.support.edits import unsealed
from tests.support.encoders import save_bert, save_clip, save_dinov2, save_dual, save_llama, save_registers, save_siglip
from tests.support.runs import Silent

SENTENCES = ["a red circle", "there are two blue squares", "a small ring"]
PICTURES = [Image.effect_mandelbrot((90, 60), (-3, -2.5, 2, 2.5), 50).convert("RGB"), Image.new("RGB", (32, 32), "red")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("embedders")
    found = {
        "dinov2": save_dinov2(root / "dinov2"),
        "registers": save_registers(root / "registers"),
        "siglip": save_siglip(root / "siglip"),
        "wordless": save_clip(root / "wordless"),
        "bert": save_bert(root / "bert", make_tokenizer()),
        "llama": save_llama(root / "llama", make_tokenizer()),
        "clip": save_dual(root / "clip", make_tokenizer(), "clip"),
        "siglip_dual": save_dual(root / "siglip_dual", make_tokenizer(), "siglip"),
    }
    ResNetModel(ResNetConfig(depths=[1], hidden_sizes=[8], embedding_size=8)).save_pretrained(root / "resnet")
    CLIPImageProcessorPil(size={"shortest_edge": 32}, do_center_crop=False).save_pretrained(root / "resnet")
    for name, read in (("dinov2", make_tokenizer()), ("llama", CLIPImageProcessorPil())):
        AutoModel.from_pretrained(found[name]).save_pretrained(root / f"{name}_misfit")
        CLIPImageProcessorPil().save_pretrained(root / f"{name}_misfit")
        read.save_pretrained(root / f"{name}_misfit")
    return found | {name: root / name for name in ("resnet", "dinov2_misfit", "llama_misfit")}


def loaded(kind: str, folder: Path, pooling: str | None = None) -> Embedder:
    settings = EmbedderSettings(path=str(folder), pooling=pooling) if pooling else CheckpointSettings(path=str(folder))
    return Embedder(plan_embedder(kind, settings), "cpu")


def outputs_of(folder: Path, tower: str | None = None, texts: list[str] | None = None) -> object:
    model = AutoModel.from_pretrained(folder)
    if texts:
        inputs = AutoTokenizer.from_pretrained(folder)(texts, return_tensors="pt")
    else:
        inputs = AutoImageProcessor.from_pretrained(folder)(PICTURES, return_tensors="pt")
    with torch.no_grad():
        return (getattr(model, tower) if tower else model)(**inputs)


def test_pictures_are_their_class_token_or_the_mean_of_their_patches(folders: dict[str, Path]) -> None:
    """DINOv2's states are behind its last norm; registers are no patches."""
    for name, leading in (("dinov2", 1), ("registers", 5)):
        states = outputs_of(folders[name]).last_hidden_state  # type: ignore[attr-defined]
        torch.testing.assert_close(loaded("image", folders[name], "class").pictures(PICTURES), states[:, 0])
        mean = loaded("image", folders[name], "mean").pictures(PICTURES)
        torch.testing.assert_close(mean, states[:, leading:].mean(dim=1))
    siglip = outputs_of(folders["siglip"], "vision_model")
    for pooling, expected in (
        ("pooler", siglip.pooler_output),  # type: ignore[attr-defined]
        ("mean", siglip.last_hidden_state.mean(dim=1)),  # type: ignore[attr-defined]
    ):
        torch.testing.assert_close(loaded("image", folders["siglip"], pooling).pictures(PICTURES), expected)
    grid = loaded("image", folders["resnet"], "pooler").pictures([PICTURES[1]])
    assert grid.shape == (1, 8), "no transformer at all"


def test_sentences_are_pooled_over_their_own_tokens(folders: dict[str, Path]) -> None:
    """One by one, so that nothing is filled up."""
    for name, poolings in (("bert", ("class", "mean", "last", "pooler")), ("llama", ("mean", "last"))):
        alone = [outputs_of(folders[name], texts=[text]) for text in SENTENCES]
        for pooling in poolings:
            expected = {
                "class": lambda one: one.last_hidden_state[0, 0],
                "mean": lambda one: one.last_hidden_state[0].mean(dim=0),
                "last": lambda one: one.last_hidden_state[0, -1],
                "pooler": lambda one: one.pooler_output[0],
            }[pooling]
            found = loaded("text", folders[name], pooling).sentences(SENTENCES)
            torch.testing.assert_close(found, torch.stack([expected(one) for one in alone]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["clip", "siglip_dual"])
def test_the_joint_space_is_that_of_the_whole_model(folders: dict[str, Path], name: str) -> None:
    texts = ["a red circle", "a ring"]  # shorter than they may be, and SigLIP reads the state of the last token
    embedder, model = loaded("joint", folders[name]), AutoModel.from_pretrained(folders[name])
    tokenizer, images = (kind.from_pretrained(folders[name]) for kind in (AutoTokenizer, AutoImageProcessor))
    inputs = tokenizer(texts, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        both = model(**inputs, **images(PICTURES, return_tensors="pt"))
    found = [normalize(one, dim=1) for one in (embedder.pictures(PICTURES), embedder.sentences(texts))]
    torch.testing.assert_close(found[0], both.image_embeds, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[1], both.text_embeds, atol=1e-5, rtol=1e-4)


def test_a_tower_of_a_joint_model_is_an_encoder_of_its_own(folders: dict[str, Path]) -> None:
    states = outputs_of(folders["clip"], "vision_model").last_hidden_state  # type: ignore[attr-defined]
    torch.testing.assert_close(loaded("image", folders["clip"], "class").pictures(PICTURES), states[:, 0])
    assert loaded("text", folders["clip"], "mean").sentences(SENTENCES).shape == (3, 32)


def refused(
    message: str, kind: str, folder: Path, pooling: str = "class", error: type[MllmProbeError] = ModelError
) -> None:
    settings = (
        CheckpointSettings(path=str(folder)) if kind == "joint" else EmbedderSettings(path=str(folder), pooling=pooling)
    )
    with pytest.raises(error, match=message):
        Embedder(plan_embedder(kind, settings), "cpu")


def test_what_cannot_be_an_encoder_is_one_sentence(folders: dict[str, Path]) -> None:
    refused(
        "labels.joint: Dinov2Model has no common space for pictures and sentences", "joint", folders["dinov2_misfit"]
    )
    refused("labels.text: Dinov2Model has no text tower; choose a text encoder", "text", folders["dinov2_misfit"])
    refused("labels.image: LlamaModel has no vision tower; choose a vision", "image", folders["llama_misfit"])
    refused("bert has no processor", "joint", folders["bert"])
    refused("wordless has no tokenizer", "text", folders["wordless"])
    refused("LlamaModel gives one vector for different inputs with pooling=class", "text", folders["llama"])
    refused("LlamaModel gives no vector for an input with pooling=pooler", "text", folders["llama"], "pooler")
    refused("ResNetModel cuts no patches", "image", folders["resnet"])
    refused("wordless has no tokenizer", "joint", folders["wordless"])
    refused("do not hold a class token before 3 x 3 patches; use mean", "image", folders["siglip"], error=ConfigError)
    refused("labels.image.pooling=last is unknown", "image", folders["siglip"], "last", ConfigError)
    refused("labels.text.pooling=mea is unknown; did you mean 'mean'", "text", folders["bert"], "mea", ConfigError)
    with pytest.raises(ConfigError, match="give labels.text.path=FOLDER or labels.text.hub_id=OWNER/NAME"):
        plan_embedder("text", EmbedderSettings())


def slices_of(scenes: Collection) -> list[Slice]:
    return [one for document in draw_documents(scenes.pictures, 12, 3, seed=0) for one in document.slices]


def metadata(part: Path) -> dict[str, str]:
    with safe_open(part, "pt") as file:
        return file.metadata()


def settings_of(folders: dict[str, Path], **more: object) -> LabelSettings:
    return LabelSettings(
        EmbedderSettings(path=str(folders["dinov2"])),
        EmbedderSettings(path=str(folders["bert"])),
        CheckpointSettings(path=str(folders["clip"])),
        micro_batch=5,
        **more,  # type: ignore[arg-type]
    )


def vectors_of(settings: LabelSettings, slices: list[Slice], *where: object) -> SliceVectors:
    return slice_vectors(plan_labels(settings), slices, settings.micro_batch, *where)  # type: ignore[arg-type]


def test_a_slice_has_the_vectors_of_its_own_encoder_and_of_the_joint_one(
    folders: dict[str, Path], scenes: Collection, tmp_path: Path
) -> None:
    slices, outputs, reporter = slices_of(scenes), OutputPaths(tmp_path), Silent()
    found = vectors_of(settings_of(folders), slices, outputs, "cpu", Digests(outputs.digests), reporter)
    assert found.uids == tuple(dict.fromkeys(one.uid for one in slices))
    images, texts = loaded("image", folders["dinov2"], "class"), loaded("text", folders["bert"], "class")
    joint = loaded("joint", folders["clip"])
    for one in slices[:6]:
        row = found.uids.index(one.uid)
        picture = [Image.open(one.picture.path).convert("RGB")]
        own, shared = (
            encoder.sentences([one.text])[0] if one.text else encoder.pictures(picture)[0]
            for encoder in (texts if one.text else images, joint)
        )
        torch.testing.assert_close(found.a[row], own, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.b[row], shared, atol=1e-5, rtol=1e-4)
        assert found.kinds[row] == (one.text is not None)
    assert any("sentences are cut to the 16 tokens" in note for note in reporter.notes)


def test_vectors_are_computed_once(
    folders: dict[str, Path], scenes: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, slices, outputs = settings_of(folders), slices_of(scenes), OutputPaths(tmp_path)

    def call(chosen: list[Slice], settings: LabelSettings = settings) -> SliceVectors:
        return vectors_of(settings, chosen, outputs, "cpu", Digests(outputs.digests), Silent())

    monkeypatch.setattr("mllm_probe.sugar.label_vectors.PART", 4)
    first, whole = call(slices[:8]), call(slices)
    torch.testing.assert_close(whole.a[: len(first.uids)], first.a, rtol=0, atol=0)
    for folder in (tmp_path / "labels").iterdir():
        kept = [uid for part in folder.glob("*.safetensors") for uid in json.loads(metadata(part)["uids"])]
        assert len(kept) == len(set(kept)) and len(list(folder.glob("*.safetensors"))) > 2

    def loading(*_: object) -> None:
        raise AssertionError("an encoder is loaded")

    monkeypatch.setattr("mllm_probe.models.encoders.embedders.Embedder.__init__", loading)
    again = call(slices[::-1])
    torch.testing.assert_close(again.b[[again.uids.index(uid) for uid in whole.uids]], whole.b, rtol=0, atol=0)
    only = call(slices, replace(settings, joint_only=True))
    torch.testing.assert_close(only.a, whole.b, rtol=0, atol=0)
    with pytest.raises(AssertionError, match="an encoder is loaded"):
        call(slices, replace(settings, image=replace(settings.image, pooling="mean")))


@pytest.mark.parametrize("old", [False, True])
def test_vectors_with_a_flipped_bit_are_named_and_made_again(
    folders: dict[str, Path], scenes: Collection, tmp_path: Path, old: bool
) -> None:
    settings, slices, outputs, said = settings_of(folders), slices_of(scenes)[:4], OutputPaths(tmp_path), Silent()

    def call() -> SliceVectors:
        return vectors_of(settings, slices, outputs, "cpu", Digests(outputs.digests), said)

    whole = call()
    part = next(tmp_path.glob("labels/*/*.safetensors"))
    if old:
        unsealed(part)
        content = part.read_bytes()[:40]
    else:
        content = part.read_bytes()[:-1] + bytes([part.read_bytes()[-1] ^ 1])
    assert torch.equal(call().b, whole.b) and not any("damaged" in note for note in said.notes)
    part.write_bytes(content)
    again = call()
    assert torch.equal(again.a, whole.a) and torch.equal(again.b, whole.b)
    assert [note for note in said.notes if note.startswith(f"{part} is damaged (") and "is made again" in note]


def bundled(name: str) -> LabelSettings:
    read = OmegaConf.load(config_dir() / "labels" / f"{name}.yaml")
    return OmegaConf.to_object(OmegaConf.merge(LabelSettings, read))


def test_the_bundled_encoders_are_small_described_and_useful() -> None:
    """What their cards promise, with margin, of scenes that no step drew and no data set holds."""
    settings, scenes, rng = bundled("mini"), held_out(200), Random("held-out/bundled")
    folders = [BUNDLED / str(one.bundled) for one in (settings.image, settings.text, settings.joint)]
    assert sum(path.stat().st_size for folder in folders for path in folder.iterdir()) <= 8e6
    for folder in folders:
        card = (folder / "README.md").read_text()
        assert all(word in card for word in ("Class", "Data", "Steps", "Time", "Hardware", "Seed", "Scores", "Limits"))
    images, texts, joint = (
        Embedder(plan_embedder(kind, getattr(settings, kind)), "cpu") for kind in ("image", "text", "joint")
    )
    pictures = [draw(scene) for scene in scenes]
    near = neighbours(images.pictures(pictures), multi_hot([shown(scene) for scene in scenes], CATEGORIES))
    assert near["nearest shares one"] > 0.8 > 0.3 > near["any shares one"] and near["Spearman"] > 0.3
    facts = list({(fact := true_fact(scene, rng)).text(): fact for scene in scenes}.values())
    near = neighbours(
        texts.sentences([fact.text() for fact in facts]), multi_hot([said(fact) for fact in facts], WORDS)
    )
    assert near["Jaccard of nearest"] > 3 * near["Jaccard of any"] and near["Spearman"] > 0.5
    seen = normalize(joint.pictures(pictures), dim=1)
    lists, true, wrong = (
        normalize(joint.sentences([make(scene, rng).text() for scene in scenes]), dim=1)
        for make in (listed, true_fact, false_fact)
    )
    assert min(recall(lists @ seen.T), recall(seen @ lists.T)) > 0.6, "chance is 0.005"
    assert ((seen * true).sum(dim=1) > (seen * wrong).sum(dim=1)).float().mean() > 0.7


@pytest.mark.parametrize("name", ["mini", "sugar"])
def test_every_option_fits_the_settings(name: str) -> None:
    settings = bundled(name)
    assert isinstance(settings, LabelSettings)
    for one in (settings.image, settings.text, settings.joint):
        assert (one.bundled or one.hub_id) and one.revision is None
