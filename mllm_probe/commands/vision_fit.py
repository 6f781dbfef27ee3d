"""`mllm-probe vision fit`: how well alignment and correspondence explain what vision representations scored.

Reads a table, loads no model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import nan
from pathlib import Path
from statistics import fmean

import numpy as np

from mllm_probe import __version__
from mllm_probe.config.run import save_config
from mllm_probe.config.vision import FitSettings, PolicySettings, VisionFitConfig
from mllm_probe.errors import ConfigError, DataError
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.row_file import save_rows
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import digest
from mllm_probe.report.law import show_fit
from mllm_probe.report.terminal.law import MEASURES
from mllm_probe.results.vision import GroupRow, LawRow, PointRow
from mllm_probe.vision.encoder_table import BUNDLED, Benchmark, Table, read_table
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


def vision_fit(config: VisionFitConfig, paths: RunPaths, reporter: Reporter) -> None:
    """The command: fit.csv, groups.csv, points.csv, the figure and a table. Raises ConfigError, DataError."""
    settings = config.fit
    for name, least in (("draws", 1), ("seed", 0)):
        if (value := getattr(settings, name)) < least:
            raise ConfigError(f"fit.{name}={value} must be {least} or more")
    table = open_table(settings, reporter)
    run = table_digest(table, settings)
    laws = [row for benchmark in table.benchmarks for row in _laws(run, benchmark, settings)]
    save_rows(paths.fit, LawRow, laws)
    save_rows(paths.groups, GroupRow, list(_groups(run, laws, settings)))
    save_rows(paths.points, PointRow, [row for benchmark in table.benchmarks for row in _points(run, table, benchmark)])
    save_config(config, paths.config)
    show_fit(paths, reporter)


def open_table(settings: FitSettings, reporter: Reporter) -> Table:
    """The table, and a note for each row that was left out. Raises ConfigError, DataError."""
    table = read_table(settings)
    for sentence in table.skipped:
        reporter.note(f"left out: {sentence}")
    return table


def table_digest(table: Table, *settings: FitSettings | PolicySettings) -> str:
    """What every number follows from; where the file lies does not count."""
    cells = [(benchmark.name, benchmark.scores.tolist(), benchmark.y.tolist()) for benchmark in table.benchmarks]
    asked = [{**asdict(group), "table": None} for group in settings]
    return digest(__version__, table.names, cells, asked)


def table_name(settings: FitSettings) -> str:
    return Path(settings.table if settings.table is not None else BUNDLED).stem


def _measured(benchmark: Benchmark) -> tuple[np.ndarray, np.ndarray]:
    """Scaled scores [N, 2] and scaled performance [N] of the representations that were trained."""
    known = ~np.isnan(benchmark.y)
    if known.sum() < FEWEST:
        raise DataError(
            f"'{benchmark.column}' has a value in {known.sum()} rows, but the law needs {FEWEST} or more; fill it in, "
            "or leave it out of fit.benchmarks"
        )
    return benchmark.unit[known], min_max(benchmark.y[known], benchmark.column)


def _laws(run: str, benchmark: Benchmark, settings: FitSettings) -> Iterator[LawRow]:
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


def _groups(run: str, laws: Sequence[LawRow], settings: FitSettings) -> Iterator[GroupRow]:
    """Means over the benchmarks of a group that were fitted; groups without any are left out."""
    every = {EVERY: list(dict.fromkeys(law.benchmark for law in laws))}
    for group, members in {**settings.groups, **every}.items():
        for model in (*MODELS, RANDOM):
            rows = [law for law in laws if law.model == model and law.benchmark in members]
            if rows:
                means = (fmean(getattr(row, name) for row in rows) for name in MEASURES)
                yield GroupRow(run, group, len(rows), model, *means)


def _points(run: str, table: Table, benchmark: Benchmark) -> Iterator[PointRow]:
    known = ~np.isnan(benchmark.y)
    x, y = terms(benchmark.unit, MODELS[LAW]), benchmark.y
    predicted, alone = fit(x[known], y[known]).at(x), np.full(len(y), nan)
    alone[known] = left_out(x[known], y[known])
    numbers = np.column_stack([benchmark.scores, benchmark.unit, y, predicted, alone])
    for name, row in zip(table.names, numbers.tolist(), strict=True):
        yield PointRow(run, benchmark.name, name, *row)
