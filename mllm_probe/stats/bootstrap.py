"""Intervals by the cluster bootstrap: pictures are drawn, not rows, because rows of one picture are not independent.

One `Resamples` holds the draws of a whole sweep, so that layers, probes and controls are compared within the same
draws. It knows pictures and measures, not layers. Letters: N rows, G pictures, R draws, L layers, S seeds.
"""

from collections.abc import Iterator

import numpy as np
from scipy.special import log_softmax, ndtr, stdtrit

from mllm_probe.errors import ProbeError
from mllm_probe.stats import rank_measures as ranks
from mllm_probe.stats.measures import over_classes, rows_of
from mllm_probe.stats.sums import SUMS, combine, terms

CHUNK_BYTES = 1 << 26  # the most that one step holds of resampled sums or weights


def codes(groups: np.ndarray) -> tuple[np.ndarray, int]:
    """Picture ids [N] of any type -> numbers 0 .. G-1 [N] and G. Raises ProbeError for fewer than 2 pictures."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise ProbeError(
            f"{len(member)} rows of {len(names)} picture(s) are too few to judge other pictures; give 2 or more"
        )
    return member, len(names)


def picture_sums(member: np.ndarray, size: int, values: np.ndarray) -> np.ndarray:
    """Values [N] or [N, k] added up within pictures: [G] or [G, k]."""
    if values.ndim == 1:
        return np.bincount(member, values, size)
    columns = values.shape[1]
    cells = (member[:, None] * columns + np.arange(columns)).ravel()
    return np.bincount(cells, values.ravel(), size * columns).reshape(size, columns)


class Resamples:
    """Draws of pictures with replacement; `counts` [G, R] float64 says how often each picture was drawn."""

    def __init__(self, groups: np.ndarray, draws: int = 2000, seed: int = 0, called: str = "picture") -> None:
        """groups: [N] picture ids; called: what one of them is, in sentences. Raises ProbeError for fewer than 2
        pictures or no draw."""
        if draws < 1:
            raise ProbeError(f"draws={draws} must be at least 1")
        self.member, self.size, self.called = *codes(groups), called
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(self.size, np.full(self.size, 1 / self.size), size=draws)
        self.counts = np.ascontiguousarray(drawn.T, dtype=np.float64)

    def weights(self) -> np.ndarray:
        """How often each row counts in each draw: [R, N] float64."""
        return self.counts[self.member].T

    def ratios(self, scores: np.ndarray) -> np.ndarray:
        """Row scores [N, k] -> their mean over the drawn rows in each draw: [R, k]."""
        n = picture_sums(self.member, self.size, np.ones(len(self.member)))
        return (self.counts.T @ picture_sums(self.member, self.size, scores)) / (self.counts.T @ n)[:, None]

    def means(
        self, metric: str, logits: np.ndarray, y: np.ndarray, kind: str = "binary", mask: np.ndarray | None = None
    ) -> np.ndarray:
        """Each layer's measure in each draw, averaged over seeds: [L, R]; nan where it is undefined.

        logits: [L, S, N] or, for classes and labels, [L, S, N, C]; y and mask as in `measures.measure`. All layers of
        all calls share the draws, so the difference of two rows is the paired difference. Labels that differ by seed (a
        control task drawn anew) take one call a seed. Raises ProbeError.
        """
        logits = np.asarray(logits)
        if logits.ndim != (4 if kind in ("classes", "labels") else 3) or logits.shape[2] != len(self.member):
            raise ProbeError(
                f"{kind} logits of shape {logits.shape} must be [layers, seeds, {len(self.member)} rows"
                f"{', columns' if kind in ('classes', 'labels') else ''}]"
            )
        layers, seeds = logits.shape[:2]
        if not layers * seeds:
            raise ProbeError(
                f"{layers} layers of {seeds} seeds hold nothing to resample; at least one of each is needed"
            )
        flat = logits.reshape(layers * seeds, *logits.shape[2:])
        values = self._sums(metric, flat, y, kind, mask) if metric in SUMS else self._ranks(metric, flat, y, kind, mask)
        return np.concatenate(list(values)).reshape(layers, seeds, -1).mean(axis=1)

    def _sums(
        self, metric: str, logits: np.ndarray, y: np.ndarray, kind: str, mask: np.ndarray | None
    ) -> Iterator[np.ndarray]:
        """[V, N, ..] -> parts of [V, R]: terms added up by picture, many vectors to one matrix product."""
        waiting: list[np.ndarray] = []
        for i, one in enumerate(logits):
            z, labels, row = rows_of(metric, one, y, kind, mask)
            each = terms(metric, "binary" if kind == "labels" else kind, z, labels)
            waiting.append(picture_sums(self.member[row], self.size, each))
            if len(waiting) * each.shape[1] * self.counts.shape[1] * 8 > CHUNK_BYTES or i == len(logits) - 1:
                columns = np.hstack(waiting).T
                sums, held = np.zeros((len(columns), self.counts.shape[1])), columns.any(axis=1)
                sums[held] = columns[held] @ self.counts  # of bins that nothing fell into there is nothing to draw
                yield combine(metric, np.moveaxis(sums.reshape(len(waiting), each.shape[1], -1), 1, 2))
                waiting = []

    def _ranks(
        self, metric: str, logits: np.ndarray, y: np.ndarray, kind: str, mask: np.ndarray | None
    ) -> Iterator[np.ndarray]:
        rank = ranks.auroc_of_counts if metric == "auroc" else ranks.average_precision_of_counts
        for one in logits:
            z, labels, row = rows_of(metric, one, y, kind, mask)
            member = self.member[row]
            if kind == "number":
                yield self._spearman(z, labels)[None]
            elif kind == "classes":
                columns = enumerate(log_softmax(z, axis=1).T)
                yield over_classes(np.stack([rank(column, labels == k, member, self.counts) for k, column in columns]))[
                    None
                ]
            else:
                yield rank(z, labels, member, self.counts)[None]

    def _spearman(self, predicted: np.ndarray, y: np.ndarray) -> np.ndarray:
        step = max(1, CHUNK_BYTES // (8 * len(y)))
        parts = [self.counts[:, i : i + step][self.member].T for i in range(0, self.counts.shape[1], step)]
        return np.concatenate([ranks.spearman(predicted, y, w) for w in parts])


class Redraws:
    """Resamples of whatever pictures rows are about, drawn once for the same ones."""

    def __init__(self, draws: int) -> None:
        self._draws = draws
        self._found: dict[bytes, Resamples] = {}

    def of(self, groups: np.ndarray) -> Resamples:
        """groups: [N] picture ids, as text."""
        name = groups.tobytes()
        if name not in self._found:
            self._found[name] = Resamples(groups, self._draws)
        return self._found[name]


def interval(values: np.ndarray, pictures: int, level: float = 0.95) -> np.ndarray:
    """Percentile interval over the last axis: [..., R] -> [..., 2]; undefined draws are left out, nan if all are.

    Draws of G pictures vary less than samples do, by (G - 1) / G, and have normal tails where a mean of few has
    Student's; the percentiles are further out by both (Hesterberg 2015: the tail is Phi(-sqrt(G / (G - 1)) t)). Raises
    ProbeError for fewer than 2 pictures and a level that is none.
    """
    check_level(level)
    if pictures < 2:
        raise ProbeError(f"draws of {pictures} picture(s) are too few to judge other pictures; 2 or more are needed")
    tail = ndtr(-np.sqrt(pictures / (pictures - 1)) * stdtrit(pictures - 1, (1 + level) / 2))
    known = ~np.isnan(values).all(axis=-1)
    found = np.full((*values.shape[:-1], 2), np.nan)
    if known.any():
        found[known] = np.nanquantile(values[known], (tail, 1 - tail), axis=-1).T
    return found


def check_level(level: float) -> None:
    """Raises ProbeError for a level of confidence that is none."""
    if not 0 < level < 1:
        raise ProbeError(f"level={level} must be above 0 and below 1")
