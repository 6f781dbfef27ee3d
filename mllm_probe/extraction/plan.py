"""What will be extracted, in which order, into which shard: fixed before the first pass. Knows no model class.

A plan is a list of units. A unit is a forward pass: its samples, its prefix mode and its target shard; resuming and
sharing out the work take whole shards, so the same plan gives the same bytes wherever it was interrupted and however
many processes fill it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mllm_probe.cache.identity import plan_digest
from mllm_probe.records.sites import Key

SHARED, PLAIN = "shared", "plain"


@dataclass(frozen=True)
class Unit:
    samples: tuple[str, ...]
    shard: int
    prefix: str = PLAIN


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

    @cached_property
    def by_shard(self) -> tuple[tuple[Unit, ...], ...]:
        """The units of each shard, in order."""
        found: list[list[Unit]] = [[] for _ in range(self.shards)]
        for unit in self.units:
            found[unit.shard].append(unit)
        return tuple(map(tuple, found))

    @property
    def shards(self) -> int:
        """0 for a plan that only joins new samples to image states that are stored already."""
        return 1 + self.units[-1].shard if self.units else 0

    @property
    def keys(self) -> tuple[Key, ...]:
        return tuple(self.spaces)

    @cached_property
    def digest(self) -> str:
        """Of what decides the bytes; `prompts` are for readers and differ with what was missing."""
        return plan_digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {
            "units": [{"samples": u.samples, "shard": u.shard, "prefix": u.prefix} for u in self.units],
            "spaces": {str(key): space for key, space in self.spaces.items()},
            "prefixes": {uid: self.prefixes[uid] for uid in sorted(self.prefixes)},  # sorted by key alone: much faster
            "owners": sorted(self.owners),
            "prompts": list(self.prompts),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Plan":
        return cls(
            tuple(Unit(tuple(unit["samples"]), unit["shard"], unit["prefix"]) for unit in stored["units"]),
            {Key.parse(name): space for name, space in stored["spaces"].items()},
            stored["prefixes"],
            frozenset(stored["owners"]),
            tuple(stored["prompts"]),
        )
