"""A checkpoint's processor, also where torchvision is missing. Knows no prompts and opens no weights.

Many families read videos too, and their processors refuse to exist without a video processor, which needs torchvision
(SmolVLM's needs num2words as well). Where `AutoProcessor` gives up, the family's own class loads its parts once more,
with one of them exchanged: `NoVideo` stands where the video processor would be. Text and pictures pass through the same
code as ever, and transformers itself is as it was when the load is over.

Beside its files it is told the user's settings, and what its files left to config.json.
"""

import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoProcessor
from transformers.image_processing_utils import ImageProcessingMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.video_processing_auto import get_video_processor_config
from transformers.utils import is_torchvision_available, safe_load_json_file

from mllm_probe.errors import ConfigError, ModelError, choices
from mllm_probe.models.loading.classes import check_scaling, untrusted
from mllm_probe.models.loading.reasons import because, briefly
from mllm_probe.models.prompts.picture_tags import PICTURE

NAMED_IN = (  # where AutoProcessor looks for the name of a processor's class, in its order
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
)
NOT_SETTINGS = {"return_tensors", "device", "data_format", "input_data_format", "disable_grouping"}  # of a call
SWITCHES = {  # a setting without which another does nothing
    "size": "do_resize",
    "resample": "do_resize",
    "crop_size": "do_center_crop",
    "rescale_factor": "do_rescale",
    "image_mean": "do_normalize",
    "image_std": "do_normalize",
    "pad_size": "do_pad",
}


class NoVideo(ImageProcessingMixin):  # type: ignore[misc]
    """Refuses videos. Some processors look at its settings: it has the saved ones, and None for the others."""

    model_input_names = ()
    needs = "torchvision"

    @classmethod
    def from_pretrained(cls, folder: Path, **_: Any) -> "NoVideo":
        return cls(**get_video_processor_config(folder))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return None  # the default comes with torchvision, and whatever is made of it serves videos only

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise ModelError(f"videos need {self.needs}; without, only text and pictures can be read")

    fetch_videos = __call__


def load_processor(folder: Path, trust_remote_code: bool) -> Any:
    """A processor of the checkpoint's own class, for text and pictures. Raises ModelError."""
    name, brought = None, False
    try:
        brought = any(file.get("auto_map") for file in told_by(folder))
        name = _class_name(folder, trust_remote_code)
        processor = _loaded(folder, trust_remote_code, name)
    except Exception as error:  # transformers raises anything here
        if brought and not trust_remote_code and not hasattr(transformers, name or ""):
            raise untrusted(folder, "processor") from error
        kind = name or "the processor"
        said = str(error).replace(str(folder), "").lower()
        if "torchvision" in said and not is_torchvision_available():
            raise ModelError(
                f"{folder}: {kind} needs torchvision even for pictures, and it is not installed; "
                "run `pip install torchvision`"
            ) from error
        why = because(folder, error, "processor")
        raise ModelError(f"{folder}: {kind} cannot be used ({why})") from error
    for part in ("image_processor", "tokenizer"):
        if not hasattr(processor, part):
            raise ModelError(
                f"{folder}: {name or 'the processor'} loads as {type(processor).__name__}, which has no {part}; "
                "save the processor of a model for text and pictures there"
            )
    check_scaling(folder, processor.image_processor)
    return processor


def check_vocabulary(folder: Path, tokenizer: Any, image: int | None, rows: int) -> None:
    """Whether a tokenizer can be that of a model with `rows` embeddings and this image token. Raises ModelError."""
    ids = tokenizer.get_vocab().values()
    if image is not None and image not in ids:
        raise ModelError(
            f"{folder}: config.json has the image token {image}, which is not among the {len(ids)} tokens of the "
            "processor's vocabulary; the processor is another model's"
        )
    if max(ids) >= rows:
        raise ModelError(
            f"{folder}: the tokenizer has tokens up to {max(ids)}, the model embeds those up to {rows - 1}; "
            "the processor is another model's"
        )


def told_by(folder: Path) -> list[dict[str, Any]]:
    """What the files of a processor say. Raises what a damaged one raises."""
    return [safe_load_json_file(str(folder / file)) for file in NAMED_IN if (folder / file).is_file()]


def _class_name(folder: Path, trust_remote_code: bool) -> str | None:
    """As AutoProcessor finds it; None for a class that transformers does not have."""
    files = told_by(folder)
    if trust_remote_code and any("AutoProcessor" in (file.get("auto_map") or {}) for file in files):
        return None
    named = [file["processor_class"] for file in files if file.get("processor_class")]
    if named:
        return named[0]
    config = type(AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code))
    return PROCESSOR_MAPPING[config].__name__ if config in PROCESSOR_MAPPING else None


