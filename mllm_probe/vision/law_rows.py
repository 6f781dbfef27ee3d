"""The rows of fit.csv, groups.csv and points.csv: the law fitted to each benchmark of a table."""

from collections.abc import Iterator, Sequence
from math import nan
from statistics import fmean

import numpy as np

from mllm_probe.config.vision import FitSettings
from mllm_probe.errors import ConfigError, DataError
from mllm_probe.results.vision import MEASURES, GroupRow, LawRow, PointRow
from mllm_probe.vision.encoder_table import Benchmark, Table, table_name
from mllm_probe.vision.law import (
    COEFFICIENTS,
    FEWEST,
    LAW,
    MODELS,
    RANDOM,
    Quality,
    assess,
    fit,
    left_out,
    min_max,
    random_quality,
    rank_correlation,
    terms,
)

EVERY = "all"  # the group of all benchmarks


def check_fit(settings: FitSettings) -> None:
    """Raises ConfigError."""
    if settings.seed < 0:
        raise ConfigError(f"fit.seed={settings.seed} must be 0 or more")


def _measured(benchmark: Benchmark) -> tuple[np.ndarray, np.ndarray]:
    """Scaled scores [N, 2] and scaled performance [N] of the representations that were trained."""
    known = ~np.isnan(benchmark.y)
    if known.sum() < FEWEST:
        raise DataError(
            f"'{benchmark.column}' has a value in {known.sum()} rows, but the law needs {FEWEST} or more; fill it in, "
            "or leave it out of fit.benchmarks"
        )
    return benchmark.unit[known], min_max(benchmark.y[known], benchmark.column)


def laws(run: str, benchmark: Benchmark, settings: FitSettings) -> Iterator[LawRow]:
    """Of one benchmark: each model of the law, and what random A and C would give."""
    unit, y = _measured(benchmark)
    where = (run, table_name(settings), settings.a, settings.c, benchmark.name)
    for name, model in MODELS.items():
        x = terms(unit, model)
        surface = fit(x, y)
        weight = dict(zip(model, surface.weights.tolist(), strict=True))
        weights = (weight.get(term, nan) for term in MODELS[LAW])
        rank = rank_correlation(left_out(x, y), y)
        numbers = (float(surface.intercept), *weights, *_numbers(assess(x, y), rank))
        yield LawRow(*where, name, len(y), 1 + len(model), *numbers)
    chance = random_quality(y, settings.draws, settings.seed)
    nothing = (nan,) * COEFFICIENTS
    yield LawRow(*where, RANDOM, len(y), COEFFICIENTS, *nothing, *_numbers(chance, nan))


def _numbers(quality: Quality, rank: float) -> Iterator[float]:
    """In the order of MEASURES."""
    for value in (quality.r2, quality.adjusted, quality.left_out, rank, quality.noise):
        yield float(value)


def groups(run: str, fitted: Sequence[LawRow], settings: FitSettings) -> Iterator[GroupRow]:
    """Means over the benchmarks of a group that were fitted; groups without any are left out."""
    every = {EVERY: list(dict.fromkeys(law.benchmark for law in fitted))}
    for group, members in {**settings.groups, **every}.items():
        for model in (*MODELS, RANDOM):
            rows = [law for law in fitted if law.model == model and law.benchmark in members]
            if rows:
                means = (fmean(getattr(row, name) for row in rows) for name in MEASURES)
                yield GroupRow(run, group, len(rows), model, *means)


def points(run: str, table: Table, benchmark: Benchmark) -> Iterator[PointRow]:
    """A row for each representation: what it scored, and what the law predicts."""
    known = ~np.isnan(benchmark.y)
    x, y = terms(benchmark.unit, MODELS[LAW]), benchmark.y
    predicted, alone = fit(x[known], y[known]).at(x), np.full(len(y), nan)
    alone[known] = left_out(x[known], y[known])
    numbers = np.column_stack([benchmark.scores, benchmark.unit, y, predicted, alone])
    for name, row in zip(table.names, numbers.tolist(), strict=True):
        yield PointRow(run, benchmark.name, name, *row)
