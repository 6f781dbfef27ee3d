"""Whose activations a store holds, which of them it holds, and what a request still lacks.

An identity is of everything that could change a stored number. Coverage knows keys, uids and shards' indexes; the rows
of a key are read from the shards when they are sliced.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.errors import CacheError
from mllm_probe.files.digests import Digests
from mllm_probe.files.model_names import ORIGIN
from mllm_probe.records.samples import digest
from mllm_probe.records.sites import Key

if TYPE_CHECKING:
    import torch

SPACES = ("sample", "prefix")
LAYERS = "0 = input of block 1; k = output of block k; norm = after the final norm"  # the convention, spelled out
FORMAT = 2  # of the shards and their index
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
READ = (*WEIGHTS, ".json", ".jinja", ".model", ".tiktoken", "vocab.txt", "merges.txt", "dict.txt")  # at the top
TEMPLATES = "additional_chat_templates"  # the one folder below that transformers looks into


@dataclass(frozen=True)
class Shard:
    """One file: the uids of each row space, the prefix of each of its samples, the keys by space, and the checksums
    of its tensors by name."""

    path: Path
    uids: Mapping[str, tuple[str, ...]]
    prefixes: Mapping[str, str]
    spaces: Mapping[Key, str]
    sums: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> "Shard":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as file:  # the index alone needs no torch
                meta = json.loads(file.metadata()["index"])
        except (SafetensorError, OSError, TypeError, KeyError) as error:
            raise CacheError(f"{path} is no readable shard ({error})") from error
        uids = {space: tuple(meta[space]) for space in SPACES}
        return cls(path, uids, meta["prefixes"], _spaces(tuple(meta["spaces"].items())))


@lru_cache
def _spaces(named: tuple[tuple[str, str], ...]) -> Mapping[Key, str]:
    """The same object for all shards of a group, for they are many."""
    return {Key.parse(name): space for name, space in named}


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
    def _holders(self) -> dict[Key, "_Holders"]:
        """{key: the shards that have it}; keys that lie in the same shards, as most do, share one object."""
        found: dict[Key, dict[str, list[int]]] = {}
        for number, shard in enumerate(self.shards):
            for key, space in shard.spaces.items():
                found.setdefault(key, {}).setdefault(space, []).append(number)
        known: dict[tuple[tuple[str, tuple[int, ...]], ...], _Holders] = {}
        keyed = {key: tuple((space, tuple(held)) for space, held in spaces.items()) for key, spaces in found.items()}
        return {key: known.setdefault(held, _Holders(self.shards, held)) for key, held in keyed.items()}

    def locate(self, key: Key, samples: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """For each sample the shard and the row set in it that hold this key; shard [B] is -1 where none does."""
        shard, row = np.full(len(samples), -1), np.full(len(samples), -1)
        for space, index in self._holders[key].indexes if key in self._holders else ():
            asked = [self.prefixes.get(uid, "") for uid in samples] if space == "prefix" else samples
            place = np.asarray([index.rows.get(uid, -1) for uid in asked], np.int64)
            here = (place >= 0) & (shard < 0)
            shard[here], row[here] = index.split(place[here])
        return shard, row

    def gaps(self, keys: Iterable[Key], samples: Iterable[str]) -> dict[tuple[Key, ...], list[str]]:
        """{keys that must still be extracted: the samples that lack these and no others}, () for nothing."""
        wanted, uids = tuple(keys), list(samples)
        kinds: dict[_Holders | None, int] = {}
        kind = [kinds.setdefault(self._holders.get(key), len(kinds)) for key in wanted]
        absent = [self.locate(wanted[kind.index(number)], uids)[0] < 0 for number in range(len(kinds))]
        pattern = np.zeros(len(uids), int)
        for lacking in absent:
            pattern = np.unique(2 * pattern + lacking, return_inverse=True)[1]
        _, first = np.unique(pattern, return_index=True)
        gap = [tuple(key for key, number in zip(wanted, kind, strict=True) if absent[number][i]) for i in first]
        found: dict[tuple[Key, ...], list[str]] = {gap[number]: [] for number in pattern[np.sort(first)]}
        lists = [found[keys] for keys in gap]
        for uid, number in zip(uids, pattern.tolist(), strict=True):
            lists[number].append(uid)
        return found

    def missing(self, keys: Iterable[Key], samples: Iterable[str]) -> dict[tuple[Key, ...], list[str]]:
        """The gaps of samples that lack something."""
        return {gap: uids for gap, uids in self.gaps(keys, samples).items() if gap}


@dataclass(frozen=True)
class _Index:
    """{uid: its row, counted through some shards}; `starts` [S] are the counts before each, `numbers` [S] which."""

    rows: Mapping[str, int]
    starts: np.ndarray
    numbers: np.ndarray

    def split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shard and the row in it."""
        at = np.searchsorted(self.starts, rows, side="right") - 1
        return self.numbers[at], rows - self.starts[at]


