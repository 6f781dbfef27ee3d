"""Checksums of a shard, a number for its header and one for each of its tensors: read in a moment, where hashing the
whole file would cost a warm run. They find what a disk or a copy spoils; the digest in the manifest says what is right.

A file without a manifest, which may be made again, holds its own: it is sealed.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.files.paths import replacing

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


def save_sealed(path: Path, tensors: Mapping[str, "torch.Tensor"], metadata: Mapping[str, str]) -> None:
    """Tensors on the CPU of any shape and dtype, in one move."""
    from safetensors.torch import save_file

    sums = {HEADER: _sum_of(metadata), **{name: _seal(values) for name, values in tensors.items()}}
    with replacing(path) as part:
        save_file(dict(tensors), part, {**metadata, CHECKSUMS: json.dumps(sums)})


def read_sealed(
    path: Path, wanted: Callable[[str], bool] = lambda _: True
) -> tuple[dict[str, "torch.Tensor"], dict[str, str]]:
    """The wanted tensors and the metadata, when all that the file holds is what was written; those of older releases
    are not sealed. Raises ValueError."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, torch.Tensor] = {}
    seen: dict[str, str] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            sums = json.loads(metadata.pop(CHECKSUMS, "null"))
            for name in file.keys():  # noqa: SIM118
                values = file.get_tensor(name)
                seen[name] = _seal(values)
                if wanted(name):
                    found[name] = values
    except (SafetensorError, OSError) as error:
        raise ValueError(error) from error
    if sums is not None and sums != {HEADER: _sum_of(metadata), **seen}:
        raise ValueError("it differs from what was written")
    return found, metadata


def _seal(values: "torch.Tensor") -> str:
    return f"{values.dtype} {tuple(values.shape)} {tensor_sum(values)}"


def _sum_of(metadata: Mapping[str, str]) -> int:
    return zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
