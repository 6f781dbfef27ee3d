"""The rows of policy.csv and recall.csv: which representations to train next, and how well that finds the best one."""

from collections.abc import Iterator
from math import nan
from typing import Any

import numpy as np

from mllm_probe.config.vision import PolicySettings
from mllm_probe.errors import ConfigError, DataError, choices
from mllm_probe.records.protocols import Reporter
from mllm_probe.results.policy import A_ALONE, A_PLUS_C, FIRST_HIT, FIXED, RANDOM
from mllm_probe.vision.encoder_table import Benchmark, Table
from mllm_probe.vision.law import COEFFICIENTS
from mllm_probe.vision.policy import draw, predict, ranked_by, shortlisted, simulate


def check_policy(settings: PolicySettings, table: Table, reporter: Reporter) -> None:
    """Raises ConfigError; a budget that leaves the law open is noted."""
    for name, least in (("budget", 1), ("shortlist", 1), ("seed", 0)):
        if (value := getattr(settings, name)) < least:
            raise ConfigError(f"policy.{name}={value} must be {least} or more")
    for name in ("budget", "shortlist"):
        if (value := getattr(settings, name)) > len(table.names):
            raise ConfigError(f"policy.{name}={value} is more than the {len(table.names)} representations of the table")
    for name in settings.trained or ():
        if name not in table.names:
            raise ConfigError(f"policy.trained names '{name}', which is no row; {choices(name, table.names)}")
    if settings.budget <= COEFFICIENTS:
        reporter.note(
            f"policy.budget={settings.budget}: {COEFFICIENTS} runs or fewer do not determine the law's "
            f"{COEFFICIENTS} coefficients; the fit of least norm is used"
        )


def _trained(table: Table, benchmark: Benchmark, settings: PolicySettings) -> np.ndarray:
    """Whose performance the policy may see [N]; of a table that is complete nobody's, unless `trained` says so."""
    known = ~np.isnan(benchmark.y)
    if settings.trained is None:
        return known & ~known.all()
    trained = np.isin(table.names, settings.trained)
    if (trained & ~known).any():
        name = table.names[int((trained & ~known).argmax())]
        raise DataError(f"policy.trained names '{name}', but its '{benchmark.column}' is empty; fill it in")
    return trained


def planned(table: Table, benchmark: Benchmark, settings: PolicySettings) -> Iterator[tuple[Any, ...]]:
    """Who was trained, who is next, and what the law makes of it. Where the table knows what the next ones score, their
    runs are taken as done."""
    trained = _trained(table, benchmark, settings)
    picks = max(0, settings.budget - int(trained.sum()))
    (order,), (levels,) = draw(benchmark.unit, trained[None], picks, np.random.default_rng(settings.seed))
    turn, level, predicted = (np.full(len(trained), nan) for _ in range(3))
    turn[order], level[order] = np.arange(1, picks + 1), levels
    seen = trained | (~np.isnan(turn) & (settings.trained is None) & ~np.isnan(benchmark.y).any())
    short = np.zeros(len(trained), dtype=bool)
    if seen.any():
        predicted = predict(benchmark.unit, benchmark.y, np.flatnonzero(seen)[None])[0]
        short = shortlisted(predicted[None], seen[None], settings.shortlist)[0]
    numbers = np.column_stack([benchmark.scores, benchmark.unit, benchmark.y, turn, level, predicted]).tolist()
    for name, row, known, listed in zip(table.names, numbers, seen.tolist(), short.tolist(), strict=True):
        yield benchmark.name, name, *row, known, listed


def recalled(benchmark: Benchmark, settings: PolicySettings, reporter: Reporter) -> Iterator[tuple[Any, ...]]:
    """Shares of trials, a row for each budget; none where the best is not known or all are alike."""
    y, n = benchmark.y, len(benchmark.y)
    if np.isnan(y).any():
        reporter.note(f"{benchmark.name}: {np.isnan(y).sum()} of {n} are not trained yet, so nothing is simulated")
        return
    if (y == y[0]).all():
        raise DataError(f"column '{benchmark.column}' is constant ({y[0]:g} in every row), so no row is the best")
    rng = np.random.default_rng([settings.seed, *benchmark.name.encode()])
    hits = simulate(benchmark.unit, y, settings.trials, settings.shortlist, rng)
    curves = {FIRST_HIT: np.logical_or.accumulate(hits, axis=1), FIXED: hits}
    for reading, found in curves.items():
        for budget, share in enumerate(found.mean(axis=0).tolist(), 1):
            yield benchmark.name, reading, budget, share, settings.trials
    for budget in range(1, n + 1):
        yield benchmark.name, RANDOM, budget, min(1.0, (budget + settings.shortlist) / n), 0
    for reading, score in ((A_ALONE, benchmark.unit[:, 0]), (A_PLUS_C, benchmark.unit.sum(axis=1))):
        yield benchmark.name, reading, 0, float(ranked_by(score, y, settings.shortlist)), 0
