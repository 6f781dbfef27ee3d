"""A checkpoint's processor, also where torchvision is missing. Knows no prompts and opens no weights.

Many families read videos too, and their processors refuse to exist without a video processor, which needs torchvision
(SmolVLM's needs num2words as well). Where `AutoProcessor` gives up, the family's own class loads its parts once more,
with one of them exchanged: `NoVideo` stands where the video processor would be. Text and pictures pass through the same
code as ever, and transformers itself is as it was when the load is over.
"""

import sys
from collections.abc import Iterator, MutableMapping
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

from mllm_probe.errors import ModelError
from mllm_probe.models.loading.classes import untrusted
from mllm_probe.models.loading.reasons import because
from mllm_probe.models.loading.soundness import check_scaling

NAMED_IN = (  # where AutoProcessor looks for the name of a processor's class, in its order
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
)


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
