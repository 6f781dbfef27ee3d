"""Settings of a processor besides its files: the user's, and those in config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mllm_probe.errors import ConfigError, choices
from mllm_probe.models.loading.reasons import briefly
from mllm_probe.models.loading.soundness import check_scaling
from mllm_probe.models.prompts.picture_tags import PICTURE

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


def complete(processor: Any, config: Any, told: Mapping[str, Any], leading: int) -> str:
    """Fill in what a LLaVA's processor counts picture tokens by, where its files (`told`) leave it to the model, as
    older ones do. `leading` class tokens stand before the patches of its tower. What was filled in, in words."""
    if not hasattr(processor, "num_additional_image_tokens"):
        return ""
    known = {
        "patch_size": getattr(getattr(config, "vision_config", None), "patch_size", None),
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", None),
        "num_additional_image_tokens": leading,
    }
    lacking = {name: value for name, value in known.items() if name not in told and value is not None}
    found = {name: value for name, value in lacking.items() if getattr(processor, name, value) != value}
    for name, value in found.items():
        setattr(processor, name, value)
    return ", ".join(f"{name}={value}" for name, value in found.items())
