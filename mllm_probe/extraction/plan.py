"""What will be extracted, in which order, into which shard: fixed before the first pass. Knows no model class.

A plan is a list of units. A unit is a forward pass: its samples, its prefix mode and its target shard; resuming and
sharing out the work take whole shards, so the same plan gives the same bytes wherever it was interrupted and however
many processes fill it.

Plans are made of what is missing: samples of one picture stand together and the longest come first, so that neighbours
are of equal length, little is padded, and a batch that is too large for the memory shows at once.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mllm_probe.cache.coverage import plan_digest
from mllm_probe.config.model import DTYPES
from mllm_probe.records.batches import Survey, common_head
from mllm_probe.records.sites import Anatomy, Key

SHARED, PLAIN = "shared", "plain"
FORMAT = 3  # of a group: since 3 a mean is one sum over its tokens, which may differ in the last digit
FIRST = 2  # of groups whose plan names none
BYTES = dict(zip(DTYPES, (4, 2, 2), strict=True))
PASS_TOKENS = {"cpu": 1_024, "cuda": 16_384}  # what stays in a CPU's caches; what keeps a GPU busy
SHARD_BYTES = 100_000_000
SHARD_UNITS = 16  # at most, so that a kill costs little where rows are small


@dataclass(frozen=True)
class Unit:
    samples: tuple[str, ...]
    shard: int
    prefix: str = PLAIN


@dataclass(frozen=True)
class Plan:
    """`spaces` maps each key to its row space; `owners` are the samples that store their prefix's rows.

    `prompts` shows the rendered text of the first samples, for whoever reads the plan. Groups of an older `format` are
    read like others, and no shard is added to them.
    """

    units: tuple[Unit, ...]
    spaces: Mapping[Key, str]
    prefixes: Mapping[str, str]
    owners: frozenset[str]
    prompts: tuple[str, ...]
    format: int = FORMAT

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
            **({} if self.format == FIRST else {"format": self.format}),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Plan":
        return cls(
            tuple(Unit(tuple(unit["samples"]), unit["shard"], unit["prefix"]) for unit in stored["units"]),
            {Key.parse(name): space for name, space in stored["spaces"].items()},
            stored["prefixes"],
            frozenset(stored["owners"]),
            tuple(stored["prompts"]),
            stored.get("format", FIRST),
        )


def rows_of(survey: Survey, position: str, uid: str) -> int:
    """Rows a sample stores there; for `tokens:TEXT` at most, since only the whole prompt's length is known."""
    if not position.startswith("tokens:"):
        return 1
    return survey.picture_tokens + 1 if position == "tokens:image" else survey.tokens(uid)


@dataclass(frozen=True)
class Row:
    """One sequence of a forward pass: its samples, its head and tail columns, and the bytes it will store."""

    samples: tuple[str, ...]
    head: int
    tail: int
    bytes: int


