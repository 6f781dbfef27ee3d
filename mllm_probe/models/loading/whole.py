"""Whether the files of a checkpoint are there from end to end, and hold weights that can be read as what they are.

A download that was cut off, or a pointer in place of a file, is named before anything is loaded. bitsandbytes' nf4 and
8 bits are read where they are asked for by name; other kinds would be called by a wrong name, or come out otherwise on
every machine, and are refused with a word on what they are.
"""

import json
from pathlib import Path
from typing import Any

from mllm_probe.config.model import ModelSettings
from mllm_probe.errors import ConfigError, ModelError
from mllm_probe.files.seals import read_object

WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors")
SMALL = (
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    *(f"{name}.index.json" for name in WEIGHTS),
)
POINTER = b"version https://git-lfs"
WHOLE_NUMBERS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")
LENGTH = 8  # bytes that hold the length of a safetensors header
BITSANDBYTES = "bitsandbytes"
NAMES = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp4": "bitsandbytes' fp4",
    "fp8": "8-bit floating point",
    "mlx": "MLX's kind of quantisation",
}
MARKS = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
}  # files of older releases, config.json says nothing


def check_small(folder: Path) -> None:
    """Raises ModelError where one of the small files is a pointer of Git LFS."""
    for name in SMALL:
        refuse_pointer(folder / name)


def check_weights(folder: Path, needed: bool = False) -> None:
    """Raises ModelError where a file of weights is a pointer or cut off, or, if they are `needed`, not there."""
    for path in _listed(folder):
        if not path.is_file():
            if needed:
                raise ModelError(f"{folder}: the index of the weights lists {path.name}, which is not there; fetch it")
            continue
        refuse_pointer(path)
        size, whole = path.stat().st_size, _whole_size(path)
        if size != whole:
            told = f"{size} of {whole} bytes" if whole else f"{size} bytes, no head of safetensors"
            raise ModelError(f"{path} is cut off or damaged ({told}); fetch it again")


def need_weights(folder: Path) -> None:
    """Raises ModelError where no file of weights lies that a loader looks for."""
    if not _listed(folder) and not any(folder.glob("*.bin")) and not any(folder.glob("*.gguf")):
        raise ModelError(
            f"{folder} has no weights ({WEIGHTS[0]}, or {WEIGHTS[0]}.index.json and its parts); fetch or "
            "save them there"
        )