def _loaded(folder: Path, trust_remote_code: bool, name: str | None) -> Any:
    try:
        return AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception:
        real = _real_class(name) if name else None
        if real is None:
            raise
        parts = vars(sys.modules[real.__module__])
        wordless = parts.get("num2words", str) is None
        if is_torchvision_available() and not wordless:
            raise
    # SmolVLM's __init__ wants num2words, which writes out the times of a video's frames and nothing else
    with _lent(parts, "num2words", str) if wordless else nullcontext():
        processor = _without_video(real).from_pretrained(folder, trust_remote_code=trust_remote_code)
    processor.__class__ = real
    if wordless:
        processor.video_processor.needs = "torchvision and num2words"
    return processor


def _without_video(real: Any) -> Any:
    """The class itself, but that it takes NoVideo for its video processor and finds no fault with it."""

    def part(name: str) -> Any:
        return NoVideo if name in (NoVideo.__name__, "VideoProcessorMixin") else real.get_possibly_dynamic_module(name)

    changes = {
        "video_processor_class": NoVideo.__name__,
        "get_possibly_dynamic_module": staticmethod(part),
        "get_attributes": classmethod(lambda _: real.get_attributes()),  # some look for them in the class's own dict
    }
    return type(real.__name__, (real,), changes)


def _real_class(name: str) -> Any:
    """A processor class by its name, also where transformers shows a placeholder that asks for torchvision."""
    found = getattr(transformers, name, None)
    if not getattr(found, "is_dummy", False):
        return found
    try:
        module = import_module(found.__module__)
    except ModuleNotFoundError:
        # Pixtral's module imports a function from the picture module for torchvision; the one for pillow has it too
        package, _, family = found.__module__.rpartition(".processing_")
        pillow = import_module(f"{package}.image_processing_pil_{family}")
        with _lent(sys.modules, f"{package}.image_processing_{family}", pillow):
            module = import_module(found.__module__)
    return getattr(module, name)


@contextmanager
def _lent(names: MutableMapping[str, Any], name: str, value: Any) -> Iterator[None]:
    """A name that means something else for a moment."""
    before = {name: names[name]} if name in names else {}
    names[name] = value
    try:
        yield
    finally:
        del names[name]
        names.update(before)


def set_up(folder: Path, processor: Any, settings: Mapping[str, Any] | None) -> None:
    """Give a processor's picture processor these settings. Raises ConfigError, ModelError."""
    if settings is None:
        return
    images = processor.image_processor
    kind, known = type(images), getattr(type(images), "valid_kwargs", None)
    allowed = set(getattr(known, "__annotations__", ())) - NOT_SETTINGS
    for name in settings:
        if name not in allowed:
            raise ConfigError(
                f"model.processor names '{name}', which {kind.__name__} does not take; {choices(str(name), allowed)}"
            )
        if isinstance(getattr(images, name, None), bool) and not isinstance(settings[name], bool):
            raise ConfigError(f"model.processor.{name}={settings[name]} must be true or false")
    try:
        changed = kind.from_dict(images.to_dict(), **settings)
        changed(images=[PICTURE], return_tensors="pt")
    except Exception as error:  # transformers raises anything here
        said = briefly(error)
        raise ConfigError(f"model.processor={dict(settings)} cannot be used by {kind.__name__} ({said})") from error
    for name, switch in SWITCHES.items():
        if name in settings and not getattr(changed, switch, True):
            raise ConfigError(
                f"model.processor.{name} does nothing, since {kind.__name__} has {switch}=false; set {switch} as well"
            )
    check_scaling(folder, changed)
    processor.image_processor = changed
    fixed = getattr(processor, "images_kwargs", None) or {}  # what a class always asks of its picture processor
    if own := {name: settings[name] for name in fixed if name in settings}:
        processor.images_kwargs = {**fixed, **own}


def complete(processor: Any, config: Any, told: Mapping[str, Any], more: int) -> str:
    """Fill in what a LLaVA's processor counts picture tokens by, where its files (`told`) leave it to the model, as
    older ones do. `more` tokens of its tower (class, registers) are no patches. What was filled in, in words."""
    known = {
        "patch_size": getattr(getattr(config, "vision_config", None), "patch_size", None),
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", None),
        "num_additional_image_tokens": more,
    }
    lacking = {name: value for name, value in known.items() if name not in told and value is not None}
    found = {name: value for name, value in lacking.items() if getattr(processor, name, value) != value}
    for name, value in found.items():
        setattr(processor, name, value)
    return ", ".join(f"{name}={value}" for name, value in found.items())


def check_tags(folder: Path, processor: Any, config: Any, more: int) -> None:
    """Whether a LLaVA's processor counts the `more` tokens of the tower that are no patches as the model does: all but
    the first with the strategy `default`. Raises ModelError."""
    strategy = getattr(config, "vision_feature_select_strategy", None)
    if config.model_type != "llava" or strategy is None:
        return
    written = processor.num_additional_image_tokens - (processor.vision_feature_select_strategy == "default")
    given = more - (strategy == "default")
    if written != given:
        raise ModelError(
            f"{folder}: the processor writes {written} image tokens besides one for each patch, and the model has "
            f"{given} features for them ({more} tokens of its vision tower are no patches, config.json has "
            f"vision_feature_select_strategy={strategy}); set num_additional_image_tokens={more} and this strategy in "
            "processor_config.json"
        )