@dataclass(frozen=True)
class Planner:
    """What every plan of one request shares.

    A pass holds at most `micro_batch` prompts or, where statements share a head, as many tokens as those would have;
    a single head and the tails behind it may take as much once more.
    """

    survey: Survey
    anatomy: Anatomy
    micro_batch: int
    bytes_per_value: int
    shared: bool

    @classmethod
    def of(
        cls, survey: Survey, anatomy: Anatomy, device: str, dtype: str, shared: bool, micro_batch: int | None = None
    ) -> "Planner":
        """For states stored as `dtype`; without a `micro_batch`, passes are as large as suits the device."""
        prompts = micro_batch or max(1, PASS_TOKENS[device] // survey.longest)
        return cls(survey, anatomy, prompts, BYTES[dtype], shared)

    def plans(self, missing: Mapping[tuple[Key, ...], Sequence[str]]) -> list[Plan]:
        """One plan for each set of missing keys and the samples that lack these."""
        return [self._plan(uids, self._spaces(keys)) for keys, uids in missing.items()]

    def _spaces(self, keys: Sequence[Key]) -> dict[Key, str]:
        """In the order of their names, as a plan that is read back has them: shards are made from either."""
        return {key: self.anatomy.space(key) for key in sorted(keys, key=str)}

    def _plan(self, uids: Sequence[str], spaces: Mapping[Key, str]) -> Plan:
        """Samples without a row of their own are in the plan, but in no unit."""
        first: dict[str, str] = {}
        for uid in uids if spaces else ():
            first.setdefault(self.survey.prefixes[uid], uid)
        owners = frozenset(first.values())
        read = [uid for uid in uids if uid in owners or "sample" in spaces.values()]
        units: list[Unit] = []
        shard = held = inside = 0
        for rows in self._passes(self._rows(read, self._widths(spaces), owners)):
            size = sum(row.bytes for row in rows)
            if inside and (held + size > SHARD_BYTES or inside == SHARD_UNITS):
                shard, held, inside = shard + 1, 0, 0
            units.append(Unit(tuple(u for row in rows for u in row.samples), shard, SHARED if self.shared else PLAIN))
            held, inside = held + size, inside + 1
        prefixes = {uid: self.survey.prefixes[uid] for uid in uids}
        return Plan(tuple(units), spaces, prefixes, owners, self.survey.prompts)

    def _budget(self, uids: Sequence[str]) -> int:
        return self.micro_batch * max((self.survey.tokens(uid) for uid in uids), default=0)

    def _widths(self, spaces: Mapping[Key, str]) -> Counter[tuple[str, str]]:
        """{(row space, position): values in a row of all its keys}, for keys are many and these few."""
        found: Counter[tuple[str, str]] = Counter()
        for key, space in spaces.items():
            found[space, key.position] += self.anatomy.widths[key.site.tower]
        return found

    def _rows(self, uids: Sequence[str], widths: Mapping[tuple[str, str], int], owners: frozenset[str]) -> list[Row]:
        groups: dict[str, list[str]] = {}
        for uid in uids:
            groups.setdefault(self.survey.prefixes[uid], []).append(uid)
        budget, ordered = self._budget(uids), []
        for group in groups.values():
            parts = self._cut(group, budget) if self.shared else ([uid] for uid in group)
            ordered.append([self._row(part, widths, owners) for part in parts])
        ordered.sort(key=lambda rows: (-max(row.tail for row in rows), -max(row.head for row in rows)))
        return [row for rows in ordered for row in rows]

    def _cut(self, group: Sequence[str], budget: int) -> Iterator[list[str]]:
        """Pieces of a group whose tails stay within the budget of a pass; the head comes on top."""
        head = common_head([self.survey.ids[uid] for uid in group])
        piece: list[str] = []
        used = 0
        for uid in group:
            tail = len(self.survey.ids[uid]) - head
            if piece and used + tail > budget:
                yield piece
                piece, used = [], 0
            piece.append(uid)
            used += tail
        yield piece

    def _row(self, uids: Sequence[str], widths: Mapping[tuple[str, str], int], owners: frozenset[str]) -> Row:
        head = common_head([self.survey.ids[uid] for uid in uids]) + self.survey.picture_tokens
        tail = sum(self.survey.tokens(uid) - head for uid in uids)
        values = sum(
            width * rows_of(self.survey, position, uid)
            for uid in uids
            for (space, position), width in widths.items()
            if space == "sample" or uid in owners
        )
        return Row(tuple(uids), head, tail, values * self.bytes_per_value)

    def _passes(self, rows: Sequence[Row]) -> Iterator[list[Row]]:
        """Greedily as many rows as the tokens, or the prompts, and the bytes of a shard allow."""
        budget = self._budget([uid for row in rows for uid in row.samples])
        taken: list[Row] = []
        head = tail = size = 0
        for row in rows:
            head, tail, size = max(head, row.head), max(tail, row.tail), size + row.bytes
            rest = len(taken) + 1
            full = (head + tail) * rest > budget if self.shared else rest > self.micro_batch
            if taken and (full or size > SHARD_BYTES):
                yield taken
                taken, head, tail, size = [], row.head, row.tail, row.bytes
            taken.append(row)
        if taken:
            yield taken