def tensors_of(folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """{name: (file, what its head says)} of all tensors in the files of weights; none where there are none to read."""
    return {
        name: (path, told) for path in filter(Path.is_file, _listed(folder)) for name, told in _tensors(path).items()
    }


def check_numbers(folder: Path) -> None:
    """Raises ModelError for weights that are whole numbers: so kinds of quantisation store them, and read as they are
    they would be too large by a factor that nothing tells. For folders whose config names no such kind."""
    for path in filter(Path.is_file, _listed(folder)):
        for name, entry in _tensors(path).items():
            if name.endswith(("weight", "bias")) and str(entry.get("dtype")) in WHOLE_NUMBERS:
                raise ModelError(
                    f"{path} holds {name} in whole numbers ({entry['dtype']}), and config.json names no kind of "
                    "quantisation that they belong to; take the checkpoint that was not quantised"
                )


def _listed(folder: Path) -> list[Path]:
    """By the index where there is one. Raises ModelError for one that cannot be read."""
    for name in WEIGHTS:
        index, single = folder / f"{name}.index.json", folder / name
        if index.is_file():
            try:
                return [folder / part for part in sorted(set(read_object(index)["weight_map"].values()))]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ModelError(f"{index} names no files of weights (its weight_map); fetch it again") from error
        if single.is_file():
            return [single]
    return []


def refuse_pointer(path: Path) -> None:
    if not path.is_file():
        return
    with path.open("rb") as file:
        if file.read(len(POINTER)) != POINTER:
            return
    raise ModelError(f"{path} is a Git LFS pointer instead of the file; run `git lfs pull` in its repository")


def _whole_size(path: Path) -> int:
    """How long the file is by what its head says; 0 where it has none."""
    length, head = _head(path)
    try:
        ends = [entry["data_offsets"][1] for entry in head.values()]
        return LENGTH + length + max(ends, default=0) if length else 0
    except (KeyError, TypeError, IndexError):
        return 0


def _tensors(path: Path) -> dict[str, Any]:
    return _head(path)[1]


def _head(path: Path) -> tuple[int, dict[str, Any]]:
    """Its length in bytes, and what it says of each tensor; 0 and nothing where it is none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH), "little")
        if length > path.stat().st_size:
            return 0, {}
        try:
            head = json.loads(file.read(length))
        except ValueError:
            return 0, {}
    if not isinstance(head, dict):
        return 0, {}
    head.pop("__metadata__", None)
    return length, head


def stored_kind(folder: Path) -> str | None:
    """None for plain numbers, nf4 and int8 for bitsandbytes', else what it is called. Raises what a damaged config
    raises, ModelError for what is no description of it."""
    config = read_object(folder / "config.json")
    told = _quantization(config)
    if told is not None and not (told and isinstance(told, dict)):
        raise ModelError(
            f"{folder}: config.json has quantization_config={told}, but it must be an object with a quant_method; fix "
            "it, or take the checkpoint that was not quantised"
        )
    if told is None:
        if isinstance(config.get("quantization"), dict):
            return "mlx"
        if not any(folder.glob("*.safetensors")) and any(folder.glob("*.gguf")):
            return "gguf"
        return next((kind for file, kind in MARKS.items() if (folder / file).is_file()), None)
    method = str(told.get("quant_method") or ("mlx" if "quantization" in config else BITSANDBYTES))
    if method != BITSANDBYTES:
        return method
    if told.get("load_in_8bit"):
        return "int8"
    return str(told.get("bnb_4bit_quant_type", "fp4"))  # the library's own default


def _quantization(config: Any) -> Any:
    """What the config says of it, or one inside it."""
    if not isinstance(config, dict):
        return None
    for name in ("quantization_config", "compression_config"):
        if config.get(name) is not None:
            return config[name]
    return next((found for part in config.values() if (found := _quantization(part)) is not None), None)


def check_stored(folder: Path, kind: str | None, settings: ModelSettings) -> None:
    """Raises ModelError for weights that cannot be read, ConfigError where the settings call them something else."""
    if kind is None or settings.weights == "random":
        return
    refuse_other(folder, kind)
    if kind != settings.quantization:
        raise ConfigError(
            f"model.quantization={settings.quantization} was requested, but the weights in {folder} are already "
            f"stored in {kind}; set model.quantization={kind}, or take the checkpoint that is not quantised"
        )


def refuse_other(folder: Path, kind: str) -> None:
    """Raises ModelError for all but nf4 and 8 bits of bitsandbytes."""
    if kind in ("nf4", "int8"):
        return
    name = NAMES.get(kind, kind)
    raise ModelError(
        f"{folder}: the weights are quantised by {name}, which is not read here; take the checkpoint that was "
        "quantised, which model.quantization=nf4 or int8 rounds as it is loaded"
    )


def refuse_quantised(folder: Path, what: str) -> None:
    """Raises ModelError where `what` needs plain numbers and these are not."""
    kind = stored_kind(folder)
    if kind is not None:
        raise ModelError(
            f"{folder}: the weights are quantised ({NAMES.get(kind, kind)}), and {what} reads plain ones; take the "
            "checkpoint that was quantised"
        )


def as_asked(config: Any, settings: ModelSettings) -> Any:
    """A config whose stored weights are multiplied in the dtype of the settings, whatever it says of its own; of random
    weights none are stored."""
    told = getattr(config, "quantization_config", None)
    if told is None:
        return config
    if settings.weights == "random":
        del config.quantization_config
    else:
        config.quantization_config = {**told, "bnb_4bit_compute_dtype": settings.dtype}
    return config
