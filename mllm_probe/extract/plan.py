"""What will be extracted, in which order, into which shard: fixed before the first pass. Knows no model class.

A plan is a list of units. A unit is a micro-batch with its prefix mode and its target shard; resuming and sharing
out the work take whole units, so the same plan gives the same bytes wherever it was interrupted.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mllm_probe.types import PICTURE_POSITIONS, Anatomy, Key, digest

SHARD_BYTES = 100_000_000
SHARD_UNITS = 16  # at most, so that a kill costs little where rows are small


@dataclass(frozen=True)
class Unit:
    samples: tuple[str, ...]
    shard: int
    prefix: str = "plain"


@dataclass(frozen=True)
class Plan:
    """`spaces` maps each key to its row space; `owners` are the samples that store their prefix's rows.

    `prompts` shows the rendered text of the first samples, for whoever reads the plan.
    """

    units: tuple[Unit, ...]
    spaces: Mapping[Key, str]
    prefixes: Mapping[str, str]
    owners: frozenset[str]
    prompts: tuple[str, ...]

    @property
    def shards(self) -> int:
        """0 for a plan that only joins new samples to image states that are stored already."""
        return 1 + self.units[-1].shard if self.units else 0

    @property
    def digest(self) -> str:
        return digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {
            "units": [asdict(unit) for unit in self.units],
            "spaces": {str(key): space for key, space in self.spaces.items()},
            "prefixes": dict(self.prefixes),
            "owners": sorted(self.owners),
            "prompts": list(self.prompts),
        }


def space_of(key: Key, anatomy: Anatomy) -> str:
    """Image states depend on the picture and the prompt head alone wherever no token sees a later one."""
    if key.site.tower != "lm":
        return "prefix"
    return "prefix" if anatomy.causal and key.position in PICTURE_POSITIONS else "sample"


@dataclass(frozen=True)
class Planner:
    """What every plan of one request shares: each sample's prefix, its prompt on demand, and the sizes."""

    prefixes: Mapping[str, str]
    prompt_of: Callable[[str], str]
    anatomy: Anatomy
    micro_batch: int
    bytes_per_value: int

    def plans(self, missing: Mapping[str, tuple[Key, ...]]) -> list[Plan]:
        """One plan for each set of missing keys; samples keep their order, so those of one picture stay together."""
        by_gap: dict[tuple[Key, ...], list[str]] = {}
        for uid, keys in missing.items():
            by_gap.setdefault(keys, []).append(uid)
        return [self._plan(uids, keys) for keys, uids in by_gap.items()]

    def _plan(self, uids: Sequence[str], keys: Iterable[Key]) -> Plan:
        spaces = {key: space_of(key, self.anatomy) for key in keys}
        row_bytes = sum(self.anatomy.widths[key.site.tower] for key in spaces) * self.bytes_per_value
        per_shard = min(SHARD_UNITS, max(1, SHARD_BYTES // max(1, row_bytes * self.micro_batch)))
        starts = range(0, len(uids), self.micro_batch) if spaces else ()
        batches = [tuple(uids[i : i + self.micro_batch]) for i in starts]
        units = tuple(Unit(batch, shard=i // per_shard) for i, batch in enumerate(batches))
        first: dict[str, str] = {}
        for uid in uids if spaces else ():
            first.setdefault(self.prefixes[uid], uid)
        prefixes = {uid: self.prefixes[uid] for uid in uids}
        return Plan(units, spaces, prefixes, frozenset(first.values()), tuple(map(self.prompt_of, uids[:3])))
