"""One vector a slice against transformers' own outputs, on tiny random checkpoints; each is computed once and kept."""

from pathlib import Path

import pytest
import torch
from conftest import Silent, make_tokenizer
from encoders import save_bert, save_clip, save_dinov2, save_dual, save_llama, save_registers, save_siglip
from omegaconf import OmegaConf
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, ResNetConfig, ResNetModel
from transformers.models.clip import CLIPImageProcessorPil

from mllm_probe.data.documents import Slice, draw_documents
from mllm_probe.digests import Digests
from mllm_probe.errors import CacheError, ConfigError, MllmProbeError, ModelError
from mllm_probe.label_settings import EmbedderSettings, LabelSettings
from mllm_probe.models.embedders import Embedder, plan_embedder
from mllm_probe.paths import OutputPaths, config_dir
from mllm_probe.settings import CheckpointSettings
from mllm_probe.stages.labels import slice_vectors
from mllm_probe.types import Collection

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
    embedder, model = loaded("joint", folders[name]), AutoModel.from_pretrained(folders[name])
    tokenizer, images = (kind.from_pretrained(folders[name]) for kind in (AutoTokenizer, AutoImageProcessor))
    texts = tokenizer(SENTENCES, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        both = model(**texts, **images(PICTURES, return_tensors="pt"))
    found = [
        torch.nn.functional.normalize(one, dim=1)
        for one in (embedder.pictures(PICTURES), embedder.sentences(SENTENCES))
    ]
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


def test_what_cannot_be_an_encoder_is_one_sentence(folders: dict[str, Path], tmp_path: Path) -> None:
    refused(
        "labels.joint: Dinov2Model has no space that pictures and sentences share", "joint", folders["dinov2_misfit"]
    )
    refused("labels.text: Dinov2Model has no text tower; choose a text encoder", "text", folders["dinov2_misfit"])
    refused("labels.image: LlamaModel has no vision tower; choose a vision", "image", folders["llama_misfit"])
    refused("bert has no processor", "joint", folders["bert"])
    refused("wordless has no tokenizer", "text", folders["wordless"])
    refused("LlamaModel gives different inputs one vector by pooling=class", "text", folders["llama"])
    refused("LlamaModel gives no vector an input by pooling=pooler", "text", folders["llama"], "pooler")
    refused("ResNetModel cuts no patches", "image", folders["resnet"])
    refused("wordless has no tokenizer", "joint", folders["wordless"])
    refused("do not hold a class token before 3 x 3 patches; use mean", "image", folders["siglip"], error=ConfigError)
    refused("labels.image.pooling=last is unknown", "image", folders["siglip"], "last", ConfigError)
    refused("labels.text.pooling=mea is unknown; did you mean 'mean'", "text", folders["bert"], "mea", ConfigError)
    with pytest.raises(ConfigError, match="give labels.text.path=FOLDER or labels.text.hub_id=OWNER/NAME"):
        plan_embedder("text", EmbedderSettings())


def slices_of(scenes: Collection) -> list[Slice]:
    return [one for document in draw_documents(scenes.pictures, 12, 3, seed=0) for one in document.slices]


def settings_of(folders: dict[str, Path], **more: object) -> LabelSettings:
    return LabelSettings(
        EmbedderSettings(path=str(folders["dinov2"])),
        EmbedderSettings(path=str(folders["bert"])),
        CheckpointSettings(path=str(folders["clip"])),
        micro_batch=5,
        **more,  # type: ignore[arg-type]
    )


def test_vectors_are_computed_once(
    folders: dict[str, Path], scenes: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mllm_probe.stages import labels

    settings, slices, outputs, reporter = settings_of(folders), slices_of(scenes), OutputPaths(tmp_path), Silent()

    def call(*chosen: Slice, settings: LabelSettings = settings) -> object:
        return slice_vectors(settings, chosen, outputs, "cpu", Digests(outputs.digests), reporter)

    monkeypatch.setattr(labels, "PART", 4)
    first = call(*slices[:8])
    both = call(*slices)
    assert both.uids == tuple(dict.fromkeys(one.uid for one in slices)) and both.b.shape[1] == 24
    torch.testing.assert_close(both.a[: len(first.uids)], first.a)
    images, texts, joint = (
        loaded("image", folders["dinov2"], "class"),
        loaded("text", folders["bert"], "class"),
        loaded("joint", folders["clip"]),
    )
    for one in slices[:4]:
        row = both.uids.index(one.uid)
        picture = Image.open(one.picture.path).convert("RGB")
        expected = [
            e.sentences([one.text])[0] if one.text else e.pictures([picture])[0]
            for e in (texts if one.text else images, joint)
        ]
        torch.testing.assert_close(both.a[row], expected[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(both.b[row], expected[1], atol=1e-5, rtol=1e-4)
        assert both.kinds[row] == int(one.text is not None)
    assert any("sentences are cut to the 16 tokens" in note for note in reporter.notes)

    def never(*_: object) -> None:
        raise AssertionError("an encoder was loaded")

    monkeypatch.setattr("mllm_probe.models.embedders.Embedder.__init__", never)
    torch.testing.assert_close(call(*reversed(slices)).b.flip(0).sum(0), both.b.sum(0), atol=1e-4, rtol=1e-4)
    only = call(*slices, settings=settings_of(folders, joint_only=True))
    torch.testing.assert_close(only.a, both.b)
    with pytest.raises(AssertionError, match="an encoder was loaded"):
        call(
            *slices,
            settings=LabelSettings(
                EmbedderSettings(path=str(folders["dinov2"]), pooling="mean"), settings.text, settings.joint
            ),
        )
    damaged = next(tmp_path.glob("labels/*/*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(CacheError, match=r"safetensors is damaged .*delete it"):
        call(*slices)


@pytest.mark.parametrize("name", ["mini", "sugar"])
def test_every_option_fits_the_settings(name: str) -> None:
    settings = OmegaConf.to_object(
        OmegaConf.merge(LabelSettings, OmegaConf.load(config_dir() / "labels" / f"{name}.yaml"))
    )
    assert isinstance(settings, LabelSettings)
    for one in (settings.image, settings.text, settings.joint):
        assert (one.bundled or one.hub_id) and one.revision is None
