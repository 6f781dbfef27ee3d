"""A cache as a reader sees it: which keys and samples it holds, and their rows. Writes the memo of digests alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mllm_probe.cache.coverage import Coverage
from mllm_probe.cache.store import Store
from mllm_probe.cache.upkeep import Cache
from mllm_probe.errors import CacheError
from mllm_probe.files.digests import open_digests
from mllm_probe.files.store_paths import CachePaths
from mllm_probe.records.sites import TOWERS, Key


@dataclass(frozen=True)
class CacheView:
    """The finished groups of one cache, as they were when they were first asked for."""

    folder: Path

    @property
    def identity(self) -> str:
        """The digest of `fields`, and the folder's name."""
        return self.folder.name

    @cached_property
    def fields(self) -> dict[str, Any]:
        """What the identity is a digest of: files, quantisation, dtypes, attention, prompt wrapping, ..."""
        return dict(Cache(CachePaths(self.folder)).identity.get("fields", {}))

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """`SITE@POSITION`, such as lm.07@last, in the order the data passes the sites."""
        return tuple(self._keys)

    @cached_property
    def samples(self) -> tuple[str, ...]:
        """The uids of all samples, in the order they are stored in."""
        return tuple(self._coverage.prefixes)

    def holding(self, key: str) -> tuple[str, ...]:
        """The samples that have rows of a key. Raises CacheError."""
        found, _ = self._coverage.locate(self._key(key), self.samples)
        return tuple(uid for uid, shard in zip(self.samples, found.tolist(), strict=True) if shard >= 0)

    def rows(self, key: str, samples: Iterable[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Values [T, D] float32 and offsets [B + 1] int64 of B samples in the order given (None = `holding(key)`).

        Sample b has the rows offsets[b] to offsets[b + 1]: one each at pooled positions (T = B), one a token at
        `tokens:...`. float32 holds every storage dtype exactly. Samples may occur several times. Raises CacheError.
        """
        wanted = list(self.holding(key) if samples is None else samples)
        values, offsets = self._store.read(self._key(key), wanted, self._coverage)
        return values.float().numpy(), offsets

    @cached_property
    def _keys(self) -> dict[str, Key]:
        found = {key for shard in self._coverage.shards for key in shard.spaces}
        return {str(key): key for key in sorted(found, key=_order)}

    def _key(self, name: str) -> Key:
        if name not in self._keys:
            near = get_close_matches(name, self.keys, n=1)
            guess = f"did you mean '{near[0]}'? " if near else ""
            raise CacheError(f"'{name}' is no key of {self.folder}; {guess}`keys` lists all {len(self.keys)}")
        return self._keys[name]

    @cached_property
    def _store(self) -> Store:
        paths = CachePaths(self.folder)
        return Store(paths, open_digests(paths.digests))

    @cached_property
    def _coverage(self) -> Coverage:
        foreign = Cache(CachePaths(self.folder)).foreign
        if foreign is not None:
            raise CacheError(f"{self.folder} has format {foreign} of another release; extract it again with this one")
        return self._store.coverage()


def _order(key: Key) -> tuple[int, int, bool, str, str]:
    site = key.site
    return TOWERS.index(site.tower), site.layer, site.part == "norm", site.part, key.position
