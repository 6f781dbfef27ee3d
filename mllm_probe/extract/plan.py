"""What will be extracted, in which order, into which shard: fixed before the first pass. Knows no model class.

A plan is a list of units. A unit is a micro-batch with its prefix mode and its target shard; resuming and sharing
out the work take whole units, so the same plan gives the same bytes wherever it was interrupted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mllm_probe.types import Anatomy, Key, digest

SHARD_BYTES = 100_000_000
IMAGE_POSITIONS = frozenset({"mean_image", "last_image"})


@dataclass(frozen=True)
class Unit:
    samples: tuple[str, ...]
    shard: int
    prefix: str = "plain"


@dataclass(frozen=True)
class Plan:
    """`spaces` maps each key to its row space; `owners` are the samples that store their prefix's rows."""

    units: tuple[Unit, ...]
    spaces: Mapping[Key, str]
    prefixes: Mapping[str, str]
    owners: frozenset[str]

    @property
    def shards(self) -> int:
        return 1 + self.units[-1].shard

    @property
    def digest(self) -> str:
        return digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {
            "units": [asdict(unit) for unit in self.units],
            "spaces": {str(key): space for key, space in self.spaces.items()},
            "prefixes": dict(self.prefixes),
            "owners": sorted(self.owners),
        }


def space_of(key: Key, anatomy: Anatomy) -> str:
    """Image states depend on the picture and the prompt head alone wherever no token sees a later one."""
    if key.site.tower != "lm":
        return "prefix"
    return "prefix" if anatomy.causal and key.position in IMAGE_POSITIONS else "sample"


def make_plans(
    missing: Mapping[str, tuple[Key, ...]],
    prefixes: Mapping[str, str],
    anatomy: Anatomy,
    micro_batch: int,
    bytes_per_value: int,
) -> list[Plan]:
    """One plan for each set of missing keys; samples keep their order, so those of one picture stay together."""
    by_gap: dict[tuple[Key, ...], list[str]] = {}
    for uid, keys in missing.items():
        by_gap.setdefault(keys, []).append(uid)
    return [_plan(uids, keys, prefixes, anatomy, micro_batch, bytes_per_value) for keys, uids in by_gap.items()]


def _plan(
    uids: Sequence[str],
    keys: Iterable[Key],
    prefixes: Mapping[str, str],
    anatomy: Anatomy,
    micro_batch: int,
    bytes_per_value: int,
) -> Plan:
    spaces = {key: space_of(key, anatomy) for key in keys}
    row_bytes = sum(anatomy.widths[key.site.tower] for key in spaces) * bytes_per_value
    per_shard = max(1, SHARD_BYTES // (row_bytes * micro_batch))
    batches = [tuple(uids[i : i + micro_batch]) for i in range(0, len(uids), micro_batch)]
    units = tuple(Unit(batch, shard=i // per_shard) for i, batch in enumerate(batches))
    first: dict[str, str] = {}
    for uid in uids:
        first.setdefault(prefixes[uid], uid)
    return Plan(units, spaces, {uid: prefixes[uid] for uid in uids}, frozenset(first.values()))
