"""Why a part of a checkpoint cannot be used: what transformers raises, told by the file, the setting or the package
that is at fault. Raises nothing itself.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mllm_probe.files.seals import read_object
from mllm_probe.models.loading.whole import SMALL

NOT_JSON = "holds no JSON object, cut off or damaged; fetch it again"
PICKLE = "its weights are a pickle with more than tensors in it, which is code and not run; save *.safetensors"
UNFITTING = "the tensors in its files do not match its config; fetch or save it again"
NO_TOKENIZER = "its tokenizer has no file here, such as tokenizer.json; save the model's tokenizer into the same folder"
PATTERNS = (  # of words of transformers, and what to say instead
    (r"weights_only", PICKLE),
    (r"above report", UNFITTING),
    (r"backend tokenizer from one of", NO_TOKENIZER),
    (r"requires the (\w+) library but it was not found", r"it needs \1, which is not installed; run `pip install \1`"),
    (r"(\w+) does not support an attention implementation", r"\1 has no such attention; set model.attn=eager"),
    (r"(\w+) does not support Flash Attention", r"\1 has no such attention; set model.attn=sdpa"),
    (
        r"FlashAttention\d has been toggled on",
        "model.attn=flash_attention_2 needs flash-attn, which is not installed; set model.attn=sdpa",
    ),
    (r"Validation error for field '(\w+)'.*?\(value: (.*?)\)", r"config.json has \1=\2, which is of a wrong type"),
    (
        r"Validation error for field '(\w+)'.*?expected one of \((.*?)\), got (.*)",
        r"config.json has \1=\3, not one of \2",
    ),
    (r"Class validation error for validator '\w+':\s+\w+: ([^\n]*)", r"config.json: \1"),
    (r"(Unrecognized image processor)", r"\1: its image_processor_type is none that transformers has"),
)
MENDING = {
    "config": "fetch or fix config.json",
    "adapter": "fetch or fix its adapter_config.json",
    "processor": "fetch or fix the processor's files",
    "encoder": "fetch or fix its files",
}
SENTENCE = re.compile(
    r"(?<=[\w)'`\"])\. (?!Got )(?=[A-Z])"
)  # where the next one begins, which is advice for programmers
SIZES = re.compile(r"SizeDict\((.*?)\)")


def because(folder: Path, error: BaseException, what: str) -> str:
    """In brief, without advice that must not be followed here, of what could not be made from a checkpoint's files."""
    for path in (folder / name for name in SMALL if name.endswith(".json")):
        if path.is_file() and _object(path) is None:
            return f"{path.name} {NOT_JSON}"
    text = str(error).strip()
    for pattern, said in PATTERNS:
        if found := re.search(pattern, text, re.DOTALL):
            return found.expand(said)
    unknown = error.args[0] if isinstance(error, KeyError) and error.args else _unknown_to_torch(error)
    if named := next(_settings(_object(folder / "config.json"), unknown), ""):
        return f"config.json has {named}={unknown}, which is unknown here"
    if isinstance(error, KeyError):
        return f"one of its files lacks {error}"
    return f"{briefly(error)}; {MENDING[what]}" if what in MENDING else briefly(error)


def briefly(error: BaseException) -> str:
    """The first sentence, and the next line where it ends in a colon; sizes as they were set."""
    first, _, rest = str(error).strip().partition("\n")
    whole = f"{first} {rest.strip().partition(chr(10))[0]}" if first.endswith(":") else first
    sizes = SIZES.sub(lambda found: "{" + ", ".join(_set(found[1])) + "}", SENTENCE.split(whole)[0])
    return re.sub(r"dict_keys\((.*?)\)", r"\1", sizes).strip().rstrip(".") or type(error).__name__


def _object(path: Path) -> dict[str, Any] | None:
    try:
        return read_object(path)
    except ValueError:
        return None


def _unknown_to_torch(error: BaseException) -> str | None:
    found = re.match(r"module 'torch' has no attribute '([\w.]+)'", str(error))
    return found[1] if found else None


def _settings(node: Any, value: Any, where: str = "") -> Iterator[str]:
    """The names of the settings in a config, with dots, that have this value."""
    for name, inner in node.items() if isinstance(node, dict) else ():
        if inner == value and value is not None:
            yield f"{where}{name}"
        yield from _settings(inner, value, f"{where}{name}.")


def _set(sizes: str) -> list[str]:
    return [one.replace("=", ": ") for one in sizes.split(", ") if not one.endswith("=None")]
