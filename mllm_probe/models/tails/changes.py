"""Interventions as masks over tokens, and what they make of states. Knows no model.

Letters in shapes: N prompts, R rows, P tokens of a head, S of a tail, L of a whole prompt, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mllm_probe.models.prompts.prompt import Layout
from mllm_probe.records.interventions import ADD, CUT, REPLACE, Intervention
from mllm_probe.records.spans import ALL, IMAGE, LAST, behind_from, tokens_of

HEADED = (IMAGE, ALL)  # spans with tokens in front of the text


def first_block(one: Intervention) -> int:
    """The first block, from 1, that does other work because of it; one more than there are, where only the final norm
    does."""
    if one.kind == CUT:
        assert one.window is not None
        return one.window[0]
    assert one.site is not None
    return one.site.layer + (one.site.part == "block")


def reaches_head(one: Intervention) -> bool:
    """Whether it changes states in front of the text."""
    return one.kind != CUT and one.span in HEADED


def applies(one: Intervention, uid: str) -> bool:
    """Whether a prompt is changed: states are replaced where a donor is named."""
    return one.kind != REPLACE or uid in one.payload


def at_last_alone(one: Intervention) -> bool:
    """Whether the last token alone is changed; no other token ever reads it."""
    return one.span == LAST and not (one.kind == CUT and one.payload is not None)


@dataclass
class Masks:
    """Spans of N prompts as masks over `columns` columns, in which token 0 of prompt n stands at `starts[n]`."""

    layouts: Sequence[Layout]
    starts: Sequence[int]
    columns: int
    _spans: dict[str, np.ndarray] = field(default_factory=dict)

    def span(self, name: str) -> np.ndarray:
        """[N, columns] bool. Raises SpanError."""
        if name not in self._spans:
            found = np.zeros((len(self.layouts), self.columns), dtype=bool)
            for n, (layout, start) in enumerate(zip(self.layouts, self.starts, strict=True)):
                places = np.asarray(tokens_of(layout, name), dtype=np.int64) + start
                found[n, places[places >= 0]] = True
            self._spans[name] = found
        return self._spans[name]


def edges_of(layout: Layout, one: Intervention) -> np.ndarray:
    """Which of the L keys each of the S tokens behind the picture may not read, [S, L] bool; a token may always read
    itself. Raises SpanError."""
    start, length = behind_from(layout), len(layout.ids)
    queries, keys = np.zeros(length, dtype=bool), np.zeros(length, dtype=bool)
    queries[tokens_of(layout, one.span)] = True
    keys[tokens_of(layout, one.source)] = True
    earlier = np.tri(length - start, length, start - 1, dtype=bool)
    cut = queries[start:, None] & keys & earlier
    if one.payload is None:
        return cut
    free, drawn = np.flatnonzero(earlier), np.zeros(cut.size, dtype=bool)
    rng = np.random.default_rng([int(one.payload), *layout.sample.uid.encode()])
    drawn[rng.choice(free, cut.sum(), replace=False)] = True
    return drawn.reshape(cut.shape)


@dataclass(frozen=True)
class Cuts:
    """Edges of R rows that are cut, [R, queries, keys] bool, each from its first to its last block."""

    edges: Tensor
    windows: Tensor  # [R, 2]

    @classmethod
    def of(cls, edges: Sequence[np.ndarray], interventions: Sequence[Intervention], device: torch.device) -> "Cuts":
        windows = torch.tensor([one.window or (1, 0) for one in interventions])
        return cls(torch.from_numpy(np.stack(edges)).to(device), windows)

    def at(self, block: int) -> Tensor | None:
        """Those in a block; None where there are none."""
        first, last = self.windows.unbind(1)
        here = (first <= block) & (block <= last)
        return self.edges & here.to(self.edges.device)[:, None, None] if bool(here.any()) else None


def change(interventions: Sequence[Intervention], where: Tensor, donors: Tensor | None) -> Callable[[Tensor], Tensor]:
    """What rows [R] make of states [R, S, D] at the tokens `where` [R, S] bool; `donors` [R, S, D] replace them."""

    def changed(states: Tensor) -> Tensor:
        if interventions[0].kind == REPLACE:
            assert donors is not None
            return torch.where(where[..., None], donors.to(states.dtype), states)
        if interventions[0].kind == ADD:
            moved = torch.stack([_row(one, states) for one in interventions])
            return states + where[..., None] * moved[:, None]
        states = states.clone()
        for erase, rows in _alike(interventions):
            here, part = where[rows], states[rows]
            part[here] = erase(part[here]).to(states.dtype)
            states[rows] = part
        return states

    return changed


def _row(one: Intervention, states: Tensor) -> Tensor:
    return torch.as_tensor(one.payload).to(states.device, states.dtype)


def _alike(interventions: Sequence[Intervention]) -> Iterator[tuple[Callable[[Tensor], Tensor], list[int]]]:
    """(eraser, its rows); erasers hold arrays and cannot be compared."""
    rows: dict[int, list[int]] = {}
    for r, one in enumerate(interventions):
        rows.setdefault(id(one.payload), []).append(r)
    for some in rows.values():
        yield interventions[some[0]].payload, some
