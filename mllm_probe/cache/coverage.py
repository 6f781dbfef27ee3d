"""What a store holds and what a request still lacks. Knows keys, uids and shards' indexes; opens no tensor."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mllm_probe.errors import CacheError
from mllm_probe.sites import Key

SPACES = ("sample", "prefix")


@dataclass(frozen=True)
class Shard:
    """One file: the uids of each row space, the prefix of each of its samples, and the keys by space."""

    path: Path
    uids: Mapping[str, tuple[str, ...]]
    prefixes: Mapping[str, str]
    spaces: Mapping[Key, str]

    @classmethod
    def open(cls, path: Path) -> "Shard":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as file:  # the index alone needs no torch
                meta = json.loads(file.metadata()["index"])
        except (SafetensorError, OSError, TypeError, KeyError) as error:
            raise CacheError(f"{path} is no readable shard ({error})") from error
        spaces = {Key.parse(name): space for name, space in meta["spaces"].items()}
        return cls(path, {space: tuple(meta[space]) for space in SPACES}, meta["prefixes"], spaces)


@dataclass(frozen=True)
class Damage:
    """A shard of a finished group that is gone, or whose content is not what the manifest says."""

    group: str
    number: int
    path: Path


@dataclass(frozen=True)
class Coverage:
    """The whole shards of finished groups; `known` are prefixes of samples that have no row of their own."""

    shards: tuple[Shard, ...]
    known: Mapping[str, str] = field(default_factory=dict)
    damaged: tuple[Damage, ...] = ()

    def knowing(self, prefixes: Mapping[str, str]) -> "Coverage":
        return replace(self, known={**self.known, **prefixes})

    @cached_property
    def prefixes(self) -> dict[str, str]:
        """{sample uid: prefix uid}."""
        return dict(self.known) | {uid: prefix for shard in self.shards for uid, prefix in shard.prefixes.items()}

    @cached_property
    def _holders(self) -> dict[Key, dict[str, tuple[int, ...]]]:
        """{key: {space: the shards that have it}}."""
        found: dict[Key, dict[str, tuple[int, ...]]] = {}
        for number, shard in enumerate(self.shards):
            for key, space in shard.spaces.items():
                spaces = found.setdefault(key, {})
                spaces[space] = (*spaces.get(space, ()), number)
        return found

    @cached_property
    def _indexes(self) -> dict[tuple[str, tuple[int, ...]], dict[str, tuple[int, int]]]:
        return {}

    def _index(self, space: str, shards: tuple[int, ...]) -> dict[str, tuple[int, int]]:
        """{uid: (shard, row set)}; keys that lie in the same shards, as most do, share one."""
        if (space, shards) not in self._indexes:
            places = {uid: (n, row) for n in reversed(shards) for row, uid in enumerate(self.shards[n].uids[space])}
            self._indexes[space, shards] = places
        return self._indexes[space, shards]

    def place(self, key: Key, sample: str) -> tuple[int, int] | None:
        """(shard, row set) that holds this key for this sample, or None."""
        for space, shards in self._holders.get(key, {}).items():
            uid = self.prefixes.get(sample, "") if space == "prefix" else sample
            if found := self._index(space, shards).get(uid):
                return found
        return None

    def missing(self, keys: Iterable[Key], samples: Iterable[str]) -> dict[str, tuple[Key, ...]]:
        """{sample uid: keys that must still be extracted}, samples that miss nothing left out."""
        wanted = tuple(keys)
        gaps = {uid: tuple(key for key in wanted if self.place(key, uid) is None) for uid in samples}
        return {uid: gap for uid, gap in gaps.items() if gap}
