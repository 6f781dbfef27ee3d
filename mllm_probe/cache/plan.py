"""A plan in columns: which samples go through which pass into which shard, and which prefix each has; and how a shard
of it is filled from the chunks of its passes. Knows no model.

Columns, for a cache may hold millions of samples: some 20 bytes each, in memory as in the file, an npz that
`numpy.load` opens (nothing in it is pickled). Older releases wrote plan.json, which is read as well. A plan's name is a
digest of what that file would hold, so the same plan has the same name in either.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import numpy as np

from mllm_probe.errors import CacheError
from mllm_probe.files.store_paths import GroupPaths, replacing
from mllm_probe.records.batches import Chunk, packed, unpacked
from mllm_probe.records.sites import Key

if TYPE_CHECKING:
    import torch

SHARED, PLAIN = "shared", "plain"
FORMAT = 3  # of a group: since 3 a mean is one sum over its tokens, which may differ in the last digit
FIRST = 2  # of groups whose plan names none
AT_ONCE = 8_192  # entries of a column that are text at one time
COLUMNS = ("samples", "prefix", "prefixes", "owners", "ends", "shard")


@dataclass(frozen=True)
class Unit:
    """A forward pass."""

    samples: tuple[str, ...]
    shard: int
    prefix: str = PLAIN


@dataclass(frozen=True)
class Content:
    """What goes into one shard; `prefixes` {sample: prefix}, `owners` are the samples that store its rows."""

    units: tuple[Unit, ...]
    prefixes: Mapping[str, str]
    owners: frozenset[str]


@dataclass(frozen=True, eq=False)
class Plan:
    """N samples with P different prefixes in U passes, which share their heads or not.

    Samples stand in the order in which they are read, behind them those that only point to rows of others. `spaces`
    maps each key to its row space. `prompts` shows the rendered text of the first samples, for whoever reads the plan.
    Groups of an older `format` are read like others, and no shard is added to them.
    """

    samples: np.ndarray  # [N], packed
    prefix: np.ndarray  # [N] uint32
    prefixes: np.ndarray  # [P], packed
    owners: np.ndarray  # [P] uint32, for each prefix the place of the sample that stores its rows; [0] without keys
    ends: np.ndarray  # [U] int64, the samples up to the end of each pass
    shard: np.ndarray  # [U] int32, ascending
    shared: bool
    spaces: Mapping[Key, str]
    prompts: tuple[str, ...]
    format: int = FORMAT

    @property
    def read(self) -> int:
        """Samples that pass through the model."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def shards(self) -> int:
        """0 for a plan that only joins new samples to image states that are stored already."""
        return 1 + int(self.shard[-1]) if len(self.shard) else 0

    @property
    def keys(self) -> tuple[Key, ...]:
        return tuple(self.spaces)

    @property
    def units(self) -> Iterator[Unit]:
        """All passes in order."""
        return (unit for number in range(self.shards) for unit in self.content(number).units)

    def sizes(self, number: int) -> list[int]:
        """How many samples each pass of a shard holds."""
        first, last = self._passes(number)
        return np.diff(self.ends[first:last], prepend=self._start(first)).tolist()

    def content(self, number: int) -> Content:
        """What goes into a shard."""
        first, last = self._passes(number)
        start, stop = self._start(first), self._start(last)
        uids, prefix = unpacked(self.samples[start:stop]), self.prefix[start:stop]
        bounds = [start, *self.ends[first:last].tolist()]
        cuts = ((a - start, b - start) for a, b in pairwise(bounds))
        mode = SHARED if self.shared else PLAIN
        units = tuple(Unit(tuple(uids[a:b]), number, mode) for a, b in cuts)
        owns = self.owners[prefix] == np.arange(start, stop)
        owners = frozenset(uid for uid, own in zip(uids, owns.tolist(), strict=True) if own)
        return Content(units, dict(zip(uids, unpacked(self.prefixes[prefix]), strict=True)), owners)

    def _passes(self, number: int) -> tuple[int, int]:
        first, last = np.searchsorted(self.shard, [number, number + 1])
        return int(first), int(last)

    def _start(self, unit: int) -> int:
        return int(self.ends[unit - 1]) if unit else 0

    @cached_property
    def digest(self) -> str:
        """Of what decides the bytes; `prompts` are for readers and differ with what was missing."""
        found = hashlib.sha256()
        for text in self._text():
            found.update(text.encode())
        return found.hexdigest()[:16]

    def _text(self) -> Iterator[str]:
        """The JSON of an older release, its names sorted: the digests of finished caches are of that."""
        order = np.argsort(self.samples, kind="stable")
        yield "[{" if self.format == FIRST else f'[{{"format": {self.format}, '
        yield '"owners": ['
        yield from _joined(_quoted(np.sort(self.samples[self.owners])))
        yield '], "prefixes": {'
        pairs = zip(_quoted(self.samples, order), _quoted(self.prefixes, self.prefix[order]), strict=True)
        yield from _joined(f"{uid}: {prefix}" for uid, prefix in pairs)
        spaces = {str(key): space for key, space in self.spaces.items()}
        yield f'}}, "spaces": {json.dumps(spaces, sort_keys=True, ensure_ascii=False)}, "units": ['
        yield from _joined(
            json.dumps({"prefix": unit.prefix, "samples": unit.samples, "shard": unit.shard}, ensure_ascii=False)
            for unit in self.units
        )
        yield "]}]"

    def save(self, path: Path) -> None:
        """In one move, the same bytes for the same plan."""
        spaces = {str(key): space for key, space in self.spaces.items()}
        more = {"format": self.format, "shared": self.shared, "spaces": spaces, "prompts": self.prompts}
        about = json.dumps(more).encode()
        columns = {name: getattr(self, name) for name in COLUMNS}
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, about=np.frombuffer(about, np.uint8), **columns)

    @classmethod
    def load(cls, path: Path) -> "Plan":
        """Raises whatever a damaged file makes of it."""
        with ZipFile(path) as whole:
            if damaged := whole.testzip():
                raise ValueError(f"{damaged} is damaged")
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in COLUMNS}
            about = json.loads(file["about"].tobytes())
        spaces = {Key.parse(name): space for name, space in about["spaces"].items()}
        return cls(**columns, **{**about, "spaces": spaces, "prompts": tuple(about["prompts"])})

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Plan":
        """From the plan.json of an older release. Raises KeyError, TypeError for what none wrote."""
        units, prefix_of = stored["units"], stored["prefixes"]
        uids = [uid for unit in units for uid in unit["samples"]]
        uids += sorted(prefix_of.keys() - set(uids))
        number: dict[str, int] = {}
        prefix = np.array([number.setdefault(prefix_of[uid], len(number)) for uid in uids], np.uint32)
        owning = set(stored["owners"])
        owners = np.zeros(len(number) if owning else 0, np.uint32)
        for place, uid in enumerate(uids):
            if uid in owning:
                owners[prefix[place]] = place
        return cls(
            samples=packed(uids),
            prefix=prefix,
            prefixes=packed(list(number)),
            owners=owners,
            ends=np.cumsum([len(unit["samples"]) for unit in units], dtype=np.int64),
            shard=np.array([unit["shard"] for unit in units], np.int32),
            shared=any(unit["prefix"] == SHARED for unit in units),
            spaces={Key.parse(name): space for name, space in stored["spaces"].items()},
            prompts=tuple(stored["prompts"]),
            format=stored.get("format", FIRST),
        )


