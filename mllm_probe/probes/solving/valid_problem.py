"""Conditions for fitting a problem; a violation is reported, never worked around. Knows no features."""

from collections.abc import Sequence

import numpy as np

from mllm_probe.errors import ProbeError
from mllm_probe.records.problems import LayerData, Problem


def check_problems(data: LayerData, problems: Sequence[Problem], kinds: Sequence[str], probe: str) -> None:
    """Raises ProbeError for a wrong kind of target, rows that do not match, or a class that cannot be learnt."""
    for problem in problems:
        if problem.kind not in kinds:
            raise ProbeError(f"probe {probe} fits {', '.join(kinds)}, and the target is of kind {problem.kind}")
        if not len(data) == len(problem.y) == len(problem.train) == len(problem.val):
            raise ProbeError(f"{data.name or 'the layer'} has {len(data)} rows and the target {len(problem.y)}")
        if problem.kind == "number":
            _check_numbers(problem)
        elif problem.kind == "labels":
            _check_labels(problem)
        else:
            _check_classes(problem)


def _check_classes(problem: Problem) -> None:
    """Every class that occurs in training or validation must be in training, and at least two must."""
    seen = np.unique(problem.y[problem.train])
    if len(seen) < 2:
        label = seen[0] if len(seen) else "none"
        raise ProbeError(f"all {problem.train.sum()} training rows have the label {label}; two are needed")
    wanted = np.arange(problem.y.max() + 1) if problem.kind == "classes" else np.arange(2)
    if len(missing := np.setdiff1d(wanted, seen)):
        raise ProbeError(
            f"{problem.train.sum()} training rows hold no example of {len(missing)} of {len(wanted)} classes "
            f"(class {missing[0]} first); take more pictures or fewer classes"
        )


def _check_labels(problem: Problem) -> None:
    mask = np.ones(problem.y.shape, dtype=bool) if problem.mask is None else problem.mask
    for split, name in ((problem.train, "training"), (problem.val, "validation")):
        empty = [i for i in range(problem.y.shape[1]) if not (split & mask[:, i]).any()]
        if empty:
            raise ProbeError(f"label {empty[0]} has no {name} rows; take more pictures or leave it out")
    for i, (y, rows) in enumerate(zip(problem.y.T, mask.T, strict=True)):
        if len(np.unique(y[problem.train & rows])) < 2:
            raise ProbeError(f"label {i} is the same in all training rows that count; take more pictures")


def _check_numbers(problem: Problem) -> None:
    seen = problem.y[problem.train | problem.val]
    if not np.isfinite(seen).all():
        raise ProbeError(f"{(~np.isfinite(seen)).sum()} of {len(seen)} target numbers are not finite")
    if not len(seen) or np.ptp(problem.y[problem.train]) == 0:
        raise ProbeError(f"all {problem.train.sum()} training rows have the same number; nothing can be learnt")
