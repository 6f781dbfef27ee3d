"""What results call a model, one rule for all: the name that was given, else the hub's, else that of a folder that says
something, else what it was made of. Names are words for people; none of them decides what is computed or stored."""

import dataclasses
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from mllm_probe.files.paths import config_dir

ORIGIN = "origin.json"  # what a training leaves in the folder of its checkpoint or adapter
ADDRESS = ("path", "bundled", "hub_id", "revision", "adapter")  # settings that lead to other weights
HUB = "models--"  # how the hub's cache begins a folder; `--` in it stands for the stroke
# Folder names that nobody can tell apart: steps of a training, dates, times, numbers, digests
SILENT = re.compile(
    r"(adapter|best|checkpoint|epoch|final|global_step|hf|last|latest|lora|main|merged|model|output|snapshot|step|weight)"
    r"s?[-_.]?\d*|[\d\W_]+|[0-9a-f]{7,64}",
    re.IGNORECASE,
)


def called(name: str | None, path: str | None, bundled: str | None, hub_id: str | None, adapter: str | None) -> str:
    """The name of a model with these settings."""
    if name is not None:
        return name
    base = _folder(path) if path is not None else bundled or hub_id or "custom"
    if adapter is None:
        return base
    folder = _absolute(adapter)
    told = trained(folder)
    made = told[1] if told and not _speaks(folder.name) else _tail(folder)
    return f"{told[0] if told else base}+{made}"


def _folder(path: str) -> str:
    folder = _absolute(path)
    told = None if _speaks(folder.name) else trained(folder)
    return f"{told[0]}+{told[1]}" if told else _tail(folder)


def _absolute(path: str) -> Path:
    """Links are not followed: their names are the user's own."""
    return Path(os.path.normpath(Path(path).expanduser().absolute()))


def _speaks(name: str) -> bool:
    return not SILENT.fullmatch(name)


def _tail(folder: Path) -> str:
    """The last name that says something, and those behind it; in the hub's cache the model's own name."""
    parts = folder.parts[1:]
    for i, part in reversed(list(enumerate(parts))):
        if part.startswith(HUB):
            return part.removeprefix(HUB).replace("--", "/")
        if _speaks(part):
            return "/".join(parts[i:])
    return "/".join(parts) or "custom"


def trained(folder: Path) -> tuple[str, str] | None:
    """What a training of ours was of and what it trained, by what it left in the folder; None where it left nothing."""
    try:
        told = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        settings = told["training"]
        return str(told["model"]), str(settings.get("connector") or f"sugar_{settings['arm']}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@cache
def _options() -> Mapping[str, tuple[Any, Any]]:
    """{option of `model`: (bundled, hub_id) of its checkpoint}."""
    import yaml

    read = {file.stem: yaml.safe_load(file.read_text()) for file in sorted(config_dir().glob("model/*.yaml"))}
    return {name: (node.get("bundled"), node.get("hub_id")) for name, node in read.items()}


def settled(model: Any, words: Sequence[str]) -> Any:
    """The settings `model` without a name that an option had for its own checkpoint, where these lead to another one.
    `words` are those that the user typed: a name among them stays, whatever it is."""
    typed = any(word.lstrip("+").startswith("model.name=") for word in words)
    checkpoint = _options().get(model.name)
    own = checkpoint == (model.bundled, model.hub_id) and model.path is None and model.adapter is None
    return model if typed or checkpoint is None or own else dataclasses.replace(model, name=None)


def words_for(path: str | None, bundled: str | None, hub_id: str | None) -> str:
    """What to type to choose a checkpoint that is found so."""
    if path is not None:
        return f"model=custom {shlex.quote(f'model.path={path}')}"
    option = next((name for name, own in _options().items() if own == (bundled, hub_id) != (None, None)), None)
    return f"model={option}" if option else f"model=custom model.hub_id={hub_id}"


def namesakes(models: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[str, str] | None:
    """(the name, the setting in which they differ) of the first two models that have one name and lead to different
    weights; None where there are none. A model is its name, and its settings of ADDRESS by name."""
    first: dict[str, dict[str, str]] = {}
    for name, settings in models:
        found = {setting: _placed(setting, settings.get(setting)) for setting in ADDRESS}
        other = first.setdefault(name, found)
        if differing := [setting for setting in ADDRESS if found[setting] != other[setting]]:
            return name, differing[0]
    return None


def _placed(setting: str, value: Any) -> str:
    """A folder is the same one however it is typed."""
    return str(_absolute(value)) if value and setting in ("path", "adapter") else str(value or "")
