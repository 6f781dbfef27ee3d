"""What files held when they were written: digests of the files of a finished run, checksums of shards.

The digests stand in the run's summary, which is written last. A digit that somebody altered, or a bit that a disk lost,
leaves a file that reads well and says something else. Runs of older releases have no digests and are read as they are.

Checksums, a number for a shard's header and one for each of its tensors, are read in a moment, where hashing the whole
file would cost a warm run. They find what a disk or a copy spoils; the digest in the manifest says what is right. A
file without a manifest, which may be made again, holds its own.
"""

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, get_args

from mllm_probe.errors import DataError
from mllm_probe.files.digests import file_digest
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.store_paths import replacing

if TYPE_CHECKING:
    import torch

SEALS = "digests"  # the entry {file name: digest}, the file's own among them
CHECKSUMS, HEADER = "checksums", "header"
NUMBER = int | float
WORDS = {str: "text", bool: "true or false", int: "whole number", float: "number", list: "list", dict: "object"}
HELD = {NoneType: "null", bool: "true or false", list: "a list", str: "a text"}


def sealed(path: Path, content: Mapping[str, Any], files: Iterable[Path]) -> dict[str, Any]:
    """What is to be written to `path`, with the digests of those `files` that are there."""
    own = _own(json.loads(json.dumps(content)))  # whose names are texts, as those that are read
    return {**content, SEALS: {path.name: own} | {file.name: file_digest(file) for file in files if file.is_file()}}


def check_sealed(path: Path) -> None:
    """Raises DataError where a file is not what the run wrote."""
    summary = RunPaths(path.parent).summary
    for keeper in dict.fromkeys((summary, *([path] if path.suffix == ".json" else []))):
        _check(path, keeper)


def _check(path: Path, keeper: Path) -> None:
    """Against the digests that a file keeps."""
    try:
        found = read_object(keeper)
    except ValueError:  # it is not there, or whoever needs what is in it says that it is damaged
        return
    seals = found.get(SEALS)
    expected = seals.get(path.name) if isinstance(seals, dict) else None
    if expected is not None and expected != (_own(found) if keeper == path else _digest(path)):
        raise DataError(
            f"{path} differs from what its run wrote: it was changed by hand or damaged; repeat the run, its cache is "
            f"still used, or delete the entry '{SEALS}' of {keeper} to use the files as they are"
        )


def _own(content: Mapping[str, Any]) -> str:
    """Of all entries but the digests, as JSON has them."""
    told = {name: value for name, value in content.items() if name != SEALS}
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _digest(path: Path) -> str:
    stat = path.stat()
    return _hashed(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@lru_cache(maxsize=1024)
def _hashed(path: Path, *stat: int) -> str:
    """Once for each state of a file: a comparison opens predictions many times."""
    return file_digest(path)


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
        save_file(
            {name: values.contiguous() for name, values in tensors.items()},
            part,
            {**metadata, CHECKSUMS: json.dumps(sums)},
        )


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


def read_object(path: Path) -> dict[str, Any]:
    """The object that a file holds. Raises ValueError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError) as error:
        raise ValueError(error) from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds {HELD.get(type(found), 'a number')} and no object")
    return found


def check_entries(found: Mapping[str, Any], kinds: Mapping[Any, Any]) -> None:
    """Raises ValueError for the first entry that is not there or not of its kind."""
    for said in _misfits(found, kinds, ""):
        raise ValueError(said)


def _misfits(value: Any, kind: Any, where: str) -> Iterator[str]:
    outer = list if isinstance(kind, list) else dict if isinstance(kind, Mapping) else kind
    if not _fits(value, outer):
        yield f"its entry '{where}' is no {_name(outer)}"
    elif isinstance(kind, list):
        for number, item in enumerate(value):
            yield from _misfits(item, kind[0], f"{where}[{number}]")
    elif isinstance(kind, Mapping):
        for name in value if str in kind else kind:
            inside = f"{where}.{name}" if where else name
            if name in value:
                yield from _misfits(value[name], kind[str] if str in kind else kind[name], inside)
            else:
                yield f"it lacks the entry '{inside}'"


def _fits(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _name(kind: Any) -> str:
    """Of several types the widest, for whole numbers are numbers; that null is allowed goes without saying."""
    types = [one for one in get_args(kind) if one is not NoneType] if isinstance(kind, UnionType) else [kind]
    return WORDS[types[-1]]
