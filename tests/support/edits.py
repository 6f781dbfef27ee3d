"""Files of a run changed by hand, and what is then said of them."""

import json
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mllm_probe.files.seals import CHECKSUMS


def edited(path: Path, change: Callable[[dict], object]) -> None:
    """By somebody who knows what he does: with digests it would be refused."""
    content = json.loads(path.read_text())
    content.pop("digests", None)
    change(content)
    path.write_text(json.dumps(content))


def told(err: str) -> list[str]:
    """What the screen wrapped, a note a line."""
    return (
        " ".join(err.split())
        .replace(" left out", "\nleft out")
        .replace(" everything is", "\neverything is")
        .split("\n")
    )


def unsealed(path: Path) -> None:
    """As older releases wrote it."""
    with safe_open(path, "pt") as file:
        metadata = {name: value for name, value in file.metadata().items() if name != CHECKSUMS}
    save_file(load_file(path), path, metadata)
