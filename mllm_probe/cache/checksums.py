"""Checksums of a shard, a number for its header and one for each of its tensors: read in a moment, where hashing the
whole file would cost a warm run. They find what a disk or a copy spoils; the digest in the manifest says what is right.
"""

import json
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CHECKSUMS, HEADER = "checksums", "header"


def header_sum(path: Path) -> int:
    """Of what lies before the tensors: their names and places, and the index."""
    with path.open("rb") as file:
        length = file.read(8)
        return zlib.crc32(length + file.read(min(int.from_bytes(length, "little"), path.stat().st_size)))


def tensor_sum(values: "torch.Tensor") -> int:
    """Of the bytes of a tensor of any shape and dtype."""
    import torch

    return zlib.crc32(values.contiguous().view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def checksums(path: Path) -> str:
    """{name: sum} of the header and of all tensors, as JSON."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        sums = {name: tensor_sum(file.get_tensor(name)) for name in names}
    return json.dumps({HEADER: header_sum(path), **sums})