@dataclass(frozen=True, eq=False)
class _Holders:
    """The shards in which some keys lie, by row space."""

    shards: tuple[Shard, ...]
    held: tuple[tuple[str, tuple[int, ...]], ...]

    @cached_property
    def indexes(self) -> tuple[tuple[str, _Index], ...]:
        return tuple((space, self._index(space, numbers)) for space, numbers in self.held)

    def _index(self, space: str, numbers: Sequence[int]) -> _Index:
        counts = [len(self.shards[number].uids[space]) for number in numbers]
        starts = np.cumsum([0, *counts])[:-1]
        rows: dict[str, int] = {}
        for start, number in reversed(list(zip(starts.tolist(), numbers, strict=True))):  # the first shard wins
            rows.update(zip(self.shards[number].uids[space], count(start), strict=False))
        return _Index(rows, starts, np.asarray(numbers))


@dataclass(frozen=True)
class StoredRows:
    """T rows [D]: row t is row `row[t]` of `parts[part[t]]`. Parts are mapped from their files, not loaded."""

    parts: "tuple[torch.Tensor, ...]"
    part: np.ndarray
    row: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.row), self.parts[0].shape[1]

    def __getitem__(self, rows: slice) -> "torch.Tensor":
        import torch

        part, row = self.part[rows], torch.from_numpy(self.row[rows])
        if len(self.parts) == 1:
            return self.parts[0][row]
        out = torch.empty(len(row), self.shape[1], dtype=self.parts[0].dtype)
        for number in np.unique(part):
            here = torch.from_numpy(part == number)
            out[here] = self.parts[number][row[here]]
        return out

    def take(self, index: np.ndarray) -> "StoredRows":
        """Row `index[t]` at place t; rows may occur several times."""
        return StoredRows(self.parts, self.part[index], self.row[index])

    def distinct(self) -> "tuple[StoredRows, np.ndarray]":
        """Each stored row once, and which of them is at place t [T]: many questions read the same picture's row."""
        _, first, which = np.unique(np.stack([self.part, self.row]), axis=1, return_index=True, return_inverse=True)
        return self.take(first), which.reshape(-1)


@dataclass(frozen=True)
class Identity:
    """The fields and their digest, which names the cache's folder."""

    fields: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return digest(self.fields)

    def to_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "fields": dict(self.fields)}


def folder_digests(folder: Path, digests: Digests) -> dict[str, str]:
    """{file name: content digest} of the files of a checkpoint that a loader reads: weights, processor and templates
    alike. Code that it brings may read any file, and a pipeline has its parts in folders, so there all of them count.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    names = {str(path.relative_to(folder)): path for path in files if path.suffix != ".md"}
    if "model_index.json" not in names and not any(name.endswith(".py") for name in names):
        names = {name: path for name, path in names.items() if _is_read(path, folder)}
    return {name: digests.of(path) for name, path in names.items()}


def _is_read(path: Path, folder: Path) -> bool:
    return path.parent in (folder, folder / TEMPLATES) and path.name.endswith(READ) and path.name != ORIGIN


def weights_digest(files: Mapping[str, str]) -> str:
    """Of the weights alone, from all file digests of a checkpoint."""
    return digest({name: value for name, value in files.items() if name.endswith(WEIGHTS)})


def identify(files: Mapping[str, str], **requested: Any) -> Identity:
    """Identity from the checkpoint's file digests and the requested settings.

    With `weights` = "random" the weight files do not count, the seed in `requested` does.
    """
    if requested.get("weights") == "random":
        files = {name: value for name, value in files.items() if not name.endswith(WEIGHTS)}
    return Identity({"files": dict(files), "layers": LAYERS, "format": FORMAT, **requested})
