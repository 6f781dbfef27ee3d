"""Does a cache match its manifests? Every byte is read again. Changes no file
of it; the memo of digests is put right where it vouched for a file that rotted."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import time

from mllm_probe.cache.coverage import Shard
from mllm_probe.cache.upkeep import IDLE, Cache, Group, read_json
from mllm_probe.errors import CacheError
from mllm_probe.files.digests import Digests
from mllm_probe.files.store_paths import is_claim, is_temporary
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import digest

REPEAT = "the run that made it, repeated, extracts it again; {damaged} removes its group"
PRUNE = "{damaged} removes its group, and the run that made it, repeated, extracts it again"
ANEW = "delete it; the next extraction into this cache writes it again"
SWEEP = "{prune} removes it once it is an hour old"
ENTRIES = {"shards", "keys", "samples", "joined", "retries", "provenance"}  # of a manifest
STRAY = "nothing reads it; move it elsewhere, or delete it"


@dataclass(frozen=True)
class Finding:
    """A file that is not as it should be, and what fixes it, where {prune} and {damaged} are commands. `group` is the
    one that it makes unusable."""

    path: Path
    what: str
    fix: str
    group: Group | None = None
    harmless: bool = False


def shards_of(cache: Cache) -> int:
    return sum(len(_digests_in(group) or ()) for group in cache.finished)


def verify_all(caches: Sequence[Cache], digests: Digests, reporter: Reporter) -> list[Finding]:
    """What is wrong with any of these caches; the reporter is told of every shard that was read."""
    total, done = sum(map(shards_of, caches)), count(1)

    def advance() -> None:
        reporter.progress("verify", next(done), total, "shards")

    return [finding for cache in caches for finding in verify(cache, digests, advance)]


def verify(cache: Cache, digests: Digests, advance: Callable[[], None]) -> Iterator[Finding]:
    """Everything that is wrong with a cache's finished groups; `advance` is called after every shard."""
    if cache.foreign is not None:
        return
    identity = cache.identity
    if not digest(identity.get("fields")) == identity.get("digest") == cache.name:
        yield Finding(cache.paths.identity, "is missing or does not match this identity", ANEW)
    for group in cache.finished:
        yield from _records(group)
        for number, expected in enumerate(_digests_in(group) or ()):
            if found := _shard(group, number, expected, digests):
                yield found
            advance()
    yield from _strays(cache)


def _digests_in(group: Group) -> list[str] | None:
    """Those of the shards; None where the manifest cannot be read."""
    found = group.manifest.get("shards")
    return found if isinstance(found, list) else None


def _records(group: Group) -> Iterator[Finding]:
    """The group's JSON files."""
    if not group.plan:
        yield Finding(group.paths.stored_plan, "is missing or is not the plan this group was made from", PRUNE, group)
    if not group.manifest.keys() >= ENTRIES or (group.plan and not _follows(group)):
        yield Finding(group.paths.manifest, "is no readable manifest of this group's plan", PRUNE, group)
    if read_json(group.paths.provenance) is None:
        yield Finding(group.paths.provenance, "is missing or unreadable", PRUNE, group)


def _follows(group: Group) -> bool:
    """Whether the manifest names the plan's keys and as many shards."""
    return len(_digests_in(group) or ()) == len(group.planned) and group.manifest["keys"] == sorted(group.keys)


def _shard(group: Group, number: int, expected: str, digests: Digests) -> Finding | None:
    path = group.paths.shard(number)
    if not path.exists():
        return Finding(path, "is missing", REPEAT, group)
    try:
        found = digests.afresh(path)
    except OSError as error:
        return Finding(path, f"cannot be read ({error.strerror})", PRUNE, group)
    if found != expected:
        return Finding(path, "is damaged: its bytes are not those in the manifest", REPEAT, group)
    return _index(group, number, path)


def _index(group: Group, number: int, path: Path) -> Finding | None:
    """Bytes may be those that were written and yet not what was planned."""
    try:
        shard = Shard.open(path)
    except CacheError:
        return Finding(path, "is damaged: it has no readable index", PRUNE, group)
    if not group.plan:
        return None
    planned = group.plan.content(number).prefixes.keys()
    if set(shard.uids["sample"]) == planned and set(map(str, shard.spaces)) == set(group.keys):
        return None
    return Finding(path, "is damaged: its index is not that of the plan", PRUNE, group)


def _strays(cache: Cache) -> Iterator[Finding]:
    """Files that no manifest lists. Unfinished groups have none; renderings and what is being written do not count."""
    listed = {cache.paths.identity}
    for group in cache.finished:
        listed |= group.paths.listed(len(_digests_in(group) or group.planned))
    growing = {group.paths.root for group in cache.groups if not group.finished}
    for path, stat in sorted(cache.files.items()):
        if path in listed or path.parent == cache.paths.renderings or growing.intersection(path.parents):
            continue
        if not (is_temporary(path) or is_claim(path)):
            yield Finding(path, "is in no manifest", STRAY, harmless=True)
        elif time() - stat.st_mtime > IDLE:
            yield Finding(path, "was left by a killed process", SWEEP, harmless=True)
