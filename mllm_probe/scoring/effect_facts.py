"""What a sweep of interventions showed and what it did not, in numbers for summary.json and in words.

A thing that is changed (an edge, a span, a direction) has one fact a metric over all its layers. Words stand on rows of
effects.csv. Letters: L conditions of a fact, n statements.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mllm_probe.records import units
from mllm_probe.records.interventions import Condition
from mllm_probe.records.score import ALPHA
from mllm_probe.records.sites import Site, listed
from mllm_probe.results.effects import (
    ACCURACY_LOSS,
    ERASURE,
    FLIPS,
    HEADLINES,
    KNOCKOUT,
    MARGIN,
    P_CHANGE,
    PATCHING,
    RESTORED,
    SLOPE,
    STEERING,
    Effect,
)
from mllm_probe.scoring.effects import Scored
from mllm_probe.stats.peak import contenders

OPEN = "what is not shown may be there all the same: that no effect was found does not prove that nothing is used"
TURNED = (MARGIN, P_CHANGE)  # told as what is lost
OTHER_WAY = " the other way"
AGAINST = "set against theirs, the effect is largest"  # not always the largest number, as theirs vary
DOES = {  # with an amount above 0, and with one below
    MARGIN: ("takes {} from the right answer", "adds {} to the right answer"),
    P_CHANGE: ("lowers the probability of the answer by {}", "raises the probability of the answer by {}"),
    FLIPS: ("changes {} of the answers", ""),
    RESTORED: (
        "moves the answer by {} of the difference between the two prompts",
        "moves the answer the other way, by {} of the difference between the two prompts",
    ),
    SLOPE: ("moves the answer by {}", "moves the answer the other way, by {}"),
    ACCURACY_LOSS: ("loses {} of right answers", "gains {} of right answers"),
}
DOES_NOT = {  # with what it is compared
    MARGIN: "takes more from the right answer than {}",
    P_CHANGE: "lowers the probability of the answer by more than {}",
    FLIPS: "changes more answers than {}",
    RESTORED: "moves the answer",
    SLOPE: "moves the answer by more than {}",
    ACCURACY_LOSS: "loses more right answers than {}",
}
CONTROLS = {
    KNOCKOUT: "as many random edges",
    ERASURE: "random erasures of equal rank",
    STEERING: "95 % of random directions",
    PATCHING: "no change",
}
ACTS = {
    KNOCKOUT: "cutting it in {blocks}, the window of {place},",
    PATCHING: "putting in the states at {place}",
    STEERING: "adding it at {place}",
    ERASURE: "erasing it at {place}",
}


@dataclass(frozen=True)
class Fact:
    """`shown`: some effect exceeds its control (p_max_t <= 0.05), `first` at the first such place; `largest` is the
    place of the largest effect beyond its control, `may_be_largest` the places that hold the truly largest one with
    95 %. Places are sites, or the block that a window is named after; `layers` are those of may_be_largest."""

    metric: str
    what: str
    direction: str
    part: str
    strength: float | None
    shown: bool
    first: str | None
    largest: str
    may_be_largest: tuple[str, ...]
    layers: tuple[int, ...]
    depths: tuple[float, ...]
    value: float | None
    low: float | None
    high: float | None
    control_value: float | None
    sentence: str


def summarised(scored: Scored) -> dict[str, Any]:
    """The part of summary.json that tells of effects. `shown` and `not_shown` are sentences on the headline metric of
    the kind."""
    found = list(facts(scored))
    sweep, rows = scored.sweep, [row for row in scored.rows if row.p_max_t is not None]
    main = [one for one in found if one.metric == HEADLINES[sweep.kind]]
    quiet = [one.sentence for one in main if not one.shown]
    return {
        "kind": sweep.kind,
        "metric": HEADLINES[sweep.kind],
        "measured": len(sweep.uids),
        "read": rows[0].n if rows else len(sweep.uids),
        **({} if sweep.kind == PATCHING else {"answered_rightly": int(sweep.kept.sum())}),
        "tests": len(rows),
        "shown": [one.sentence for one in main if one.shown],
        "not_shown": [*quiet, OPEN] if quiet else [],
        "effects": [asdict(one) for one in found],
    }


def facts(scored: Scored) -> Iterator[Fact]:
    """One for each thing that was changed and each metric that is tested."""
    of = {(row.metric, *_name(row)): row for row in scored.rows if row.control == ""}
    if (one := scored.slopes) is not None:
        yield from _facts(scored, SLOPE, one.conditions, one.values, 1, one.groups, of)
    for measured in scored.metrics:
        if measured.tested:
            more = measured.harm, measured.groups, of
            yield from _facts(scored, measured.metric, measured.conditions, measured.beyond, *more)


def _facts(
    scored: Scored,
    metric: str,
    conditions: Sequence[Condition],
    values: np.ndarray,
    harm: int,
    groups: np.ndarray,
    of: dict[Any, Effect],
) -> Iterator[Fact]:
    """values [K, n]: effects beyond their controls."""
    together: dict[Any, list[int]] = {}
    for k, one in enumerate(conditions):
        if one.control == "":
            part = Site.parse(one.site).part if one.site else ""
            together.setdefault((one.what, one.direction, part, one.strength), []).append(k)
    for own in together.values():
        own = sorted(own, key=lambda k: (conditions[k].layer, conditions[k].first))
        rows = [of[metric, *_name(conditions[k])] for k in own]
        among = contenders(harm * values[own], scored.redraws.of(groups)).layers
        yield _fact(rows, among, int(np.argmax(harm * values[own].mean(axis=1))), harm)


def _name(one: Condition | Effect) -> tuple[Any, ...]:
    return one.what, one.direction, one.site, one.first, one.last, one.layer, one.strength


def _fact(rows: Sequence[Effect], among: Sequence[int], top: int, harm: int) -> Fact:
    """`among`: which rows may be the largest, `top` the one that is."""
    places, most = _places(rows), rows[top]
    beyond = [_exceeds(row, harm) for row in rows]
    first = places[beyond.index(True)] if any(beyond) else None
    held = [places[i] for i in among]
    return Fact(
        metric=most.metric,
        what=most.what,
        direction=most.direction,
        part=most.part,
        strength=most.strength,
        shown=first is not None,
        first=first,
        largest=places[top],
        may_be_largest=tuple(held),
        layers=tuple(rows[i].layer for i in among),
        depths=tuple(rows[i].depth for i in among),
        value=most.value,
        low=most.low,
        high=most.high,
        control_value=most.control_value,
        sentence=_sentence(most, places[top], first, listed(held, places)),
    )


def _exceeds(row: Effect, harm: int) -> bool:
    """Of slopes a positive one: directions point to the first answer word."""
    if row.p_max_t is None or row.value is None or row.p_max_t > ALPHA:
        return False
    return harm * (row.value - (0.0 if row.metric == SLOPE else row.control_value or 0.0)) > 0


def _places(rows: Sequence[Effect]) -> list[str]:
    """Each its own: windows around one block that differ are told by their ends."""
    found = [row.site or str(Site("lm", row.layer)) for row in rows]
    if len(set(found)) < len(found):
        return [f"{name} ({row.first} to {row.last})" for name, row in zip(found, rows, strict=True)]
    return found


def _sentence(row: Effect, place: str, first: str | None, among: str) -> str:
    named, control = ", ".join(filter(None, (row.what, row.direction, _strength(row)))), CONTROLS[row.kind]
    does, of_control = _told(row)
    beside = f"; {control}: {of_control}" if of_control else ""
    if first is None:
        where = "window" if row.kind == KNOCKOUT else "site"
        said = f"no {where} {DOES_NOT[row.metric].format(control)}"
        most = "the largest effect is" if row.metric == SLOPE or not of_control else AGAINST
        return f"{named}: {said}; {most} at {place}, which {does}{beside}"
    blocks = f"blocks {row.first} to {row.last}" if row.last > row.first else f"block {row.first}"
    act = ACTS[row.kind].format(place=place, blocks=blocks)
    return f"{named}: {act} {does}{beside}; first shown at {first}, largest at {_one_of(among)} (95 %)"


def _one_of(among: str) -> str:
    return f"one of {among}" if "," in among or " to " in among else among


def _strength(row: Effect) -> str:
    return "" if row.strength is None else f"strength {row.strength:g}"


def _told(row: Effect) -> tuple[str, str]:
    """What the effect does, with its interval, and the amount of its control, "" where it has none. The one place that
    turns signs: a verb tells which way an effect goes, so that no amount is below 0."""
    if row.value is None:
        return DOES[row.metric][0].format("nothing that can be told"), ""
    lost = -1 if row.metric in TURNED else 1
    away = _below(lost * row.value, row.metric)
    sign = -lost if away else lost
    low, high = [None if end is None else sign * end for end in (row.low, row.high)][::sign]
    does = DOES[row.metric][away].format(units.value(sign * row.value, low, high, row.metric))
    if row.control_value is None:
        return does, ""
    drawn = sign * row.control_value
    other_way = OTHER_WAY if _below(drawn, row.metric) else ""
    return does, units.value(abs(drawn), None, None, row.metric) + other_way


def _below(value: float, metric: str) -> bool:
    """Whether a value is below 0 as it is written."""
    return float(units.number(value, metric)) < 0
