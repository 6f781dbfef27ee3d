"""Predictions for each label, at the layer that validation chose: the confusion matrix and what is in it.

A page goes without files that only add to it and are damaged.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mllm_probe.errors import DataError
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import read_table
from mllm_probe.records.samples import label_said
from mllm_probe.results.predictions import Scored, load_scored

if TYPE_CHECKING:
    import pandas as pd


import numpy as np

from mllm_probe.results.predictions import by_label

WHOLE = 12  # labels whose matrix fits on a page
EACH = 6  # of more labels, how many of the commonest and of the worst are shown
T = TypeVar("T")


@dataclass(frozen=True)
class Labelled:
    """A label of the held-out decisions: how many have it, the share of them that is said to have it, the share of
    those said to have it that does (of the seeds that say it, None where none does), and the label it is most often
    taken for with its share. Shares are means over seeds."""

    name: str
    n: int
    recall: float
    precision: float | None
    taken: str
    mistaken: float


@dataclass(frozen=True)
class Confusion:
    """`seeds` [S, C, C]: by seed, of the held-out decisions with a label (rows), those said to have another (columns);
    a tie counts its share for each. `names` [C]."""

    key: str
    names: tuple[str, ...]
    seeds: np.ndarray

    @classmethod
    def of(cls, key: str, scored: Scored, logits: np.ndarray, metric: str) -> "Confusion | None":
        """Of a probe's logits [S, N] or [S, N, C], read as the measure does; None where labels have no names."""
        if not scored.names:
            return None
        read = np.asarray(scored.test) & ~np.isnan(logits.reshape(len(logits), len(scored.test), -1)[0, :, 0])
        wide = by_label(scored.read_as(metric, logits)[:, read], scored.kind)
        said = wide == wide.max(-1, keepdims=True)
        shares = said / said.sum(-1, keepdims=True)
        truth = np.asarray(scored.labels)[read].astype(int)
        return cls(key, scored.names, np.eye(len(scored.names))[truth].T @ shares)

    @property
    def counts(self) -> np.ndarray:
        """[C, C]: mean over seeds."""
        return self.seeds.mean(0)

    @property
    def whole(self) -> bool:
        """Whether all labels are shown."""
        return len(self.names) <= WHOLE

    def matrix(self) -> list[tuple[str, list[tuple[float, float]]]]:
        """(label, (count, its share of the row) for each label)."""
        shares = self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1)
        return [
            (name, list(zip(*pair, strict=True)))
            for name, *pair in zip(self.names, self.counts.tolist(), shares.tolist(), strict=True)
        ]

    def labels(self) -> list[Labelled]:
        """All of them, or of many the commonest and, behind them, those with the lowest recall."""
        each = [self._label(code) for code in range(len(self.names))]
        if self.whole:
            return each
        common = sorted(each, key=lambda one: -one.n)[:EACH]
        worst = [one for one in sorted(each, key=lambda one: (one.recall, -one.n)) if one.n and one not in common]
        return [*common, *worst[:EACH]]

    def _label(self, code: int) -> Labelled:
        row, said = self.counts[code], self.seeds[:, :, code].sum(1)
        n, others = row.sum(), np.where(np.arange(len(row)) == code, -1, row)
        top = int(others.argmax())
        recall, precision = (
            row[code] / n if n else 0.0,
            float((self.seeds[said > 0, code, code] / said[said > 0]).mean()) if said.any() else None,
        )
        taken = self.names[top] if others[top] > 0 else ""
        return Labelled(
            self.names[code], round(n), float(recall), precision, taken, float(others[top] / n) if taken else 0.0
        )


@dataclass(frozen=True)
class OptionalFiles:
    """What splits.csv and predictions.safetensors say, None where they are not there or damaged; `damaged` has a line
    on each file that was left out."""

    paths: RunPaths

    @cached_property
    def damaged(self) -> list[str]:
        return []

    def spared(self, path: Path, read: Callable[[Path], T], empty: T, what: str) -> T:
        """What is read of a file that only adds to the page; where it is damaged `empty`, which is then said."""
        try:
            return read(path)
        except DataError as error:
            self.damaged.append(f"left out, {what}: {error}")
            return empty

    @cached_property
    def splits(self) -> "pd.DataFrame | None":
        path, texts = self.paths.splits, dict.fromkeys(("seed", "group", "split"), str)
        read = partial(read_table, texts=texts, numbers={})
        return self.spared(path, read, None, "pictures in several splits") if path.is_file() else None

    @cached_property
    def scored(self) -> Scored | None:
        path = self.paths.predictions
        return self.spared(path, load_scored, None, "the balance of labels") if path.is_file() else None

    def leakage(self, groups: str) -> Iterator[tuple[str, str]]:
        """What splits.csv and predictions.safetensors say of groups on two sides, and of the balance of labels;
        `groups` is what they are called."""
        if (table := self.splits) is not None:
            several = int((table.groupby(["seed", "group"]).split.nunique() > 1).sum())
            moved = table.assign(test=table.split == "test").groupby("group").test.nunique()
            yield f"{groups} in two splits of one seed", f"{several} of {table.group.nunique()}"
            yield f"{groups} in the test split of some seeds only", f"{int((moved > 1).sum())}"
        if self.scored is not None and self.scored.kind == "binary":
            yield f"share of label {label_said(self.scored.names, 1)} in the test set", _balance(self.scored)


def _balance(scored: Scored) -> str:
    tested = [label for label, test in zip(scored.labels, scored.test, strict=True) if test]
    return f"{100 * sum(tested) / len(tested):.1f} % of {len(tested)}"
