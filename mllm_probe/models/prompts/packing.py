"""Statements about one picture, packed after the head they share, as one sequence. Knows token ids, no model.

    columns   0 ........ P | P ..................... P + S
    row r     head, pad    | tail of statement 1, of 2, ..., pad

A tail sees its row's head and itself up to the present token, nothing of its neighbours, and its positions continue
where the head's end: every token computes what it would compute in a prompt of its own. The head is the longest
common beginning of the row's token ids, so it usually holds the first words of the statements, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mllm_probe.records.batches import common_head


@dataclass(frozen=True)
class Packed:
    """R rows of P + S columns. `places[r][k][i]` is the flat index of token i of statement k of row r."""

    ids: np.ndarray  # [R, P + S] int64
    positions: np.ndarray  # [A, R, P + S] int64; A = 1, or 3 axes where pictures have rows and columns (M-RoPE)
    mask: np.ndarray  # [R, 1, S, P + S] bool, what each tail token sees
    columns: int  # P
    places: list[list[np.ndarray]]


def pack(rows: Sequence[Sequence[Sequence[int]]], positions: Sequence[np.ndarray], pad: int) -> Packed:
    """Pack `rows[r][k]`, the token ids of statement k of row r.

    `positions[r]` [A, L] are those of the first statement of the row; text continues them one by one.
    """
    heads = [common_head(row) for row in rows]
    columns = max(heads)
    tails = max(sum(len(ids) - head for ids in row) for row, head in zip(rows, heads, strict=True))
    width = columns + tails
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    where = np.zeros((positions[0].shape[0], len(rows), width), dtype=np.int64)
    owner = np.full((len(rows), tails), -1)
    places: list[list[np.ndarray]] = []
    for r, (row, head) in enumerate(zip(rows, heads, strict=True)):
        ids[r, :head] = row[0][:head]
        where[:, r, :head] = positions[r][:, :head]
        start, found = columns, []
        for k, tokens in enumerate(row):
            stop = start + len(tokens) - head
            ids[r, start:stop] = tokens[head:]
            where[:, r, start:stop] = _continued(positions[r], head, len(tokens))
            owner[r, start - columns : stop - columns] = k
            found.append(r * width + np.concatenate([np.arange(head), np.arange(start, stop)]))
            start = stop
        places.append(found)
    return Packed(ids, where, _mask(np.asarray(heads), owner, columns), columns, places)


def _continued(first: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Positions [A, stop - start] of text tokens: index plus what the pictures saved or added (the rope delta)."""
    delta = first[:, -1:] + 1 - first.shape[1]
    return np.arange(start, stop)[None] + delta


def _mask(heads: np.ndarray, owner: np.ndarray, columns: int) -> np.ndarray:
    """[R, 1, S, P + S]; pads see themselves, because a softmax over nothing is not a number."""
    rows, tails = owner.shape
    seen = np.zeros((rows, 1, tails, columns + tails), dtype=bool)
    seen[:, 0, :, :columns] = np.arange(columns)[None, None] < heads[:, None, None]
    seen[:, 0, :, columns:] = (owner[:, :, None] == owner[:, None, :]) & np.tri(tails, dtype=bool)
    return seen
