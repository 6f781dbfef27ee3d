"""How the stored rows of a key meet the decisions: which row each decision reads, and by which output of a probe.

Where every decision has a row of its own (a statement's last token, a name in a list) one output serves all. Where
several read the same row (one picture, many categories), or rows that lie before the word that tells them apart, no
single output can answer for all of them, and each category has its own. Knows no label but through the problems it is
given.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.cache.coverage import Coverage
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.records.problems import LayerData, Problem, Rows, content, outputs_apart, row_offsets, trained
from mllm_probe.records.sites import Key

if TYPE_CHECKING:
    import torch

READ = 1 << 24  # about so many bytes of rows are read at a time


@dataclass(frozen=True)
class Readout:
    """`data` holds a row for each of the decisions `who` [M]; `heads` [M] numbers their outputs (None: one for all)."""

    data: LayerData
    who: np.ndarray
    total: int
    heads: np.ndarray | None = None

    @classmethod
    def of(cls, data: LayerData) -> "Readout":
        """Of all decisions."""
        return cls(data, np.arange(len(data)), len(data))

    def content(self) -> str:
        """A digest of all that a probe is given, but the labels."""
        import torch

        data, parts = self.data, list[str]()
        for rows in blocks(data.rows):
            parts.append(content(str(rows.dtype), rows.contiguous().reshape(-1).view(torch.uint8).cpu().numpy()))
        around = (data.compute.device, data.bounds, data.pairs, data.sides, self.who, self.total, self.heads)
        return content(tuple(data.rows.shape), *around, *parts)

    @property
    def plain(self) -> bool:
        """One output, and a row for every decision."""
        return self.heads is None and len(self.who) == self.total

    def problem(self, problem: Problem) -> Problem:
        """Cut to the decisions that are read; with several outputs each row has a label at its own output only.

        Outputs that lack a label in training or have nothing to validate on are left out.
        """
        y, train, val = problem.y[self.who], problem.train[self.who], problem.val[self.who]
        if self.heads is None:
            return replace(problem, y=y, train=train, val=val)
        live = trained(self.heads, y, train, val)
        cells = self.heads[:, None] == live
        return replace(problem, y=np.where(cells, y[:, None], 0), train=train, val=val, kind="labels", mask=cells)

    def logits(self, found: np.ndarray, problem: Problem) -> np.ndarray:
        """[M] or [M, C] of a probe -> [N] or [N, C] for all decisions: nan where nothing is read, 0 where an output was
        left out."""
        if self.plain:
            return found.astype(np.float32)
        if self.heads is not None:
            live = trained(self.heads, problem.y[self.who], problem.train[self.who], problem.val[self.who])
            padded = np.concatenate([found.reshape(len(self.who), len(live)), np.zeros((len(self.who), 1))], axis=1)
            column = np.where(np.isin(self.heads, live), np.searchsorted(live, self.heads), len(live))
            found = padded[np.arange(len(self.who)), column]
        whole = np.full((self.total, *found.shape[1:]), np.nan, dtype=np.float32)
        whole[self.who] = found
        return whole


def blocks(rows: Rows) -> Iterator["torch.Tensor"]:
    """All rows, as many at a time as take little memory."""
    step = max(1, READ // (4 * max(1, rows.shape[1])))
    return (rows[start : start + step] for start in range(0, rows.shape[0], step))


class Source:
    """The rows of one experiment or control."""

    def __init__(self, experiment: Experiment, coverage: Coverage | None = None) -> None:
        self.experiment = experiment
        self._samples = {sample.uid: sample for sample in experiment.examples.samples}
        self._coverage = coverage
        self._shifts: dict[str, np.ndarray] = {}

    @cached_property
    def coverage(self) -> Coverage:
        return self._coverage or self.experiment.store.coverage()

    def holds(self, key: Key) -> bool:
        return not self.coverage.missing([key], self._samples)

    def readout(self, key: Key) -> Readout:
        """Those of token positions are ragged."""
        rows, bounds = self.experiment.store.rows(key, list(self._samples), self.coverage)
        decisions, own, extra = self.experiment.examples.decisions, self._own, self._contrast
        total = len(decisions)
        if key.position.startswith("tokens:"):
            spans = [np.arange(bounds[i], bounds[i + 1]) for i in own]
            ends = np.cumsum([0, *(len(span) for span in spans)])
            return Readout.of(LayerData(rows.take(np.concatenate(spans)), ends, **extra, **self._place(key)))
        shift = self._shift(key.position)
        who = np.flatnonzero(shift >= 0)
        places = bounds[own[who]] + shift[who]
        if len(who) < total:
            extra = {name: values[who] for name, values in extra.items()}
        heads = np.unique(self._heads[who], return_inverse=True)[1] if self.headed(key.position) else None
        return Readout(LayerData(rows.take(places), **extra, **self._place(key)), who, total, heads)

    def _place(self, key: Key) -> dict[str, Any]:
        name = f"{key} ({self.experiment.control})" if self.experiment.control else str(key)
        return {"name": name, "compute": self.experiment.compute}

    def headed(self, position: str) -> bool:
        """Whether a probe needs several outputs here."""
        return outputs_apart(self.experiment.examples, position, self._shift(position))

    def _shift(self, position: str) -> np.ndarray:
        if position not in self._shifts:
            self._shifts[position] = row_offsets(self.experiment.examples, position)
        return self._shifts[position]

    @cached_property
    def _heads(self) -> np.ndarray:
        return np.asarray([decision.head for decision in self.experiment.examples.decisions])

    @cached_property
    def _own(self) -> np.ndarray:
        """Which sample each decision is about [N]."""
        number = {uid: i for i, uid in enumerate(self._samples)}
        return np.asarray([number[decision.sample] for decision in self.experiment.examples.decisions])

    @cached_property
    def _contrast(self) -> dict[str, Any]:
        """Contrast pairs, where decisions say which half they are."""
        decisions = self.experiment.examples.decisions
        if not any(decision.side for decision in decisions):
            return {}
        names = {pair: i for i, pair in enumerate(dict.fromkeys(d.pair for d in decisions if d.side))}
        pairs = np.asarray([names[d.pair] if d.side else -1 for d in decisions])
        return {"pairs": pairs, "sides": np.asarray([d.side for d in decisions])}
