"""Predictions for each label, at the layer that validation chose: the confusion matrix and what is in it."""

from dataclasses import dataclass

import numpy as np

from mllm_probe.results.predictions import Scored, by_label

WHOLE = 12  # labels whose matrix fits on a page
EACH = 6  # of more labels, how many of the commonest and of the worst are shown


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
