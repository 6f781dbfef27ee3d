"""Effects of one intervention in several models: differences condition by condition, paired statement by statement.

Statements are those that every model answers rightly without intervention; pictures are the unit, as in all statistics
here (docs/probing.md). Largest effects are not compared: each is picked from all conditions for its size, and the
difference of two that were picked so has no calibrated test here.

Letters: n statements, K conditions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mllm_probe.comparison.compared_effects import FinishedSweep, same_place
from mllm_probe.errors import ConfigError, DataError, choices, count
from mllm_probe.files.readback import columns, lines_of, save_table
from mllm_probe.results.effects import ACCURACY_LOSS, FLIPS, Sweep
from mllm_probe.scoring.effect_measures import Measured, measured
from mllm_probe.stats.bootstrap import Resamples, picture_sums
from mllm_probe.stats.intervals import of_difference, of_rows
from mllm_probe.stats.paired import known
from mllm_probe.stats.permutation import Flips, max_t_flips


@dataclass(frozen=True)
class EffectDifference:
    """One row of differences.csv: the effect of a condition in the model `label` minus that in `reference`.

    `value` and `reference_value` are the effects on the `n` statements that all models answer rightly, `control_value`
    and `reference_control_value` those of their random conditions. The interval is that of the one difference;
    `p_value` is two-sided, by sign flips of whole pictures, `p_max_t` the same over all of `family`.
    """

    kind: str
    task: str
    what: str
    site: str
    layer: int
    depth: float
    first: int
    last: int
    metric: str
    label: str
    run: str
    reference: str
    reference_run: str
    n: int
    n_groups: int
    value: float
    reference_value: float
    control_value: float | None
    reference_control_value: float | None
    difference: float
    low: float | None
    high: float | None
    ci_level: float
    p_value: float
    p_max_t: float
    family: str


def effect_differences(
    sweeps: Sequence[FinishedSweep], reference: str, permutations: int = 9999
) -> list[EffectDifference]:
    """Of every labelled sweep to that called `reference`, metric by metric. Raises DataError, ProbeError."""
    ordered = sorted(sweeps, key=lambda one: one.label != reference)
    base, *others = (measured(one) for one in _paired(ordered))
    draws = Resamples(base[0].groups)
    pairs = [
        (one, own, of)
        for one, other in zip(ordered[1:], others, strict=True)
        for own, of in zip(_matched(other, base), base, strict=True)
    ]
    gaps = np.concatenate([own.effects - of.effects for _, own, of in pairs])
    tested = max_t_flips(picture_sums(draws.member, draws.size, gaps.T).T, permutations)
    family = f"all conditions and metrics of {count(len(others), 'model')} against {reference}"
    found, done = list[EffectDifference](), 0
    for one, own, of in pairs:
        some = slice(done, done := done + len(own.conditions))
        p = Flips(tested.p[some], tested.p_adjusted[some])
        found += _rows(one, ordered[0], own, of, draws, p, family)
    return found


def metric_of(rows: Sequence[EffectDifference], wanted: str | None) -> str:
    """The one that is shown: a wanted one, else the first. Raises ConfigError."""
    measures = list(dict.fromkeys(row.metric for row in rows))
    if wanted is not None and wanted not in measures:
        raise ConfigError(f"--metric {wanted} is not measured of {rows[0].kind}; {choices(wanted, measures)}")
    return wanted or measures[0]


def save_differences(path: Path, rows: Sequence[EffectDifference]) -> None:
    save_table(path, columns(EffectDifference), lines_of(rows))


def _paired(sweeps: Sequence[FinishedSweep]) -> list[Sweep]:
    """The statements that all answer rightly, in one order. Raises DataError where these are too few, or not alike."""
    each = [{uid: i for i, uid in enumerate(one.sweep.uids)} for one in sweeps]
    shared = [uid for uid in sweeps[0].sweep.uids if all(uid in rows for rows in each)]
    rows = [np.asarray([own[uid] for uid in shared], int) for own in each]
    labels = [one.sweep.labels[own] for one, own in zip(sweeps, rows, strict=True)]
    if wrong := next((one for one, own in zip(sweeps, labels, strict=True) if (own != labels[0]).any()), None):
        raise DataError(
            f"{wrong.name} and {sweeps[0].name} call different statements true; repeat one with the task and data of "
            "the other"
        )
    kept = np.all([one.sweep.kept[own] for one, own in zip(sweeps, rows, strict=True)], axis=0)
    pictures = len(set(sweeps[0].sweep.groups[rows[0][kept]].tolist()))
    if pictures < 2:
        raise DataError(
            f"{' and '.join(one.name for one in sweeps)} share {count(len(shared), 'statement')}, of which all models "
            f"answer {int(kept.sum())} about {count(pictures, 'picture')} rightly, and statements about 2 are needed; "
            "repeat one with the task, data and intervene.seed of the other"
        )
    return [_restricted(one.sweep, own[kept]) for one, own in zip(sweeps, rows, strict=True)]


def _restricted(sweep: Sweep, rows: np.ndarray) -> Sweep:
    """Some of the statements alone."""
    short = {name: getattr(sweep, name)[rows] for name in ("groups", "labels", "kept", "clean_d", "clean_p")}
    long = {name: getattr(sweep, name)[:, rows] for name in ("d", "p", "kl")}
    return replace(sweep, uids=tuple(sweep.uids[i] for i in rows), **short, **long)


def _matched(found: Sequence[Measured], base: Sequence[Measured]) -> Iterator[Measured]:
    """The metrics with their conditions in the order of `base`."""
    for own, of in zip(found, base, strict=True):
        place = {same_place(one): k for k, one in enumerate(own.conditions)}
        order = [place[same_place(one)] for one in of.conditions]
        named = tuple(own.conditions[k] for k in order)
        yield replace(own, conditions=named, effects=own.effects[order], control=own.control[order])


def _limits(metric: str, one: np.ndarray, other: np.ndarray, draws: Resamples, level: float) -> tuple[float, float]:
    """Of the difference of means over statements [n]: of shares of statements by `gap_limits`, else Student's t."""
    shares = metric in (FLIPS, ACCURACY_LOSS)
    between = of_difference(one, other, draws, level) if shares else of_rows(one - other, draws, level)
    return between.low, between.high


def _rows(
    one: FinishedSweep,
    reference: FinishedSweep,
    own: Measured,
    of: Measured,
    draws: Resamples,
    p: Flips,
    family: str,
) -> Iterator[EffectDifference]:
    """One metric of one pair of models."""
    for k, condition in enumerate(own.conditions):
        low, high = _limits(own.metric, own.effects[k], of.effects[k], draws, reference.level)
        yield EffectDifference(
            kind=one.kind,
            task=one.task,
            what=condition.what,
            site=condition.site,
            layer=condition.layer,
            depth=round(condition.depth, 4),
            first=condition.first,
            last=condition.last,
            metric=own.metric,
            label=one.label,
            run=str(one.summary["run"]),
            reference=reference.label,
            reference_run=str(reference.summary["run"]),
            n=own.effects.shape[1],
            n_groups=draws.size,
            value=float(own.effects[k].mean()),
            reference_value=float(of.effects[k].mean()),
            control_value=known(float(own.control[k].mean())),
            reference_control_value=known(float(of.control[k].mean())),
            difference=float((own.effects[k] - of.effects[k]).mean()),
            low=known(low),
            high=known(high),
            ci_level=reference.level,
            p_value=float(p.p[k]),
            p_max_t=float(p.p_adjusted[k]),
            family=family,
        )
