"""Where a checkpoint lies on this disk, and whether all its parts are there. Loads nothing."""

from pathlib import Path

from mllm_probe.errors import ConfigError, ModelError, choices
from mllm_probe.settings import (
    ATTENTIONS,
    CHATS,
    DTYPES,
    PLACEMENTS,
    QUANTIZATIONS,
    WEIGHTS,
    ModelSettings,
    PromptSettings,
)
from mllm_probe.sites import TOWERS

BUNDLED = Path(__file__).resolve().parent.parent / "bundled"


def check_settings(model: ModelSettings, prompt: PromptSettings) -> None:
    """Refuse values that no file needs to be opened for. Raises ConfigError."""
    for name, value, allowed in (
        ("model.weights", model.weights, WEIGHTS),
        ("model.quantization", model.quantization, QUANTIZATIONS),
        ("model.dtype", model.dtype, DTYPES),
        ("model.attn", model.attn, ATTENTIONS),
        ("model.placement", model.placement, PLACEMENTS),
        ("prompt.chat", prompt.chat, CHATS),
        *(("model.quantize", tower, TOWERS) for tower in model.quantize),
    ):
        if value not in allowed:
            raise ConfigError(f"{name}={value} is unknown; {choices(value, allowed)}")


def find_checkpoint(model: ModelSettings, weights: bool = True) -> Path:
    """The folder with the weights and the processor, fetched from the hub where it must be; `weights` False asks for
    the config and the processor alone. Raises ModelError."""
    if model.path is not None:
        folder = Path(model.path).expanduser()
    elif model.bundled is not None:
        folder = BUNDLED / model.bundled
    elif model.hub_id is not None:
        folder = _from_hub(model, weights)
    else:
        raise ConfigError("model=custom needs model.path=FOLDER or model.hub_id=OWNER/NAME")
    _check_parts(folder)
    return folder


def needs(model: ModelSettings, weights: bool = True) -> str | None:
    """One line on what `find_checkpoint` would fetch, None where the checkpoint is local."""
    if model.path is not None or model.bundled is not None or model.hub_id is None:
        return None
    size = f"about {model.download_gb:g} GB" if model.download_gb else "of unknown size"
    size = size if weights else "its config and processor alone"
    return f"model={model.name} needs the checkpoint {model.hub_id} ({size}), from the local hub cache or a download"


def _from_hub(model: ModelSettings, weights: bool) -> Path:
    import os

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    assert model.hub_id is not None
    patterns = ["*.json", "*.model", "*.txt", "*.jinja", *(["*.safetensors"] if weights else [])]

    def bare(folder: Path) -> bool:
        """A look at the prompts may have fetched all but the weights."""
        return weights and model.weights == "pretrained" and not any(folder.glob("*.safetensors"))

    try:
        found = Path(
            snapshot_download(model.hub_id, revision=model.revision, local_files_only=True, allow_patterns=patterns)
        )
        if not bare(found):
            return found
    except LocalEntryNotFoundError:
        pass
    try:
        found = Path(snapshot_download(model.hub_id, revision=model.revision, allow_patterns=patterns))
    except (HfHubHTTPError, OSError, ValueError) as error:
        if isinstance(error, LocalEntryNotFoundError):
            why = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
        else:
            why = type(error).__name__
        raise ModelError(
            f"the checkpoint {model.hub_id} is not on this machine and could not be fetched ({why}); "
            "give a local folder with model.path=FOLDER, or log in with `hf auth login` if the model is gated"
        ) from error
    if bare(found):
        raise ModelError(
            f"the checkpoint {model.hub_id} is on this machine without weights (*.safetensors), and none could be "
            "fetched; try again where the hub can be reached, or give a local folder with model.path=FOLDER"
        )
    return found


def _check_parts(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"the checkpoint folder {folder} does not exist")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is no checkpoint: it has no config.json")
    if not any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
        raise ModelError(
            f"{folder} has no processor (neither processor_config.json nor preprocessor_config.json); "
            "save the model's processor into the same folder"
        )
