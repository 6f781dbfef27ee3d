"""Caches as files: what is there, which one is named, what may be removed. Knows no model and no configuration.

Reads what is readable and passes over the rest: a damaged cache must still be listed and removed.
"""

import json
import os
import shutil
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from mllm_probe.cache.claims import is_orphan
from mllm_probe.cache.coverage import FORMAT
from mllm_probe.cache.plan import Plan, load_plan
from mllm_probe.errors import CacheError, choices
from mllm_probe.files.store_paths import CachePaths, GroupPaths, is_claim, is_temporary
from mllm_probe.records.batches import unpacked

IDLE = 3600.0  # seconds; what was written later may belong to a process that still runs


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is no file, or no object in it."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def walk(folder: Path) -> dict[Path, os.stat_result]:
    """Every file below a folder. Links are entries like any other, never followed."""
    found = {}
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in (*files, *links):
            path = Path(parent) / name
            try:
                found[path] = path.lstat()
            except FileNotFoundError:  # another process has renamed it since
                continue
    return found


@dataclass(frozen=True)
class Group:
    """One shard group, finished or not."""

    paths: GroupPaths

    @property
    def name(self) -> str:
        return self.paths.root.name

    @property
    def finished(self) -> bool:
        return self.paths.manifest.exists()

    @cached_property
    def plan(self) -> Plan | None:
        """None where it is missing or damaged; a group is named after its plan, so that one flipped byte shows."""
        try:
            return load_plan(self.paths)
        except ValueError:
            return None

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return read_json(self.paths.manifest) or {}

    @cached_property
    def files(self) -> dict[Path, os.stat_result]:
        return walk(self.paths.root)

    @property
    def samples(self) -> Iterable[str]:
        return unpacked(self.plan.samples) if self.plan else ()

    @property
    def keys(self) -> Iterable[str]:
        return tuple(map(str, self.plan.keys)) if self.plan else ()

    @property
    def planned(self) -> range:
        """The numbers of the planned shards."""
        return range(self.plan.shards if self.plan else 0)

    @property
    def present(self) -> int:
        """How many of the planned shards are there."""
        return sum(self.paths.shard(number) in self.files for number in self.planned)

    @property
    def claimed(self) -> int:
        """How many shards somebody has claimed and not filled; whether he lives is not asked."""
        return len({path.name.split(".")[0] for path in self.files if is_claim(path)})

    @property
    def retries(self) -> int:
        """How many shards needed smaller passes."""
        return sum(self.paths.retry(number) in self.files for number in self.planned)


@dataclass(frozen=True)
class Cache:
    """One cache: all groups of one identity."""

    paths: CachePaths

    @property
    def name(self) -> str:
        return self.paths.root.name

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What identity.json holds; without its fields it is unreadable."""
        found = read_json(self.paths.identity) or {}
        return found if isinstance(found.get("fields"), dict) else {}

    @property
    def foreign(self) -> int | None:
        """The format another release stored it in. Its files mean something else, so only its name removes it."""
        found = self.identity.get("fields", {}).get("format", FORMAT)
        return None if found == FORMAT else found

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        if self.foreign is not None or not self.paths.groups.is_dir():
            return ()
        folders = sorted(path for path in self.paths.groups.iterdir() if path.is_dir())
        return tuple(Group(GroupPaths(path)) for path in folders)

    @property
    def finished(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if group.finished)

    @cached_property
    def files(self) -> dict[Path, os.stat_result]:
        return walk(self.paths.root)

    @property
    def written(self) -> float:
        """When anything of it was written last."""
        return last_written(self.files, self.paths.root)


def find_caches(root: Path) -> dict[str, Cache]:
    """{identity: its cache}. A folder that holds neither an identity nor groups is not ours."""
    if not root.is_dir():
        return {}
    found = [CachePaths(path) for path in sorted(root.iterdir()) if path.is_dir()]
    return {paths.root.name: Cache(paths) for paths in found if paths.identity.exists() or paths.groups.is_dir()}


def choose(caches: Mapping[str, Cache], wanted: Sequence[str]) -> list[Cache]:
    """The caches that are named by their identities or by beginnings that only one has. Raises CacheError."""
    if wanted and not caches:
        raise CacheError(f"there is no cache '{wanted[0]}', and no other yet; --outputs FOLDER names another place")
    found: dict[str, Cache] = {}
    for word in wanted:
        names = [word] if word in caches else [name for name in caches if word and name.startswith(word)]
        if len(names) > 1:
            raise CacheError(f"several caches begin with '{word}'; {choices(word, names)}")
        if not names:
            raise CacheError(f"there is no cache '{word}'; {choices(word, caches)}")
        found[names[0]] = caches[names[0]]
    return list(found.values())


def total_bytes(files: Mapping[Path, os.stat_result]) -> int:
    return sum(seen.st_size for seen in files.values())


def last_written(files: Mapping[Path, os.stat_result], folder: Path) -> float:
    """When the newest file was written; an empty folder counts itself."""
    return max((seen.st_mtime for seen in files.values()), default=folder.stat().st_mtime)


def day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


@dataclass(frozen=True)
class Doomed:
    """A file or folder that may go, why, and the bytes that come free."""

    path: Path
    why: str
    bytes: int


def doomed(folder: Path, why: str) -> Doomed:
    return Doomed(folder, why, total_bytes(walk(folder)))


def leftovers(root: Path, now: float) -> list[Doomed]:
    """What processes left that were killed while they wrote; an unfinished group keeps its claims until it goes."""
    found = []
    for path, seen in sorted(walk(root).items()):
        kind = "temporary file" if is_temporary(path) else "claim" if is_late_claim(path) else ""
        if kind and stat.S_ISREG(seen.st_mode) and (now - seen.st_mtime > IDLE or is_orphan(path)):
            found.append(Doomed(path, f"{kind} of a killed process", seen.st_size))
    return found


def is_late_claim(path: Path) -> bool:
    """Whether it claims a shard of a group that is finished."""
    return is_claim(path) and GroupPaths(path.parent).manifest.exists()


def abandoned(group: Group, now: float) -> bool:
    """Unfinished, and nobody has written into it for a while."""
    return not group.finished and now - last_written(group.files, group.paths.root) > IDLE


def linked(root: Path, path: Path) -> bool:
    """Whether a path below `root` is a link or lies behind one; where `root` itself leads does not matter."""
    return path.resolve() != root.resolve() / path.relative_to(root)


def remove(root: Path, path: Path) -> None:
    """Remove a file or folder below `root`. Raises CacheError where a link might lead elsewhere."""
    if linked(root, path):
        raise CacheError(f"{path} is a link or is in a linked folder, and links are not followed; remove it by hand")
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for file in walk(path):  # without its manifest a group that is half removed is unfinished, not damaged
        if file == GroupPaths(file.parent).manifest:
            file.unlink(missing_ok=True)
    shutil.rmtree(path)
