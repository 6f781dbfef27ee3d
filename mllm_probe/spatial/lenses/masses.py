"""How much of the attention of statements lies on the picture, on their object and on sinks, with intervals by picture.
Knows rows of attention, no model.

Letters: N statements, G pictures, B blocks, S spans, H heads, T picture tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mllm_probe.models.attended import Attended
from mllm_probe.results.lenses.attention import ABOVE, AREA, NEUTRAL, OBJECT, OWN, PICTURE, RELATIVE, Attention
from mllm_probe.spatial.lenses.asked import Statements
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.intervals import of_rows

MAPS = OWN, NEUTRAL, RELATIVE


@dataclass(frozen=True)
class Masses:
    """What one model attends to: `own` [N] of the statements, `neutral` [G] of the neutral question."""

    statements: Statements
    own: Sequence[Attended]
    neutral: Sequence[Attended]
    level: float = 0.95

    def rows(self, block: int, span: int, blank: Attention) -> Iterator[Attention]:
        """Of the places of a block and a span; `blank` says whose they are."""
        yield from self._row(self._on_picture[:, block, span], replace(blank, metric=PICTURE, kind=OWN))
        if self._area is None:
            return
        for name in MAPS:
            mass = self._on_object[name][:, block, span]
            yield from self._row(mass, replace(blank, metric=OBJECT, kind=name))
            yield from self._row(mass - self._area, replace(blank, metric=ABOVE, kind=name), share=False)

    def head_rows(self, block: int, span: int, blank: Attention) -> Iterator[Attention]:
        """The same of every head, as far as they were read."""
        for head in range(self._of_heads[0].shape[-1]) if self._of_heads else ():
            picture, mass = (values[:, block, span, head] for values in self._of_heads)
            yield from self._row(picture, replace(blank, metric=PICTURE, kind=OWN, head=head))
            if self._area is not None:
                yield from self._row(mass, replace(blank, metric=OBJECT, kind=OWN, head=head))

    def area(self, blank: Attention) -> Iterator[Attention]:
        """What of the pictures the objects cover: where attention that looks nowhere in particular lies."""
        if self._area is not None:
            yield from self._row(self._area, replace(blank, metric=AREA))

    def row(self, values: np.ndarray, blank: Attention) -> Iterator[Attention]:
        """Of shares [N]."""
        yield from self._row(values, blank)

    def _row(self, values: np.ndarray, blank: Attention, share: bool = True) -> Iterator[Attention]:
        """A row of the mean of values [N], nan for statements that do not count, with Student's t over pictures; none
        of fewer than two groups. Attention is no count of decisions, so its shares are not taken as such."""
        counted = ~np.isnan(values)
        groups = self.statements.groups[counted]
        size = len(np.unique(groups))
        if size < 2:
            return
        rows = values[counted]
        limits = of_rows(rows, Resamples(groups, 1), self.level)
        row = replace(blank, n=int(counted.sum()), n_groups=size, value=float(rows.mean()))
        if np.isnan(limits.low):
            yield row
            return
        low, high = (float(np.clip(end, 0, 1)) if share else end for end in (limits.low, limits.high))
        yield replace(row, low=low, high=high, ci_level=self.level)

    @cached_property
    def _on_picture(self) -> np.ndarray:
        """[N, B, S]."""
        return np.stack([one.picture.sum(-1) for one in self.own])

    @cached_property
    def _area(self) -> np.ndarray | None:
        """[N], nan where a statement is about no object in its picture; None where all are."""
        found = [np.nan if on is None else on[self._placed(n)].mean() for n, on in enumerate(self.statements.objects)]
        return None if np.isnan(found).all() else np.asarray(found)

    @cached_property
    def _on_object(self) -> dict[str, np.ndarray]:
        """{map: [N, B, S]}."""
        found: dict[str, list[np.ndarray]] = {name: [] for name in MAPS}
        for n, one in enumerate(self.own):
            plain = self.neutral[self.statements.owner[n]].picture
            for name, values in zip(MAPS, (one.picture, plain, relative(one.picture, plain)), strict=True):
                found[name].append(self._share(n, values))
        return {name: np.stack(each) for name, each in found.items()}

    @cached_property
    def _of_heads(self) -> tuple[np.ndarray, np.ndarray] | tuple[()]:
        """On the picture and on the object, [N, B, S, H] each."""
        heads = [one.heads for one in self.own if one.heads is not None]
        if not heads:
            return ()
        return np.stack([one.sum(-1) for one in heads]), np.stack([self._share(n, one) for n, one in enumerate(heads)])

    def _share(self, n: int, values: np.ndarray) -> np.ndarray:
        """Of a map [..., T] over the picture of statement n the share on its object; nan where it looks at none."""
        on, placed = self.statements.objects[n], self._placed(n)
        if on is None:
            return np.full(values.shape[:-1], np.nan)
        seen = values[..., placed].astype(float)
        whole = seen.sum(-1)
        return np.divide(seen @ on[placed], whole, out=np.full(whole.shape, np.nan), where=whole > 0)

    def _placed(self, n: int) -> np.ndarray:
        return self.statements.placed[self.statements.owner[n]]


def relative(own: np.ndarray, neutral: np.ndarray) -> np.ndarray:
    """Attention to a picture divided by that of a neutral question about it, token by token (relative attention, Zhang
    et al. 2025, arXiv 2502.17422, section 4): [..., T] each; 0 where the neutral question does not look at all."""
    return np.divide(own, neutral, out=np.zeros_like(own), where=neutral > 0)
