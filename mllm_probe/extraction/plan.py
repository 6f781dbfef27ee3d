"""What will be extracted, in which order, into which shard: fixed before the first pass. Knows no model class.

A plan is a list of units. A unit is a forward pass: its samples, its prefix mode and its target shard; resuming and
sharing out the work take whole shards, so the same plan gives the same bytes wherever it was interrupted and however
many processes fill it.

Plans are made of what is missing: samples of one picture stand together and the longest come first, so that neighbours
are of equal length, little is padded, and a batch that is too large for the memory shows at once.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mllm_probe.cache.plan import Plan
from mllm_probe.config.model import DTYPES
from mllm_probe.records.batches import Survey, common_head
from mllm_probe.records.sites import PICKED, Anatomy, Key

BYTES = dict(zip(DTYPES, (4, 2, 2), strict=True))
PASS_TOKENS = {"cpu": 2_048, "cuda": 16_384}  # what stays in a CPU's caches; what keeps a GPU busy
SHARD_BYTES = 100_000_000
SHARD_UNITS = 16  # at most, so that a kill costs little where rows are small


@dataclass(frozen=True)
class Rows:
    """R sequences of forward passes, one after another: `samples` [n] by their places in the request, how many of them
    each row has, its head and tail columns, and the bytes it will store [R]."""

    samples: np.ndarray
    counts: np.ndarray
    head: np.ndarray
    tail: np.ndarray
    bytes: np.ndarray


def rows_of(survey: Survey, position: str, rows: np.ndarray) -> np.ndarray | int:
    """Rows that each sample stores there, one number where all store as many; for `tokens:TEXT` at most, since only the
    whole prompt's length is known, and of picked ones on average."""
    if not position.startswith("tokens:"):
        return 1
    if position.startswith(PICKED):
        return int(position.removeprefix(PICKED).partition(".")[0])
    return survey.picture_tokens + 1 if position == "tokens:image" else survey.tokens[rows].astype(np.int64)


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
        return [self._plan(self.survey.rows(uids), self._spaces(keys)) for keys, uids in missing.items()]

    def _spaces(self, keys: Sequence[Key]) -> dict[Key, str]:
        """In the order of their names, as a plan that is read back has them: shards are made from either."""
        return {key: self.anatomy.space(key) for key in sorted(keys, key=str)}

    def _plan(self, asked: np.ndarray, spaces: Mapping[Key, str]) -> Plan:
        """`asked` [n] are rows of the survey. Samples without a row of their own are in the plan, but in no unit."""
        known, first, prefix = np.unique(self.survey.prefix[asked], return_index=True, return_inverse=True)
        owns = np.zeros(len(asked), bool)
        owns[first] = bool(spaces)
        read = np.ones(len(asked), bool) if "sample" in spaces.values() else owns
        rows = self._rows(asked, np.flatnonzero(read), prefix, self._bytes(asked, owns, spaces))
        ends, shard = self._cut_into_passes(rows, self._budget(asked[read]))
        order = np.concatenate([rows.samples, np.flatnonzero(~read)])
        place = np.empty(len(asked), np.uint32)
        place[order] = np.arange(len(asked))
        return Plan(
            samples=self.survey.uids[asked[order]],
            prefix=prefix[order].astype(np.uint32),
            prefixes=self.survey.prefixes[known],
            owners=place[first] if spaces else place[:0],
            ends=ends,
            shard=shard,
            shared=self.shared,
            spaces=spaces,
            prompts=self.survey.prompts,
        )

    def _budget(self, rows: np.ndarray) -> int:
        return self.micro_batch * int(self.survey.tokens[rows].max(initial=0))

    def _bytes(self, asked: np.ndarray, owns: np.ndarray, spaces: Mapping[Key, str]) -> np.ndarray:
        """That each sample stores [n]; keys are many, and their row spaces and positions few."""
        widths: Counter[tuple[str, str]] = Counter()
        for key, space in spaces.items():
            widths[space, key.position] += self.anatomy.widths[key.site.tower]
        values = np.zeros(len(asked), np.int64)
        for (space, position), width in widths.items():
            values += width * rows_of(self.survey, position, asked) * (owns if space == "prefix" else 1)
        return values * self.bytes_per_value

    def _rows(self, asked: np.ndarray, read: np.ndarray, prefix: np.ndarray, stored: np.ndarray) -> Rows:
        """Samples of one picture stand together, and the longest come first; of equals, those asked for first."""
        _, first, inverse = np.unique(prefix[read], return_index=True, return_inverse=True)
        group = np.argsort(np.argsort(first))[inverse]  # in the order in which they were asked for
        together = np.argsort(group, kind="stable")
        read, sizes = read[together], np.bincount(group)
        counts, head, tail = self._sequences(asked[read], sizes)
        starts = np.cumsum(counts) - counts
        own = np.repeat(np.arange(len(sizes)), sizes)[starts] if len(starts) else starts  # the group of each row
        begins = np.flatnonzero(np.diff(own, prepend=-1))
        longest = np.lexsort([-np.maximum.reduceat(found, begins) for found in (head, tail)]) if len(own) else own
        rank = np.argsort(longest)
        order = np.argsort(rank[own], kind="stable")
        size = np.add.reduceat(stored[read], starts) if len(starts) else starts
        samples = read[np.argsort(np.repeat(rank[own], counts), kind="stable")]
        return Rows(samples, counts[order], head[order], tail[order], size[order])

    def _sequences(self, rows: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Samples of groups of so many, cut into sequences: how many each has, its head and its tail columns."""
        tokens = self.survey.tokens[rows].astype(np.int64)
        if not self.shared or not len(rows):
            return np.ones(len(rows), np.int64), tokens, np.zeros(len(rows), np.int64)
        counts, heads, budget = array("q"), array("q"), self._budget(rows)
        stop = 0
        for size in sizes.tolist():
            start, stop = stop, stop + size
            for piece in self._pieces(rows[start:stop], budget) if size > 1 else (rows[start:stop],):
                counts.append(len(piece))
                heads.append(self._head(piece) + self.survey.picture_tokens)
        many, head = np.array(counts), np.array(heads)
        return many, head, np.add.reduceat(tokens, np.cumsum(many) - many) - many * head

    def _head(self, rows: np.ndarray) -> int:
        return common_head([self.survey.ids(row) for row in rows.tolist()])

    def _pieces(self, rows: np.ndarray, budget: int) -> Iterator[np.ndarray]:
        """Of a group, so that the tails of each stay within the budget of a pass; the head comes on top."""
        tails = self.survey.tokens[rows] - self.survey.picture_tokens - self._head(rows)
        start = used = 0
        for place, tail in enumerate(tails.tolist()):
            if place > start and used + tail > budget:
                yield rows[start:place]
                start, used = place, 0
            used += tail
        yield rows[start:]

    def _cut_into_passes(self, rows: Rows, budget: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each pass ends among the samples, and its shard. Greedily as many rows as the tokens, or the prompts,
        and the bytes of a shard allow; a shard takes as many passes as its bytes allow, and SHARD_UNITS at most."""
        ends, shards = array("q"), array("i")
        shard = held = inside = samples = 0
        for count, size in self._passes(rows, budget):
            if inside and (held + size > SHARD_BYTES or inside == SHARD_UNITS):
                shard, held, inside = shard + 1, 0, 0
            samples, held, inside = samples + count, held + size, inside + 1
            ends.append(samples)
            shards.append(shard)
        return np.array(ends, np.int64), np.array(shards, np.int32)

    def _passes(self, rows: Rows, budget: int) -> Iterator[tuple[int, int]]:
        """The samples and the bytes of each pass."""
        taken = samples = head = tail = size = 0
        columns = (column.data for column in (rows.counts, rows.head, rows.tail, rows.bytes))
        for count, own, behind, stored in zip(*columns, strict=True):  # no list of a million numbers
            head, tail = max(head, own), max(tail, behind)
            full = (head + tail) * (taken + 1) > budget if self.shared else taken == self.micro_batch
            if taken and (full or size + stored > SHARD_BYTES):
                yield samples, size
                taken, samples, head, tail, size = 0, 0, own, behind, 0
            taken, samples, size = taken + 1, samples + count, size + stored
        if taken:
            yield samples, size
