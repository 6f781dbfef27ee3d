"""Digests of a finished run's files as it wrote them: kept in its summary, which is written last.

A digit that somebody altered, or a bit that a disk lost, leaves a file that reads well and says something else. Runs
of older releases have no digests and are read as they are.
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from mllm_probe.errors import DataError
from mllm_probe.files.digests import file_digest
from mllm_probe.files.entries import read_object
from mllm_probe.files.paths import RunPaths

SEALS = "digests"  # the entry {file name: digest}, the file's own among them


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
