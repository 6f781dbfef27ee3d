"""Cutting decisions by a covariate: a few strata within which labels can still change places. Knows no label.

Letters: N decisions.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mllm_probe.stats.permutation import blocks

MOST, FEWEST = 5, 2
ENOUGH = 0.8  # of the decisions that could move at all, the share that must be able to within strata
MISSING, OTHER = "missing", "other"
Value = str | float  # "" where a decision has none


def strata_of(values: Sequence[Value], groups: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Values [N] -> the name of each decision's stratum [N], at most five of them.

    Of cuts into five, four, three and two the finest is taken within which four in five of the test decisions can move:
    groups [N], the pictures, exchange labels only where their decisions have the same strata. If there is none, two.
    """
    free = _movable(groups[test], np.zeros(int(test.sum()), int))
    for most in range(MOST, FEWEST - 1, -1):
        names = np.asarray(cut(values, most))
        if _movable(groups[test], names[test]) >= ENOUGH * free:
            break
    return names


def cut(values: Sequence[Value], most: int) -> list[str]:
    """Values as they are where there are few; else numbers at their quantiles, and of words the commonest and others.

    Those without a value are a stratum of their own.
    """
    present = [value for value in values if value != ""]
    room = most - (len(present) < len(values))
    name = _by_number(present, room) if _numeric(present) else _by_word(present, room)
    return [MISSING if value == "" else name[value] for value in values]


def _by_number(values: Sequence[Value], room: int) -> dict[Value, str]:
    numbers = {value: float(value) for value in values}
    all_numbers = np.asarray([numbers[value] for value in values])
    different = np.unique(all_numbers)
    edges = different[:-1] if len(different) <= room else np.quantile(all_numbers, np.arange(1, room) / room)
    place = {value: int(np.searchsorted(edges, number)) for value, number in numbers.items()}
    ends = {i: [numbers[value] for value in place if place[value] == i] for i in set(place.values())}
    said = {i: f"{min(own):g}" if min(own) == max(own) else f"{min(own):g} to {max(own):g}" for i, own in ends.items()}
    return {value: said[i] for value, i in place.items()}


def _by_word(values: Sequence[Value], room: int) -> dict[Value, str]:
    counts = Counter(map(str, values))
    kept = set(counts) if len(counts) <= room else {name for name, _ in counts.most_common(room - 1)}
    return {value: str(value) if str(value) in kept else OTHER for value in values}


def _numeric(values: Sequence[Value]) -> bool:
    try:
        return all(math.isfinite(float(value)) for value in values)
    except ValueError:
        return False


def _movable(groups: np.ndarray, strata: np.ndarray) -> float:
    return sum(part.size for part in blocks(groups, strata=strata) if len(part) > 1) / len(groups)
