"""Where a checkpoint is on this disk, and whether all its parts are there. Loads nothing."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from mllm_probe.config.model import (
    ATTENTIONS,
    CHATS,
    DTYPES,
    KEEP,
    KEEPS,
    ONE,
    PLACEMENTS,
    QUANTIZATIONS,
    WEIGHTS,
    CheckpointSettings,
    ModelSettings,
    PromptSettings,
)
from mllm_probe.errors import ConfigError, ModelError, choices, first_line
from mllm_probe.files.seals import read_object
from mllm_probe.models.loading.whole import check_small, need_weights
from mllm_probe.records.sites import TOWERS

FETCHED, CODE = ("*.json", "*.model", "*.txt", "*.jinja"), ("*.py",)
PROCESSOR = ("processor", "processor_config.json", "preprocessor_config.json")  # what reads inputs, and its files
TOKENIZER = ("tokenizer", "tokenizer.json", "tokenizer_config.json")
WEIGHTED = ("vae", "unet", "transformer", "text_encoder", "text_encoder_2", "image_encoder")  # folders of a pipeline
VARIANTS = ("*.fp16*", "*.bf16*", "*.non_ema*")  # further copies of the weights of a pipeline
ADAPTER = "adapter_config.json"
MADE = ("smol_dino", "smol_dino_base")  # by a script of ours, of weights that packages carry
BUNDLED = Path(__file__).resolve().parents[2] / "bundled"


def check_settings(model: ModelSettings, prompt: PromptSettings) -> None:
    """Refuse values that no file needs to be opened for. Raises ConfigError."""
    for name, value, allowed in (
        ("model.weights", model.weights, WEIGHTS),
        ("model.quantization", model.quantization, QUANTIZATIONS),
        ("model.dtype", model.dtype, DTYPES),
        ("model.attn", model.attn, ATTENTIONS),
        ("model.placement", model.placement, PLACEMENTS),
        ("model.keep_dequantised", model.keeping, KEEPS),
        ("prompt.chat", prompt.chat, CHATS),
        *(("model.quantize", tower, TOWERS) for tower in model.quantize),
    ):
        if value not in allowed:
            raise ConfigError(f"{name}={value} is unknown; {choices(value, allowed)}")
    if model.keeping == KEEP and model.placement != ONE:
        raise ConfigError(
            f"model.keep_dequantised=true needs model.placement={ONE}, found {model.placement}; leave one of them out"
        )
    if model.processor is not None and not isinstance(model.processor, dict):
        raise ConfigError(f"model.processor={model.processor} must be null or settings, such as {{max_pixels: 401408}}")


def find_checkpoint(
    model: CheckpointSettings,
    setting: str = "model.path",
    weights: bool = True,
    readers: Sequence[tuple[str, ...]] = (PROCESSOR,),
) -> Path:
    """The folder with the weights and the processor, fetched from the hub where it must be. `setting` is where the user
    gives a folder; `weights` False asks for the config and the processor alone; `readers` are what must be there to
    read inputs. Raises ConfigError, ModelError."""
    folder = find_folder(model, setting, weights)
    check_parts(folder, readers)
    if weights and not (isinstance(model, ModelSettings) and model.weights == "random"):
        need_weights(folder)
    return folder


def find_folder(model: CheckpointSettings, setting: str, weights: bool = True) -> Path:
    """As `find_checkpoint`, but the folder may be a diffusion pipeline, and its parts are not checked."""
    if model.revision is not None and (model.path is not None or model.bundled is not None):
        place = "this one is bundled" if model.path is None else f"{setting}={model.path} is a folder"
        raise ConfigError(
            f"{setting.replace('.path', '.revision')}={model.revision} is a version of a checkpoint on the hub, and "
            f"{place}; leave it out"
        )
    if model.path is not None:
        folder = Path(model.path).expanduser()
    elif model.bundled is not None:
        folder = BUNDLED / model.bundled
    elif model.hub_id is not None:
        folder = _from_hub(model, setting, weights)
    else:
        raise ConfigError(f"no checkpoint is named; give {setting}=FOLDER or {_hub(setting)}=OWNER/NAME")
    if not folder.is_dir():
        made = "; make it with `python scripts/get_small_model.py`" if folder.name in MADE else ""
        raise ModelError(f"the checkpoint folder {folder} does not exist{made}")
    return folder


def is_pipeline(folder: Path) -> bool:
    """Whether a folder holds a diffusion pipeline, each part in a folder of its own."""
    return (folder / "model_index.json").is_file()


def _hub(setting: str) -> str:
    return setting.replace(".path", ".hub_id")


def connector_reads(folder: Path, blocks: int) -> int | None:
    """Which layer of a vision tower of so many blocks the connector reads, None where config.json does not say."""
    layer = read_object(folder / "config.json").get("vision_feature_layer")
    return layer % (blocks + 1) if isinstance(layer, int) else None


def needs(model: ModelSettings, weights: bool = True) -> str | None:
    """One line on what `find_checkpoint` would fetch, None where the checkpoint is local."""
    if model.path is not None or model.bundled is not None or model.hub_id is None:
        return None
    size = f"about {model.download_gb:g} GB" if model.download_gb else "of unknown size"
    size = size if weights else "only its config and processor"
    return f"{model.label} needs the checkpoint {model.hub_id} ({size}), from the local hub cache or a download"


def _from_hub(model: CheckpointSettings, setting: str, weights: bool) -> Path:
    """From the local hub cache if it is there, else from the hub: the small files tell which weights are needed."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    assert model.hub_id is not None
    own = model if isinstance(model, ModelSettings) else ModelSettings()
    small = [*FETCHED, *CODE * own.trust_remote_code]
    fetch = partial(snapshot_download, model.hub_id, revision=model.revision)
    wanted = weights and own.weights == "pretrained"
    try:
        found = _fetched(lambda: fetch(local_files_only=True), LocalEntryNotFoundError)
        if found is None:
            found = Path(fetch(allow_patterns=small))
        if wanted and _bare(found):
            left = list(VARIANTS) if is_pipeline(found) else None
            found = Path(fetch(allow_patterns=[*small, *_tensors(found)], ignore_patterns=left))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(_why_not(model, setting, error)) from error
    if wanted and _bare(found):
        raise ModelError(
            f"the checkpoint {model.hub_id} is on this machine without weights (*.safetensors), and none could be "
            f"fetched; try again where the hub can be reached, or give a local folder with {setting}=FOLDER"
        )
    return found


