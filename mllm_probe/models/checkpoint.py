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
    CheckpointSettings,
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


def find_checkpoint(model: CheckpointSettings, setting: str = "model.path") -> Path:
    """The folder with the weights and the processor, fetched from the hub where it must be; `setting` is where the
    user gives a folder. Raises ConfigError, ModelError."""
    if model.path is not None:
        folder = Path(model.path).expanduser()
    elif model.bundled is not None:
        folder = BUNDLED / model.bundled
    elif model.hub_id is not None:
        folder = _from_hub(model, setting)
    else:
        hub = setting.replace(".path", ".hub_id")
        raise ConfigError(f"no checkpoint is named; give {setting}=FOLDER or {hub}=OWNER/NAME")
    _check_parts(folder)
    return folder


def needs(model: ModelSettings) -> str | None:
    """One line on what a run would fetch, None where the checkpoint is local."""
    if model.path is not None or model.bundled is not None or model.hub_id is None:
        return None
    size = f"about {model.download_gb:g} GB" if model.download_gb else "of unknown size"
    return f"model={model.name} needs the checkpoint {model.hub_id} ({size}), from the local hub cache or a download"


def _from_hub(model: CheckpointSettings, setting: str) -> Path:
    import os

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    assert model.hub_id is not None
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(
            snapshot_download(model.hub_id, revision=model.revision, local_files_only=True, allow_patterns=patterns)
        )
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(model.hub_id, revision=model.revision, allow_patterns=patterns))
    except (HfHubHTTPError, OSError, ValueError) as error:
        if isinstance(error, LocalEntryNotFoundError):
            why = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
        else:
            why = type(error).__name__
        raise ModelError(
            f"the checkpoint {model.hub_id} is not on this machine and could not be fetched ({why}); "
            f"give a local folder with {setting}=FOLDER, or log in with `hf auth login` if the model is gated"
        ) from error


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
