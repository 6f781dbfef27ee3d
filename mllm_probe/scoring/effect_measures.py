"""What interventions change of each statement, metric by metric, beside the control that it is compared with.

Knows outcomes, labels and conditions; tests nothing. The right answer of a statement is the first answer word where its
label is 1, and m = d or -d is the margin towards it, in nats. Letters: N statements of which n are read, C conditions,
K of them effects.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mllm_probe.errors import ProbeError
from mllm_probe.records.interventions import Condition
from mllm_probe.results.effects import (
    ACCURACY_LOSS,
    CORRECT,
    ERASURE,
    FLIPS,
    KL,
    KNOCKOUT,
    MARGIN,
    NOISE,
    P_CHANGE,
    PATCHING,
    RANDOM,
    RESTORED,
    SLOPE,
    STEERING,
    D,
    Sweep,
)


@dataclass(frozen=True)
class Measured:
    """One metric of all its conditions: `effects` [K, n] float64, a value a statement; their mean is the metric, or of
    `restored` the sum over that of `below` [K, n].

    `control` [K, n] is the mean over the draws of an effect, nan where it has none. `harm`: whether a larger (1) or a
    smaller (-1) value means that more is used. `tested`: by sign flips against that control, or against 0.
    """

    metric: str
    conditions: tuple[Condition, ...]
    effects: np.ndarray
    control: np.ndarray
    groups: np.ndarray  # [n] text
    harm: int = 1
    subset: str = ""
    below: np.ndarray | None = None
    tested: bool = True

    @property
    def controlled(self) -> np.ndarray:
        """Which effects have a control [K] bool."""
        return ~np.isnan(self.control).any(axis=1)

    @property
    def beyond(self) -> np.ndarray:
        """Effects minus their controls, where they have any [K, n]."""
        return self.effects - np.where(self.controlled[:, None], self.control, 0.0)

    @property
    def real(self) -> np.ndarray:
        """Which are effects themselves, and no control of a kind of their own [K] bool."""
        return np.asarray([one.control == "" for one in self.conditions], bool)


def measured(sweep: Sweep) -> list[Measured]:
    """The metrics of a sweep, the headline of its kind first; of steering without its slopes.

    Knockout reads the statements that the model answers rightly without intervention, patching the pairs that count,
    steering and erasure all statements. Raises ProbeError for outcomes that are not finite, and too few statements.
    """
    _check(sweep)
    found = {KNOCKOUT: _knockout, PATCHING: _patching, STEERING: _steering, ERASURE: _erasure}[sweep.kind](sweep)
    return list(found) if sweep.conditions else []


def _check(sweep: Sweep) -> None:
    for name in ("clean_d", "d", "p", "kl"):
        values = getattr(sweep, name)
        if bad := int((~np.isfinite(values)).sum()):
            raise ProbeError(
                f"{bad} of {values.size} outcomes '{name}' of {sweep.kind} are not finite; lower what is added"
            )
    read = _read(sweep)
    if len(np.unique(sweep.groups[read])) < 2:
        why = {KNOCKOUT: "are answered rightly without intervention", PATCHING: "are pairs that count"}
        raise ProbeError(
            f"{int(read.sum())} of {len(read)} statements {why.get(sweep.kind, 'were measured')}, which are too few to "
            f"judge other pictures; statements about 2 pictures or more are needed, so raise data.n"
        )


def _read(sweep: Sweep) -> np.ndarray:
    return sweep.kept if sweep.kind in (KNOCKOUT, PATCHING) else np.ones(len(sweep.uids), bool)


def _towards(sweep: Sweep, d: np.ndarray) -> np.ndarray:
    """d [.., N] -> margins of the right answer [.., N] float64."""
    return np.where(sweep.labels == 1, 1.0, -1.0) * d.astype(np.float64)


def _flipped(d: np.ndarray, before: np.ndarray) -> np.ndarray:
    return 1.0 * ((d > 0) != (before > 0))


def _knockout(sweep: Sweep) -> Iterator[Measured]:
    make = _maker(sweep, CORRECT)
    yield make(MARGIN, _towards(sweep, sweep.d) - _towards(sweep, sweep.clean_d), -1)
    clean = np.maximum(sweep.clean_p.astype(np.float64), np.finfo(np.float32).tiny)
    yield make(P_CHANGE, 100 * (sweep.p - clean) / clean, -1)
    yield make(FLIPS, _flipped(sweep.d, sweep.clean_d))


def _patching(sweep: Sweep) -> Iterator[Measured]:
    """Signed so that moving towards the prompt whose states are put in is positive."""
    if sweep.other_d is None:
        raise ProbeError("patching was measured without the other prompts of its pairs; other_d is needed")
    make = _maker(sweep)
    noise = np.asarray([one.direction == NOISE for one in sweep.conditions])[:, None]
    base = np.where(noise, sweep.clean_d, sweep.other_d)
    sign = np.where(noise, -1.0, 1.0)
    moved = sign * (_towards(sweep, sweep.d) - _towards(sweep, base))
    apart = np.broadcast_to(_towards(sweep, sweep.clean_d) - _towards(sweep, sweep.other_d), moved.shape)
    yield make(RESTORED, moved, below=apart)
    yield make(FLIPS, _flipped(sweep.d, base))


def _steering(sweep: Sweep) -> Iterator[Measured]:
    """Checks and damage of what the slopes say; these have a test of their own."""
    make = _maker(sweep)
    for metric, values in ((D, sweep.d - sweep.clean_d), (FLIPS, _flipped(sweep.d, sweep.clean_d)), (KL, sweep.kl)):
        yield replace(make(metric, values), tested=False)


def _erasure(sweep: Sweep) -> Iterator[Measured]:
    """A tie counts half."""
    before, after = (np.sign(_towards(sweep, d)) / 2 + 0.5 for d in (sweep.clean_d, sweep.d))
    yield _maker(sweep)(ACCURACY_LOSS, before - after)


def _maker(sweep: Sweep, subset: str = "") -> Callable[..., Measured]:
    """Makes a metric of values [C, N] of all conditions: draws become the control of the effects they belong to."""
    read, conditions = _read(sweep), sweep.conditions
    own = [i for i, one in enumerate(conditions) if one.control != RANDOM]
    draws = _draws(conditions)

    def make(metric: str, values: np.ndarray, harm: int = 1, below: np.ndarray | None = None) -> Measured:
        values = values[:, read].astype(np.float64)
        control = np.full((len(own), values.shape[1]), np.nan)
        for k, i in enumerate(own):
            if conditions[i].control == "" and (
                of := draws.get(_place(conditions[i])) or draws.get(_place(conditions[i], RANDOM))
            ):
                control[k] = values[of].mean(axis=0)
        lower = None if below is None else below[own][:, read]
        named = tuple(conditions[i] for i in own)
        return Measured(metric, named, values[own], control, sweep.groups[read], harm, subset, lower)

    return make


def _draws(conditions: Sequence[Condition]) -> Mapping[Hashable, list[int]]:
    found: dict[Hashable, list[int]] = {}
    for i, one in enumerate(conditions):
        if one.control == RANDOM:
            found.setdefault(_place(one), []).append(i)
    return found


def _place(one: Condition, what: str | None = None) -> Hashable:
    """Where draws belong: to what is changed in their place, or, called `random` themselves, to all that is."""
    return (what or one.what, one.site, one.first, one.last, one.layer, one.strength, one.direction)


@dataclass(frozen=True)
class Sloped:
    """The slopes of directions: `values` [K, n] float64 of conditions [K], and the means of draws `null` [B, K].

    The columns of a site hold the same draws in another order each: directions of one site are not alike by chance.
    """

    conditions: tuple[Condition, ...]
    values: np.ndarray
    null: np.ndarray
    groups: np.ndarray  # [n] text
    metric: str = SLOPE

    @property
    def real(self) -> np.ndarray:
        return np.asarray([one.control == "" for one in self.conditions], bool)


def sloped(sweep: Sweep) -> Sloped | None:
    """The slopes of a sweep of steering, None where it has none. Raises ProbeError where sites have other draws."""
    if sweep.slopes is None:
        return None
    values, conditions = sweep.slopes.values.astype(np.float64), sweep.slopes.conditions
    if bad := int((~np.isfinite(values)).sum()):
        raise ProbeError(f"{bad} of {values.size} slopes are not finite")
    own = [k for k, one in enumerate(conditions) if one.control != RANDOM]
    null: dict[str, dict[int, float]] = {}
    for k, one in enumerate(conditions):
        if one.control == RANDOM:
            null.setdefault(one.site, {})[one.draw] = float(values[k].mean())
    draws = sorted(set().union(*null.values()))
    place, seen = [], {}  # type: ignore[var-annotated]
    for k in own:
        site = conditions[k].site
        if draws and sorted(null.get(site, {})) != draws:
            raise ProbeError(f"{site} has other random directions than the sites beside it; draw the same in all")
        place.append(seen.setdefault(site, 0))
        seen[site] += 1
    columns = [np.roll([null[conditions[k].site][b] for b in draws], turn) for k, turn in zip(own, place, strict=True)]
    drawn = np.stack(columns, axis=1) if draws else np.zeros((0, len(own)))
    return Sloped(tuple(conditions[k] for k in own), values[own], drawn, sweep.groups)
