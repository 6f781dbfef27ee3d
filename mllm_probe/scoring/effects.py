"""A sweep of interventions -> the rows of effects.csv: each effect with its interval, its control, and its p corrected
over the whole sweep.

Pictures are the unit throughout, as in all statistics here (docs/probing.md). Letters: K effects, n statements, G
pictures.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mllm_probe.records.interventions import Condition
from mllm_probe.records.sites import Site
from mllm_probe.results.effects import ACCURACY_LOSS, FLIPS, RANDOM, Effect, Sweep
from mllm_probe.scoring.effect_measures import Measured, Sloped, measured, sloped
from mllm_probe.stats.bootstrap import Redraws, Resamples, picture_sums
from mllm_probe.stats.drawn_null import max_t_draws
from mllm_probe.stats.intervals import gap_limits, of_rows, share_limits
from mllm_probe.stats.paired import known
from mllm_probe.stats.permutation import Flips, max_t_flips
from mllm_probe.stats.ratios import fieller

Ends = tuple[np.ndarray, np.ndarray]  # of intervals, [K] each, nan where there is none
QUANTILE = 0.95  # of the sizes of drawn slopes


@dataclass(frozen=True)
class Scored:
    """A sweep with the numbers that tell its name: run, cache, model, revision, quantization, dataset and task.

    level: of intervals; draws: of signs where layers are compared; permutations: of signs where effects are tested.
    """

    sweep: Sweep
    named: Mapping[str, str]
    level: float = 0.95
    draws: int = 2000
    permutations: int = 9999

    @cached_property
    def metrics(self) -> list[Measured]:
        """Raises ProbeError, see `measured`."""
        return measured(self.sweep)

    @cached_property
    def slopes(self) -> Sloped | None:
        return sloped(self.sweep)

    @cached_property
    def redraws(self) -> Redraws:
        return Redraws(self.draws)

    @cached_property
    def rows(self) -> list[Effect]:
        """Slopes first, then metric by metric: effects, and behind each the control it is compared with."""
        found = list(self._sloped(self.slopes)) if self.slopes is not None else []
        p = self.tested
        for one in self.metrics:
            found += self._measured(one, p.get(one.metric))
        return found

    @cached_property
    def tested(self) -> dict[str, Flips]:
        """{metric: p [K]} of effects minus controls by sign flips of whole pictures, corrected over all metrics and
        conditions of the sweep at once (max-T); nan for what is itself a control.

        One-sided, for more harm than the control's: the mean of draws varies less than an effect does, so where few
        answers flip, fewer flips than the draws' look surer than they are, and more look less sure.
        """
        judged = [one for one in self.metrics if one.tested and one.real.any()]
        if not judged:
            return {}
        sums = [picture_sums(*self._member(one), one.harm * one.beyond[one.real].T).T for one in judged]
        every = max_t_flips(np.concatenate(sums), self.permutations, greater=True)
        found, ends = {}, np.cumsum([len(one) for one in sums])
        for one, start, end in zip(judged, [0, *ends[:-1]], ends, strict=True):
            p, adjusted = (_spread(values[start:end], one.real) for values in (every.p, every.p_adjusted))
            found[one.metric] = Flips(p, adjusted)
        return found

    @cached_property
    def slope_test(self) -> Flips | None:
        """p [K] of slopes against those of random directions, corrected over directions and sites; None without any."""
        one = self.slopes
        if one is None or not len(one.null) or not one.real.any():
            return None
        found = max_t_draws(one.values[one.real].mean(axis=1), one.null[:, one.real])
        return Flips(_spread(found.p, one.real), _spread(found.p_adjusted, one.real))

    def _member(self, one: Measured | Sloped) -> tuple[np.ndarray, int]:
        draws = self.redraws.of(one.groups)
        return draws.member, draws.size

    def _measured(self, one: Measured, p: Flips | None) -> Iterator[Effect]:
        draws, family = self.redraws.of(one.groups), f"{self.sweep.kind}, all metrics"
        value, between = _value(one.effects, one.below), limits(one.metric, one.effects, one.below, draws, self.level)
        drawn, around = self._control(one, draws)
        same = {"subset": one.subset, "metric": one.metric, "n": one.effects.shape[1], "n_groups": draws.size}
        for k, condition in enumerate(one.conditions):
            more: dict[str, Any] = {"control_value": known(float(drawn[k]))}
            if p is not None and one.real[k]:
                more |= {"p_value": float(p.p[k]), "p_max_t": float(p.p_adjusted[k]), "family": family}
            yield self._row(condition, condition.control, value[k], between, k, **same, **more)
            if one.controlled[k]:
                yield self._row(condition, RANDOM, drawn[k], around, k, **same)

    def _control(self, one: Measured, draws: Resamples) -> tuple[np.ndarray, Ends]:
        """Values [K] of the controls and their intervals, nan where an effect has none."""
        has = one.controlled
        below = None if one.below is None else one.below[has]
        ends = limits(one.metric, one.control[has], below, draws, self.level)
        low, high = (_spread(end, has) for end in ends)
        return _spread(_value(one.control[has], below), has), (low, high)

    def _sloped(self, one: Sloped) -> Iterator[Effect]:
        """The interval of a control's row holds the middle of the drawn slopes."""
        draws, p, family = self.redraws.of(one.groups), self.slope_test, "steering, slopes"
        between = limits(one.metric, one.values, None, draws, self.level)
        same = {"subset": "", "metric": one.metric, "n": one.values.shape[1], "n_groups": draws.size}
        tail = (1 - self.level) / 2
        middle = np.quantile(one.null, (tail, 1 - tail), axis=0) if len(one.null) else None
        for k, condition in enumerate(one.conditions):
            more: dict[str, Any] = {}
            if middle is not None:
                more = {"control_value": float(np.quantile(np.abs(one.null[:, k]), QUANTILE))}
            if p is not None and one.real[k]:
                more |= {"p_value": float(p.p[k]), "p_max_t": float(p.p_adjusted[k]), "family": family}
            yield self._row(condition, condition.control, one.values[k].mean(), between, k, **same, **more)
            if middle is not None and one.real[k]:
                yield self._row(condition, RANDOM, one.null[:, k].mean(), (middle[0], middle[1]), k, **same)

    def _row(self, one: Condition, control: str, value: float, between: Ends, k: int, **more: Any) -> Effect:
        site = Site.parse(one.site) if one.site else Site("lm", one.layer, "")
        low, high = (known(float(ends[k])) for ends in between)
        named: dict[str, Any] = dict(self.named)
        return Effect(
            **named,
            kind=one.kind,
            what=one.what,
            direction=one.direction,
            site=one.site,
            tower=site.tower,
            part=site.part,
            layer=one.layer,
            depth=round(one.depth, 4),
            first=one.first,
            last=one.last,
            strength=one.strength,
            control=control,
            value=known(float(value)),
            low=low,
            high=high,
            ci_level=self.level,
            **more,
        )


