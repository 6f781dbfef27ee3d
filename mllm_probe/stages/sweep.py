"""`mllm-probe sweep`: fit every probe on every key of a filled cache, score once on the fixed test pictures."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mllm_probe.config import RunConfig
from mllm_probe.errors import CacheError, ConfigError
from mllm_probe.paths import RunPaths
from mllm_probe.probes.logistic import Logistic
from mllm_probe.probes.majority import Majority
from mllm_probe.probes.words import bag_of_words
from mllm_probe.protocols import Reporter
from mllm_probe.report.scores import ScoreFile
from mllm_probe.stages.artifacts import save_fits, save_predictions, save_splits, save_summary
from mllm_probe.stages.bench import Bench, Trial
from mllm_probe.stages.prepare import Prepared, prepare

QUESTION_ONLY = "question_only"
BASELINES = 2  # question-only and majority, in every run


def sweep(config: RunConfig, paths: RunPaths, reporter: Reporter) -> dict[str, Any]:
    """The command: prepare, then sweep what the cache holds. Raises CacheError where it does not hold it."""
    ready = prepare(config, paths, reporter)
    check_positions(ready)
    missing = ready.store.coverage().missing(ready.keys, (sample.uid for sample in ready.examples.samples))
    if missing:
        raise CacheError(
            f"{ready.store.paths.root} lacks activations of {len(missing)} of {len(ready.examples.samples)} samples; "
            "run `mllm-probe extract` with the same settings first"
        )
    return sweep_cached(ready, paths, reporter, extraction={})


def sweep_cached(ready: Prepared, paths: RunPaths, reporter: Reporter, extraction: Mapping[str, Any]) -> dict[str, Any]:
    """Write every file of the run; scores.csv grows key by key."""
    started, bench, table = time.monotonic(), Bench(ready), ScoreFile(paths.scores)
    total = len(ready.keys) + BASELINES
    scores, trials = [], []
    for done, group in enumerate(_all_trials(bench, ready)):
        rows = bench.scores(group)
        table.add(rows)
        scores += rows
        trials += group
        reporter.progress("sweep", done + 1, total, "keys")
    save_splits(paths.splits, bench.splits)
    save_predictions(paths.predictions, trials, [d.uid for d in ready.examples.decisions])
    save_fits(paths.probes, trials)
    seconds = round(time.monotonic() - started, 2)
    return save_summary(paths.summary, ready, scores, extraction, seconds)


def check_positions(ready: Prepared) -> None:
    """Refuse positions of one row a token before anything is extracted for them. Raises ConfigError."""
    ragged = [position for position in ready.config.extract.positions if position.startswith("tokens:")]
    if ragged:
        raise ConfigError(
            f"position {ragged[0]} holds a row for every token, and probe {ready.probe.name} reads one row a decision; "
            "use `mllm-probe extract` to store it, and a pooled position such as mean_text to sweep"
        )


def _all_trials(bench: Bench, ready: Prepared) -> Iterator[list[Trial]]:
    """One list per key, one trial per seed; the baselines that need no activation come last."""
    coverage = ready.store.coverage()
    for key in ready.keys:
        data = bench.layer(key, coverage)
        yield [bench.trial(ready.probe, data.values, key, "", seed) for seed in ready.config.sweep.seeds]
    words = bag_of_words(bench.texts)
    yield [bench.trial(Logistic(), words, None, QUESTION_ONLY, seed) for seed in ready.config.sweep.seeds]
    nothing = np.zeros((len(bench.y), 0))
    yield [bench.trial(Majority(), nothing, None, "", seed) for seed in ready.config.sweep.seeds]
