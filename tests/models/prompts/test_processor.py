"""Every family's own processor loads without torchvision, and makes of text and pictures what the family makes of them.

The oracle puts the family's class together by hand, from parts and settings named here, past the check of its parts.
"""

import copy
import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, PreTrainedTokenizerFast, processing_utils
from transformers.models.auto import image_processing_auto, video_processing_auto

from mllm_probe.errors import DataError, ModelError
from mllm_probe.extraction.taps import read_states
from mllm_probe.models.hf import load_model
from mllm_probe.models.prompts import processor as loading
from mllm_probe.models.prompts.processor import NoVideo, load_processor
from mllm_probe.records.samples import Picture, Sample, digest
from mllm_probe.records.sites import Key
from tests.support.checkpoints import IMAGE_TAG, blueprint_of, make_tokenizer, save_llava
from tests.support.families import FAMILIES
from tests.support.families_more import save_llava_next
from tests.support.runs import Run, tiny

BUILDERS = {"llava": save_llava, "llava_next": save_llava_next, **FAMILIES}
CLIP = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
REAL: dict[str, tuple[str, str, dict[str, Any]]] = {  # family -> processor class, image processor class, settings
    "llava": ("LlavaProcessor", "CLIPImageProcessorPil", CLIP),
    "llava_next": ("LlavaNextProcessor", "LlavaNextImageProcessorPil", CLIP),
    "qwen2_vl": ("Qwen2VLProcessor", "Qwen2VLImageProcessorPil", {}),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLImageProcessorPil", {}),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen2VLImageProcessorPil", {}),
    "paligemma": ("PaliGemmaProcessor", "SiglipImageProcessorPil", {}),
    "internvl": ("InternVLProcessor", "GotOcr2ImageProcessorPil", {"image_seq_length": 4}),
    "idefics3": ("Idefics3Processor", "Idefics3ImageProcessorPil", {"image_seq_len": 4}),
    "smolvlm": ("SmolVLMProcessor", "SmolVLMImageProcessorPil", {"image_seq_len": 4}),
    "llava_onevision": (
        "LlavaOnevisionProcessor",
        "LlavaOnevisionImageProcessorPil",
        {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
    ),
    "mistral3": ("PixtralProcessor", "PixtralImageProcessorPil", {"patch_size": 8, "spatial_merge_size": 2}),
    "gemma3": ("Gemma3Processor", "Gemma3ImageProcessorPil", {"image_seq_length": 16}),
}
TAGS = {"internvl": "<IMG_CONTEXT>", "mistral3": "[IMG]", "gemma3": "<start_of_image>"}
VIDEO = ("internvl", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "smolvlm")
lacking = pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("families")
    return {name: build(place / name) for name, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Three shapes, so that tiles, rows and packed patches differ."""
    rng = np.random.default_rng(0)
    shapes = ((64, 64, 3), (90, 40, 3), (40, 90, 3))
    return [Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)) for shape in shapes]


def oracle(name: str, kind: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class with parts that are loaded one by one, its check of them left out."""
    _, images, settings = REAL[name]
    module = sys.modules[kind.__module__]
    if name == "smolvlm":
        monkeypatch.setattr(module, "num2words", str)
    loose = type(kind.__name__, (kind,), {"check_argument_for_proper_class": lambda *_: None})
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    pixels = image_processing_auto.get_image_processor_class_from_name(images).from_pretrained(folder)
    return loose(*(pixels, tokenizer, object())[: 3 if name in VIDEO else 2], **settings)


def same(found: Any, expected: Any) -> bool:
    assert set(found) == set(expected) and {"input_ids", "pixel_values"} <= set(found)
    return all(np.array_equal(found[key], expected[key]) for key in expected)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of PaliGemma's processor under numpy 2
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_ids_and_pixels_are_those_of_the_familys_class(
    name: str, folders: dict[str, Path], pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_processor(folders[name], False)
    kind = type(found)
    assert kind is vars(sys.modules[kind.__module__])[REAL[name][0]]
    assert kind.__module__.startswith("transformers.models.")
    expected = oracle(name, kind, folders[name], monkeypatch)
    tag = TAGS.get(name, "<|image_pad|>" if "qwen" in name else "<image>")
    one, other, third = pictures
    for texts, images in (
        ([f"{tag} a red circle"], [[other]]),
        ([f"see {tag}\n{tag} or not"], [[one, third]]),
        ([f"{tag} a", f"{tag}\nmany more words"], [[other], [third]]),
    ):
        inputs = {"text": texts, "images": images, "padding": True, "return_tensors": "pt"}
        assert same(found(**inputs), expected(**inputs))
    assert found.chat_template == (folders[name] / "chat_template.jinja").read_text()
    assert type(copy.deepcopy(found)) is kind, "each thread has its own"


def nested(source: Path, folder: Path, video: dict[str, Any]) -> Path:
    """The files as newer releases write them: one JSON file holds every part's settings."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    images = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    path = folder / "processor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_processor": images, "video_processor": video}))
    return folder


@lacking
@pytest.mark.parametrize("name", ["smolvlm", "qwen2_vl"])
def test_settings_in_one_file(name: str, folders: dict[str, Path], tmp_path: Path, pictures: list[Any]) -> None:
    kind = {"smolvlm": "SmolVLMVideoProcessor", "qwen2_vl": "Qwen2VLVideoProcessor"}[name]
    folder = nested(folders[name], tmp_path / name, {"video_processor_type": kind, "num_frames": 7})
    found, expected = (load_processor(one, False) for one in (folder, folders[name]))
    inputs = {"text": [f"{expected.image_token} a"], "images": [pictures[:1]], "return_tensors": "pt"}
    assert same(found(**inputs), expected(**inputs))
    assert found.video_processor.num_frames == 7 and expected.video_processor.num_frames is None


@lacking
def test_names_of_older_releases(folders: dict[str, Path], tmp_path: Path, pictures: list[Image.Image]) -> None:
    """`...Fast` for the picture part, the class named there alone, the template in JSON."""
    folder = shutil.copytree(folders["qwen2_vl"], tmp_path / "old", ignore=shutil.ignore_patterns("*.safetensors"))
    images = json.loads((folder / "preprocessor_config.json").read_text())
    images |= {"image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen2VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    (folder / "processor_config.json").unlink()
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    found, expected = (load_processor(one, False) for one in (folder, folders["qwen2_vl"]))
    assert type(found) is type(expected) and found.chat_template == template
    inputs = {"text": ["<|image_pad|> a"], "images": [pictures[:1]], "return_tensors": "pt"}
    assert same(found(**inputs), expected(**inputs))
    images.pop("processor_class")
    (folder / "preprocessor_config.json").write_text(json.dumps(images))
    assert type(load_processor(folder, False)) is type(expected), "named by the model's type"


@lacking
@pytest.mark.parametrize("name", VIDEO)
def test_videos_are_refused(name: str, folders: dict[str, Path]) -> None:
    found = load_processor(folders[name], False)
    assert isinstance(found.video_processor, NoVideo)
    frames = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    needs = "torchvision and num2words" if name == "smolvlm" else "torchvision"
    with pytest.raises(ModelError, match=f"^videos need {needs}; without, only text and pictures can be read$"):
        found(text=[f"{found.video_token} what moves"], videos=[[frames]])


@lacking
def test_nothing_is_left_behind_in_transformers(folders: dict[str, Path]) -> None:
    for name in (*VIDEO, "mistral3"):
        load_processor(folders[name], False)
    assert not hasattr(processing_utils.transformers_module, "VideoProcessorMixin")
    assert not video_processing_auto.VIDEO_PROCESSOR_MAPPING._extra_content
    assert sys.modules["transformers.models.smolvlm.processing_smolvlm"].num2words is None
    assert "transformers.models.pixtral.image_processing_pixtral" not in sys.modules


def test_what_loads_as_it_is_is_left_as_it_is(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_real_class", lambda name: pytest.fail(f"{name} was put together"))
    assert type(load_processor(folders["llava"], False)).__name__ == "LlavaProcessor"


def processor_alone(folder: Path, processor_class: str, images: str, tokenizer: Any) -> Path:
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": images}))
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": processor_class}))
    return folder


@lacking
def test_a_family_without_a_way_past_torchvision(tmp_path: Path) -> None:
    folder = processor_alone(tmp_path, "Llama4Processor", "Llama4ImageProcessor", make_tokenizer())
    with pytest.raises(ModelError) as error:
        load_processor(folder, False)
    assert str(error.value) == (
        f"{folder}: Llama4Processor needs torchvision even for pictures, and it is not installed; "
        "run `pip install torchvision`"
    )


def test_processors_that_are_none(folders: dict[str, Path], tmp_path: Path) -> None:
    """Damage is named by itself: torchvision would not fix it."""
    folder = processor_alone(tmp_path, "Qwen2VLProcessor", "Qwen2VLImageProcessor", make_tokenizer())
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"Qwen2VLProcessor cannot be used \((?!.*torchvision)"):
        load_processor(folder, False)
    (folder / "processor_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"the processor cannot be used \(processor_config.json holds no JSON object"):
        load_processor(folder, False)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "NobodysProcessor"}))
    with pytest.raises(ModelError, match=r"NobodysProcessor loads as Qwen2VLImageProcessorPil, which has no image_p"):
        load_processor(folder, False)


def test_code_of_a_checkpoint_is_never_replaced(folders: dict[str, Path], tmp_path: Path) -> None:
    """A trusted checkpoint brings a class of its own: if that fails, the library's is not taken for it."""
    folder = shutil.copytree(folders["qwen2_vl"], tmp_path / "own", ignore=shutil.ignore_patterns("*.safetensors"))
    own = {"processor_class": "Qwen2VLProcessor", "auto_map": {"AutoProcessor": "missing.Qwen2VLProcessor"}}
    (folder / "processor_config.json").write_text(json.dumps(own))
    with pytest.raises(ModelError, match=r"the processor cannot be used \(.*missing.py"):
        load_processor(folder, True)


def test_a_text_model(tmp_path: Path) -> None:
    make_tokenizer({}).save_pretrained(tmp_path)
    LlamaConfig(vocab_size=400).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"the processor loads as \w+, which has no image_processor"):
        load_processor(tmp_path, False)
    with pytest.raises(ModelError, match=r"a model of type 'llama' does not write text about pictures"):
        blueprint_of(tmp_path)


@pytest.fixture
def weightless(checkpoint: Path, tmp_path: Path) -> Path:
    """The tiny LLaVA without its weights: what is found here is found before they are loaded."""
    return shutil.copytree(checkpoint, tmp_path / "llava", ignore=shutil.ignore_patterns("*.safetensors"))


def test_an_image_token_outside_the_vocabulary(weightless: Path) -> None:
    config = json.loads((weightless / "config.json").read_text()) | {"image_token_id": 5000}
    (weightless / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"has the image token 5000, which is not among the 306 tokens of the proc"):
        blueprint_of(weightless)


def test_more_tokens_than_embeddings(weightless: Path) -> None:
    make_tokenizer(IMAGE_TAG, ("<more>",)).save_pretrained(weightless)
    with pytest.raises(ModelError, match=r"the tokenizer has tokens up to 306, the model embeds those up to 305"):
        blueprint_of(weightless)


def test_parts_of_different_processors(weightless: Path) -> None:
    tokenizer = make_tokenizer({"picture": "<picture>"})
    tokenizer.save_pretrained(weightless)
    with pytest.raises(ModelError, match=r"LlavaProcessor (writes no <picture>|cannot process a picture at <image>)"):
        blueprint_of(weightless)


def test_a_processor_of_another_model(weightless: Path, probe: Run) -> None:
    """Its image token is number 4, the model's is 3."""
    text = (weightless / "tokenizer.json").read_text()
    make_tokenizer({"other": "<other>", "image_token": "<image>"}).save_pretrained(weightless)
    assert (weightless / "tokenizer.json").read_text() != text
    sizes = json.loads((weightless / "config.json").read_text())
    sizes["text_config"]["vocab_size"] += 1
    (weightless / "config.json").write_text(json.dumps(sizes))
    code, _, err = probe("inspect", *tiny(weightless), "task=entailment", "data.n=20", "dataset.pictures=20")
    assert code == 1 and "Traceback" not in err
    assert (
        "LlavaProcessor writes no <other> (token 3, the image token of config.json) for a picture at <image>; "
        "the processor is another model's"
    ) in err


def sample_of(tmp_path: Path, pictures: list[Image.Image], text: str, marks: dict[str, Any]) -> Sample:
    shown = []
    for number, picture in enumerate(pictures):
        path = tmp_path / f"{number}.png"
        picture.save(path)
        shown.append(Picture(str(number), path, digest(picture.tobytes().hex())))
    return Sample.of(shown, text, marks)


def test_the_tag_of_gemma3_is_not_its_image_token(
    folders: dict[str, Path], tmp_path: Path, pictures: list[Image.Image]
) -> None:
    """<start_of_image> stands in the text; behind it the processor writes 16 <image_soft_token> for each picture."""
    gemma = blueprint_of(folders["gemma3"])
    sample = sample_of(tmp_path, pictures[:2], "a red circle", {"thing": (2, 5)})
    assert gemma.prompter.render(sample).text.count("<start_of_image>") == 2
    inputs = gemma.process([sample])
    (layout,) = gemma.layouts([sample], inputs)
    ids, tokenizer = inputs["input_ids"][0].tolist(), gemma.processor.tokenizer
    assert list(layout.ids) == ids
    soft = [i for i, token in enumerate(ids) if token == tokenizer.convert_tokens_to_ids("<image_soft_token>")]
    assert len(soft) == 32 and layout.rows("tokens:image") == [[i] for i in soft]
    assert layout.rows("last_image") == [soft[-1:]]
    (mark,) = layout.rows("mark:thing")
    assert tokenizer.decode(ids[: mark[0] + 1]).endswith("a red")
    (text,) = layout.rows("mean_text")
    assert tokenizer.decode([ids[i] for i in text]).strip() == "a red circle" and soft[-1] < text[0]
    assert torch.equal(inputs["input_ids"][0, soft], torch.full((32,), gemma.prompter.tag.image))


def test_gemma3_reads_its_pictures(folders: dict[str, Path], tmp_path: Path, pictures: list[Image.Image]) -> None:
    """Pictures are told apart where they are read, the same picture twice is not."""
    model = load_model(blueprint_of(folders["gemma3"]), "cpu")
    samples = []
    for place, shown, text in (("a", 0, "a"), ("b", 1, "a"), ("c", 0, "a red circle")):
        (tmp_path / place).mkdir()
        samples.append(sample_of(tmp_path / place, pictures[shown : shown + 1], text, {}))
    key = Key.parse("lm.00@mean_image")
    one, other, again = read_states(model, model.collate(samples, [key]), [key], torch.float32).values[key]
    assert not torch.allclose(one, other, atol=1e-3) and torch.allclose(one, again, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "kind", "tag"),
    [
        ("gemma3", "image", "<start_of_image>"),
        ("gemma3", "image", "<image_soft_token>"),
        ("llava_onevision", "video", "<video>"),
    ],
)
def test_no_tag_may_stand_in_a_text(
    family: str, kind: str, tag: str, folders: dict[str, Path], tmp_path: Path, pictures: list[Image.Image]
) -> None:
    prompter = blueprint_of(folders[family]).prompter
    with pytest.raises(DataError, match=f"contains the {kind} tag {tag}; remove it from the caption"):
        prompter.render(sample_of(tmp_path, pictures[:1], f"a {tag} circle", {}))


def test_why_a_picture_cannot_be_processed_is_said(weightless: Path) -> None:
    """As older LLaVA checkpoints are, whose processors do not say the size of a patch."""
    said = json.loads((weightless / "processor_config.json").read_text())
    said["patch_size"] = None
    (weightless / "processor_config.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match=r"LlavaProcessor cannot process a picture at <image>: .*NoneType"):
        blueprint_of(weightless)