def limits(metric: str, rows: np.ndarray, below: np.ndarray | None, draws: Resamples, level: float) -> Ends:
    """Both ends [K] of the intervals of rows [K, n] over pictures, by the rules of docs/probing.md: shares are exact on
    their effective number, differences of shares join two of them, ratios are Fieller's, others Student's t."""
    sums, sizes = (
        picture_sums(draws.member, draws.size, rows.T).T,
        picture_sums(draws.member, draws.size, np.ones(rows.shape[1])),
    )
    if below is not None:
        return fieller(sums, picture_sums(draws.member, draws.size, below.T).T, level)
    if metric == FLIPS:
        return share_limits(sums, sizes, level)
    if metric == ACCURACY_LOSS:
        plus, minus = (picture_sums(draws.member, draws.size, np.maximum(one, 0).T).T for one in (rows, -rows))
        return gap_limits(plus, minus, sizes, level)
    found = [of_rows(row, draws, level) for row in rows]
    return np.asarray([one.low for one in found]), np.asarray([one.high for one in found])


def _value(rows: np.ndarray, below: np.ndarray | None) -> np.ndarray:
    """Means of rows [K, n], or their sums over those of `below` [K]."""
    return rows.mean(axis=1) if below is None else rows.sum(axis=1) / below.sum(axis=1)


def _spread(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Values of those that are chosen [K] bool, nan elsewhere [K]."""
    found = np.full(len(chosen), np.nan)
    found[chosen] = values
    return found
