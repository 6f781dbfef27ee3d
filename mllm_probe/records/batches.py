"""The records that travel between a model and the store: what is known, what is read, what came out.

Letters in shapes: B batch, L tokens, D width, T stored rows, K tokens read. Everything here is frozen; torch is not
imported at run time.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.records.sites import Key

if TYPE_CHECKING:
    import torch

DIGITS, HEXADECIMAL = 16, re.compile(r"[0-9a-f]*")  # of a uid


def common_head(rows: Sequence[Sequence[int] | np.ndarray]) -> int:
    """Length of the longest common beginning of token ids; a row alone is all head."""
    if len(rows) == 1:
        return len(rows[0])
    shortest = min(len(row) for row in rows)
    stacked = np.asarray([row[:shortest] for row in rows])
    differs = (stacked != stacked[0]).any(axis=0)
    return int(differs.argmax()) if differs.any() else shortest


@dataclass(frozen=True)
class Reading:
    """Which tokens a position reads, for one batch and tower, as indices into the flattened tokens.

    Stored row t is the mean of tokens[segments[t]:segments[t + 1]]; sample b owns rows[b] to rows[b + 1]. `among` is
    how many tokens the flattened states must have (B * L, or pictures * patches): another number means another order.
    """

    among: int
    tokens: np.ndarray  # [K] int64
    segments: np.ndarray  # [T + 1] int64
    rows: np.ndarray  # [B + 1] int64

    def pinned(self) -> "Reading":
        """The same in pinned memory, from which a card reads while it computes."""
        import torch

        tokens, segments = (torch.from_numpy(one).pin_memory().numpy() for one in (self.tokens, self.segments))
        return replace(self, tokens=tokens, segments=segments)

    @classmethod
    def of(cls, rows: Sequence[Sequence[Sequence[int] | np.ndarray]], among: int) -> "Reading":
        """From nested lists: for each sample its stored rows, for each row the flat indices it averages."""
        segments = [np.asarray(segment, dtype=np.int64) for sample in rows for segment in sample]
        tokens = np.concatenate(segments) if segments else np.zeros(0, dtype=np.int64)
        lengths, counts = [len(segment) for segment in segments], [len(sample) for sample in rows]
        return cls(among, tokens, np.cumsum([0, *lengths]), np.cumsum([0, *counts]))


def packed(uids: Sequence[str]) -> np.ndarray:
    """Uids as a column [N]: uint64 where all are digests of 16 hexadecimal digits, as those of samples are, else UTF-8.
    Either is sorted as the uids are."""
    whole = "".join(uids)
    if len(whole) == DIGITS * len(uids) and set(map(len, uids)) <= {DIGITS} and HEXADECIMAL.fullmatch(whole):
        return np.frombuffer(bytes.fromhex(whole), ">u8").astype(np.uint64)
    return np.array([uid.encode() for uid in uids])


def unpacked(column: np.ndarray) -> list[str]:
    """The uids again."""
    if column.dtype.kind != "u":
        return [uid.decode() for uid in column.tolist()]
    whole = column.astype(">u8").tobytes().hex()
    return [whole[i : i + DIGITS] for i in range(0, len(whole), DIGITS)]


def places(column: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where in a column [N] of uids each of the wanted [M] is: [M]; all of them are there."""
    if len(column) == len(wanted) and np.array_equal(column, wanted):
        return np.arange(len(column))
    if column.dtype.kind != wanted.dtype.kind:
        column, wanted = np.array(unpacked(column)), np.array(unpacked(wanted))
    order = np.argsort(column, kind="stable")
    return order[np.searchsorted(column, wanted, sorter=order)]


@dataclass(frozen=True)
class Survey:
    """What a plan needs to know of N samples before a picture is decoded, in columns: there may be millions.

    Sample i begins with the prefix `prefixes[prefix[i]]`, a digest of its pictures and of its prompt up to the last
    image tag, and has the token ids `flat[bounds[i]:bounds[i + 1]]`, with one id for each picture; `picture_tokens` is
    how many more tokens the pictures add once they are expanded.
    """

    uids: np.ndarray  # [N], packed
    prefix: np.ndarray  # [N] uint32
    prefixes: np.ndarray  # [P], packed
    flat: np.ndarray  # [T] int32
    bounds: np.ndarray  # [N + 1] int64
    picture_tokens: int
    prompts: tuple[str, ...]

    def rows(self, uids: Sequence[str]) -> np.ndarray:
        """Where samples are in the columns."""
        return self.rows_at(packed(uids))

    def rows_at(self, column: np.ndarray) -> np.ndarray:
        """The same of packed uids."""
        return places(self.uids, column)

    def ids(self, row: int) -> np.ndarray:
        return self.flat[self.bounds[row] : self.bounds[row + 1]]

    @cached_property
    def tokens(self) -> np.ndarray:
        """Lengths of the expanded prompts [N] int32."""
        return np.diff(self.bounds).astype(np.int32) + np.int32(self.picture_tokens)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return int(self.tokens.max())

    def prefix_of(self) -> dict[str, str]:
        """{sample uid: prefix}."""
        names = unpacked(self.prefixes)
        return {uid: names[number] for uid, number in zip(unpacked(self.uids), self.prefix.tolist(), strict=True)}


@dataclass(frozen=True)
class Batch:
    """One forward pass: sample uids [B] and their `names` for messages, the model's inputs and, per (tower, position),
    what to read.

    `shared` is None where each sample has a sequence of its own; else it is the number of leading columns that hold
    the heads which the statements packed behind them share. `pictures` [P] tells, for the P pictures of the prompts,
    which of the pictures in the inputs each is, where equal ones pass through the vision tower once.
    """

    uids: tuple[str, ...]
    inputs: Mapping[str, Any]
    readings: Mapping[tuple[str, str], Reading]
    shared: int | None = None
    pictures: np.ndarray | None = None
    names: tuple[str, ...] = ()

    def pinned(self) -> "Batch":
        """The same with inputs and indices in pinned memory, so that no copy to a card waits; for worker threads."""
        inputs = {name: value.pin_memory() for name, value in self.inputs.items()}
        return replace(self, inputs=inputs, readings={name: one.pinned() for name, one in self.readings.items()})


@dataclass(frozen=True)
class Chunk:
    """States of one batch in storage dtype: {key: values [T, D]} and, per position, the row bounds [B + 1]."""

    uids: tuple[str, ...]
    values: Mapping[Key, "torch.Tensor"]
    rows: Mapping[Key, np.ndarray]