def load_plan(paths: GroupPaths) -> Plan:
    """The plan that made a group. Raises ValueError, naming what is wrong with its file."""
    try:
        path = paths.stored_plan
        plan = Plan.load(path) if path == paths.plan else Plan.from_json(json.loads(path.read_text()))
        right = plan.digest == paths.root.name
    except Exception as error:  # damaged archives and arrays raise anything
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if not right:
        raise ValueError("it is not the plan its group was made from")
    return plan


def _quoted(column: np.ndarray, order: np.ndarray | None = None) -> Iterator[str]:
    """Uids as JSON writes them, those at `order` or all."""
    quote = '"{}"'.format if column.dtype.kind == "u" else partial(json.dumps, ensure_ascii=False)
    for start in range(0, len(column) if order is None else len(order), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        yield from map(quote, unpacked(column[some] if order is None else column[order[some]]))


def _joined(parts: Iterable[str]) -> Iterator[str]:
    """With commas between them, many at a time."""
    left, comma = iter(parts), ""
    while some := list(islice(left, AT_ONCE)):
        yield comma + ", ".join(some)
        comma = ", "


class ShardWriter:
    """Collects rows in memory, then writes one safetensors file atomically.

    `prefixes` maps each sample of the shard to its prefix, `owners` names the samples whose prefix rows are kept
    (the first of each prefix); `spaces` maps each key to its row space.
    """

    def __init__(
        self, path: Path, prefixes: Mapping[str, str], owners: frozenset[str], spaces: Mapping[Key, str]
    ) -> None:
        self.path, self._prefixes, self._owners, self._spaces = path, prefixes, owners, spaces
        self._values: dict[Key, list[torch.Tensor]] = defaultdict(list)
        self._counts: dict[Key, list[int]] = defaultdict(list)
        self._samples: list[str] = []

    def add(self, chunk: Chunk) -> None:
        """Keep the chunk's rows, which for keys of the row space `prefix` are those of the owners alone."""
        self._samples += chunk.uids
        for key, values in chunk.values.items():
            counts = np.diff(chunk.rows[key]).tolist()
            if self._spaces[key] == "prefix":
                counts = [n for n, uid in zip(counts, chunk.uids, strict=True) if uid in self._owners]
            assert sum(counts) == len(values), f"{key} has {len(values)} rows where {sum(counts)} were planned"
            self._values[key].append(values)
            self._counts[key] += counts

    def write(self) -> None:
        """One file: values, row bounds where a uid has not exactly one row, and the index in the metadata."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {}
        for key, parts in self._values.items():
            tensors[str(key)] = torch.cat(parts)
            if any(count != 1 for count in self._counts[key]):
                tensors[f"{key}#rows"] = torch.from_numpy(np.cumsum([0, *self._counts[key]]))
        index = {
            "sample": self._samples,
            "prefix": [self._prefixes[uid] for uid in self._samples if uid in self._owners],
            "prefixes": {uid: self._prefixes[uid] for uid in self._samples},
            "spaces": {str(key): space for key, space in self._spaces.items()},
        }
        try:
            with replacing(self.path) as part:
                save_file(tensors, part, metadata={"index": json.dumps(index)})
        except (SafetensorError, OSError) as error:
            raise CacheError(
                f"{self.path} cannot be written ({error}); finished shards are kept: free disk space and repeat the "
                "command"
            ) from error
