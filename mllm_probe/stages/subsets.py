"""Parts of the test set that have rows of their own: other wordings, named or not, each category and their mean,
the strata of covariates."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from mllm_probe.score import Score
from mllm_probe.stages.bench import REWORDED, Trial
from mllm_probe.stages.scoring import Scoring

NAMED = {"yes": "named", "no": "not_named"}


class Subsets:
    """Headline rows of real trials, and of the copy ceiling nothing more."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring, self._bench = scoring, scoring.bench
        self._decisions = scoring.bench.ready.examples.decisions

    def scores(self, trials: Sequence[Trial]) -> list[Score]:
        """The rows of one key's real trials."""
        real = [trial for trial in trials if trial.key and not trial.control]
        if not real:
            return []
        return [*self._wordings(real), *self._named(real), *self._categories(real), *self._covariates(real)]

    def _wordings(self, trials: Sequence[Trial]) -> Iterator[Score]:
        """Prompt transfer: the same probes on statements in other words (Yu and Lee 2025, anchor and variants)."""
        bench = self._bench
        for wording in dict.fromkeys(bench.wordings[bench.wordings != ""].tolist()):
            rows = (bench.place("", trials[0].seed) == REWORDED) & (bench.wordings == wording) & trials[0].read
            found, _ = self._part(trials, rows)
            yield from (replace(row, test_template=wording) for row in found)

    def _named(self, trials: Sequence[Trial]) -> Iterator[Score]:
        for value, rows in self._strata("named").items():
            yield from self._subset(trials, rows, NAMED[value])[0]

    def _categories(self, trials: Sequence[Trial]) -> Iterator[Score]:
        """Each category and, as `macro`, their mean."""
        drawn, values = [], []
        for name, rows in self._strata("category").items():
            found, draws = self._subset(trials, rows, f"category={name}")
            drawn.append(draws)
            if found:
                values.append([row.value for row in found])
            yield from found[-1:]
        if len(values) > 1:
            whole, _ = self._part(trials, self._scoring.rows(trials[0], "test"))
            mean = np.mean(values, axis=0).tolist()
            seeds = [
                replace(row, subset="macro", value=value) for row, value in zip(whole[:-1], mean[:-1], strict=True)
            ]
            yield from (*seeds, self._scoring.aggregate(seeds, np.nanmean(drawn, axis=0)))

    def _covariates(self, trials: Sequence[Trial]) -> Iterator[Score]:
        """Each stratum of each covariate."""
        for name, strata in self._bench.strata.items():
            for stratum in np.unique(strata[self._bench.test]).tolist():
                yield from self._subset(trials, strata == stratum, f"{name}={stratum}")[0][-1:]

    def _subset(self, trials: Sequence[Trial], stratum: np.ndarray, name: str) -> tuple[list[Score], np.ndarray]:
        found, drawn = self._part(trials, self._scoring.rows(trials[0], "test") & stratum)
        return [replace(row, subset=name) for row in found], drawn

    def _part(self, trials: Sequence[Trial], rows: np.ndarray) -> tuple[list[Score], np.ndarray]:
        """The headline of each seed and of all over some test rows, and its draws; nothing where there are none."""
        if self._bench.pictures(rows) < 2:
            return [], np.full(self._bench.ready.config.sweep.draws, np.nan)
        metric = self._scoring.headline
        found = [self._scoring.row(trial, metric, rows) for trial in trials]
        drawn = self._scoring.drawn(trials, metric, rows)
        return [*found, self._scoring.aggregate(found, drawn)], drawn

    def _strata(self, name: str) -> dict[str, np.ndarray]:
        """{value: rows [N] bool} of a stratum that tells test rows apart."""
        return self._masks.get(name, {})

    @cached_property
    def _masks(self) -> dict[str, dict[str, np.ndarray]]:
        found: dict[str, dict[str, np.ndarray]] = {}
        for name in ("named", "category"):
            values = np.asarray([decision.strata.get(name, "") for decision in self._decisions])
            seen = sorted(set(values[self._bench.test].tolist()) - {""})
            found[name] = {value: values == value for value in seen} if len(seen) > 1 else {}
        return found
