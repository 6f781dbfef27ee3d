"""The records that travel between a model and the store: what is known, what is read, what came out.

Letters in shapes: B batch, L tokens, D width, T stored rows, K tokens read. Everything here is frozen; torch is not
imported at run time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.records.sites import Key

if TYPE_CHECKING:
    import torch


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

    @classmethod
    def of(cls, rows: Sequence[Sequence[Sequence[int] | np.ndarray]], among: int) -> "Reading":
        """From nested lists: for each sample its stored rows, for each row the flat indices it averages."""
        segments = [np.asarray(segment, dtype=np.int64) for sample in rows for segment in sample]
        tokens = np.concatenate(segments) if segments else np.zeros(0, dtype=np.int64)
        lengths, counts = [len(segment) for segment in segments], [len(sample) for sample in rows]
        return cls(among, tokens, np.cumsum([0, *lengths]), np.cumsum([0, *counts]))


@dataclass(frozen=True)
class Survey:
    """What a plan needs to know of samples before a picture is decoded, all by sample uid.

    `prefixes` are digests of the pictures and the prompt up to the last image tag; `ids` the prompt's token ids with
    one id for each picture, and `picture_tokens` how many more tokens the pictures add once they are expanded.
    """

    prefixes: Mapping[str, str]
    ids: Mapping[str, np.ndarray]  # [L] int32
    picture_tokens: int
    prompts: tuple[str, ...]

    def tokens(self, uid: str) -> int:
        """Length of the expanded prompt."""
        return len(self.ids[uid]) + self.picture_tokens

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(self.tokens, self.ids))


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


@dataclass(frozen=True)
class Chunk:
    """States of one batch in storage dtype: {key: values [T, D]} and, per position, the row bounds [B + 1]."""

    uids: tuple[str, ...]
    values: Mapping[Key, "torch.Tensor"]
    rows: Mapping[Key, np.ndarray]