def _fetched(fetch: Callable[[], str], absent: type[Exception]) -> Path | None:
    try:
        return Path(fetch())
    except absent:
        return None


def _bare(folder: Path) -> bool:
    return not all(any(folder.glob(pattern)) for pattern in _tensors(folder))


def _tensors(folder: Path) -> list[str]:
    """Where the weights lie, as the small files tell: a pipeline has single-file copies beside its parts."""
    if not is_pipeline(folder):
        return ["*.safetensors"]
    return [f"{part}/*.safetensors" for part in WEIGHTED if (folder / part).is_dir()]


def _why_not(model: CheckpointSettings, setting: str, error: Exception) -> str:
    """One sentence for what the hub says, the most special first."""
    from huggingface_hub import errors

    what = f"{_hub(setting)}={model.hub_id}"
    if isinstance(error, errors.GatedRepoError):
        return f"{what} is gated: accept its licence on its page of the hub, then log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{what} is not on the hub, or is private: check its name, or log in with `hf auth login` to an account "
            "that may read it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{what} has no revision '{model.revision}'; give a branch, a tag or a commit that it has"
    if isinstance(error, errors.HFValidationError):
        return f"{what} is no name of the hub; give OWNER/NAME, or a local folder with {setting}=FOLDER"
    if isinstance(error, errors.LocalEntryNotFoundError):
        why = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE") else "the hub cannot be reached"
        return (
            f"{what} is not on this machine, and {why}; run `hf download {model.hub_id}` where there is a network, or "
            f"give a local folder with {setting}=FOLDER"
        )
    return f"{what} could not be fetched ({type(error).__name__}: {first_line(error)}); repeat the command to try again"


def check_parts(folder: Path, readers: Sequence[tuple[str, ...]] = (PROCESSOR,)) -> None:
    """Raises ModelError where a checkpoint has no config, or nothing that reads its inputs, or an adapter beside its
    weights."""
    refuse_adapter(folder)
    check_small(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is no checkpoint: it has no config.json")
    for reader, *names in readers:
        if not any((folder / name).is_file() for name in names):
            raise ModelError(
                f"{folder} has no {reader} (neither {' nor '.join(names)}); save the model's {reader} in the same "
                "folder"
            )


def refuse_adapter(folder: Path) -> None:
    """Raises ModelError for a folder with a low-rank adapter, which transformers would apply without a word: to weights
    that it is merged into already a second time."""
    if not (folder / ADAPTER).is_file():
        return
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds a low-rank adapter and no model; choose the model it was trained on, and set "
            f"model.adapter={folder}"
        )
    raise ModelError(
        f"{folder} holds a low-rank adapter ({ADAPTER}) next to the weights of a model, which may already contain it; "
        "move the adapter to a separate folder, and set model.adapter to that folder to apply it"
    )
