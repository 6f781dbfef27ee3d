"""The store: shards of activations, their index and their manifest. Knows keys and row uids, not models or labels.

    outputs/cache/<identity>/identity.json            the fields that were digested
                             manifest.json            finished groups, shard digests, provenance; written last
                             groups/<plan>/plan.json  which rows go into which shard, fixed before the first pass
                                           provenance.json   device, versions, modules really quantised
                                           00000.safetensors ...

A shard holds, for each key such as `lm.07@last`, a tensor [T, D]. Its metadata hold the uids of its two row spaces:
`sample` rows, one set per sample, and `prefix` rows, one set per picture and prompt head, shared by all samples that
begin so. A key with several rows per uid also has a tensor `<key>#rows` with the bounds. Any safetensors reader can
open one; a shard that is there is whole, because it was renamed into place.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.errors import CacheError
from mllm_probe.paths import CachePaths, GroupPaths, replacing
from mllm_probe.types import Key

if TYPE_CHECKING:
    import torch

SPACES = ("sample", "prefix")
SAME_STORE = ("device", "quantized_modules")
SAME_GROUP = (*SAME_STORE, "torch", "transformers", "bitsandbytes")


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
            with safe_open(path, framework="pt") as file:
                meta = json.loads(file.metadata()["index"])
        except (SafetensorError, OSError, TypeError, KeyError) as error:
            raise CacheError(
                f"{path} is no readable shard ({error}); delete its group folder to extract it again"
            ) from error
        spaces = {Key.parse(name): space for name, space in meta["spaces"].items()}
        return cls(path, {space: tuple(meta[space]) for space in SPACES}, meta["prefixes"], spaces)


@dataclass(frozen=True)
class Coverage:
    """What a store holds; `known` are prefixes of samples that have no row of their own."""

    shards: tuple[Shard, ...]
    known: Mapping[str, str] = field(default_factory=dict)

    def knowing(self, prefixes: Mapping[str, str]) -> "Coverage":
        return Coverage(self.shards, {**self.known, **prefixes})

    @cached_property
    def prefixes(self) -> dict[str, str]:
        """{sample uid: prefix uid}."""
        return dict(self.known) | {uid: prefix for shard in self.shards for uid, prefix in shard.prefixes.items()}

    @cached_property
    def _rows(self) -> list[dict[str, dict[str, int]]]:
        return [
            {space: {uid: i for i, uid in enumerate(shard.uids[space])} for space in SPACES} for shard in self.shards
        ]

    def place(self, key: Key, sample: str) -> tuple[int, int] | None:
        """(shard, row set) that holds this key for this sample, or None."""
        for number, shard in enumerate(self.shards):
            space = shard.spaces.get(key)
            uid = self.prefixes.get(sample) if space == "prefix" else sample
            if space and uid in self._rows[number][space]:
                return number, self._rows[number][space][uid]
        return None

    def missing(self, keys: Iterable[Key], samples: Iterable[str]) -> dict[str, tuple[Key, ...]]:
        """{sample uid: keys that must still be extracted}, samples that miss nothing left out."""
        wanted = tuple(keys)
        gaps = {uid: tuple(key for key in wanted if self.place(key, uid) is None) for uid in samples}
        return {uid: gap for uid, gap in gaps.items() if gap}


class Store:
    """Reads one cache; writing is done by `ShardWriter` and `finish`."""

    def __init__(self, paths: CachePaths) -> None:
        self.paths = paths

    def manifest(self) -> dict[str, Any]:
        """The manifest, empty where nothing was finished yet."""
        return json.loads(self.paths.manifest.read_text()) if self.paths.manifest.exists() else {}

    def provenance(self) -> dict[str, Any]:
        """That of a finished group, empty where there is none; device and quantised modules are alike in all."""
        groups = list(self.manifest().get("groups", {}).values())
        return dict(groups[-1]["provenance"]) if groups else {}

    def coverage(self) -> Coverage:
        """The shards of all finished groups, and the prefixes of samples that needed no row of their own."""
        shards: list[Shard] = []
        joined: dict[str, str] = {}
        for group, entry in self.manifest().get("groups", {}).items():
            paths = self.paths.group(group)
            shards += [Shard.open(paths.shard(n)) for n in range(len(entry["shards"]))]
            if not entry["shards"]:
                joined |= json.loads(paths.plan.read_text())["prefixes"]
        return Coverage(tuple(shards), joined)

    def read(self, key: Key, samples: Sequence[str], coverage: Coverage) -> tuple["torch.Tensor", np.ndarray]:
        """Values [T, D] in storage dtype and row bounds [B + 1], in the order of `samples`. Raises CacheError."""
        import torch

        places = [coverage.place(key, uid) for uid in samples]
        if None in places:
            uid = samples[places.index(None)]
            raise CacheError(
                f"{key} of sample {uid} is not in {self.paths.root}; run `mllm-probe extract` with the same settings"
            )
        loaded = {n: _load(coverage.shards[n].path, key) for n in sorted({place[0] for place in places if place})}
        parts, bounds = [], [0]
        for place in places:
            assert place is not None
            values, rows = loaded[place[0]]
            start, stop = (rows[place[1]], rows[place[1] + 1]) if rows is not None else (place[1], place[1] + 1)
            parts.append(values[start:stop])
            bounds.append(bounds[-1] + int(stop - start))
        return torch.cat(parts), np.asarray(bounds)

    def begin(self, group: str, plan: Mapping[str, Any], provenance: Mapping[str, Any]) -> GroupPaths:
        """Write down a group's plan and provenance, or refuse to go on with what another machine began.

        All groups of a store come from one kind of device with the same modules quantised; the shards of one group
        also from the same versions. Raises CacheError.
        """
        paths = self.paths.group(group)
        others = [entry["provenance"] for entry in self.manifest().get("groups", {}).values()]
        started = [json.loads(paths.provenance.read_text())] if paths.provenance.exists() else []
        for known, names in (*((one, SAME_STORE) for one in others), *((one, SAME_GROUP) for one in started)):
            for name in names:
                if known.get(name) != provenance.get(name):
                    raise CacheError(
                        f"{self.paths.root} was filled with {name} {_brief(known.get(name))}, this run has "
                        f"{_brief(provenance.get(name))}; use the same again, or another paths.outputs"
                    )
        write_json(paths.plan, plan)
        write_json(paths.provenance, provenance)
        return paths

    def finish(self, group: str, entry: Mapping[str, Any]) -> None:
        """Enter a complete group into the manifest; the last write of a plan."""
        manifest = self.manifest()
        provenance = json.loads(self.paths.group(group).provenance.read_text())
        groups = {**manifest.get("groups", {}), group: {**entry, "provenance": provenance}}
        write_json(self.paths.manifest, {**manifest, "groups": groups})


def _brief(value: Any) -> str:
    return f"{len(value)} modules" if isinstance(value, list) else str(value)


def _load(path: Path, key: Key) -> tuple["torch.Tensor", "torch.Tensor | None"]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        name = f"{key}#rows"
        return file.get_tensor(str(key)), file.get_tensor(name) if name in set(file.keys()) else None


def write_json(path: Path, content: Any) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1, sort_keys=True))
