"""Parts of the test set that have rows of their own: other wordings, named or not, each class, each category and their
mean, the strata of covariates."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from mllm_probe.fitting.headline_metric import NLL, R2
from mllm_probe.fitting.trials import REWORDED, Trial
from mllm_probe.records.score import Score
from mllm_probe.scoring.aggregate import Scoring
from mllm_probe.stats.intervals import of_rows
from mllm_probe.stats.paired import row_scores

NAMED = {"yes": "named", "no": "not_named"}


class Subsets:
    """Headline rows of real trials, and of the copy ceiling nothing more."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring, self._probing = scoring, scoring.probing
        self._decisions = scoring.probing.experiment.examples.decisions

    def scores(self, trials: Sequence[Trial]) -> list[Score]:
        """The rows of one key's real trials."""
        real = [trial for trial in trials if trial.key and not trial.control]
        if not real:
            return []
        found = (self._wordings, self._named, self._classes, self._categories, self._covariates)
        return [row for part in found for row in part(real)]

    def _wordings(self, trials: Sequence[Trial]) -> Iterator[Score]:
        """Prompt transfer: the same probes on statements in other words (Yu and Lee 2025, anchor and variants)."""
        probing = self._probing
        for wording in dict.fromkeys(probing.wordings[probing.wordings != ""].tolist()):
            rows = (probing.place("", trials[0].seed) == REWORDED) & (probing.wordings == wording) & trials[0].read
            yield from (replace(row, test_template=wording) for row in self._part(trials, rows))

    def _named(self, trials: Sequence[Trial]) -> Iterator[Score]:
        for value, rows in self._strata("named").items():
            yield from self._part(trials, self._tested(trials) & rows, NAMED[value])

    def _classes(self, trials: Sequence[Trial]) -> Iterator[Score]:
        """The recall of each of several classes: the share of its decisions that are said to be of it."""
        probing, scoring, tested = self._probing, self._scoring, self._tested(trials)
        if probing.kind != "classes":
            return
        logits = np.stack([scoring.logits(trial, scoring.headline, tested) for trial in trials])
        right = row_scores(logits, probing.y[tested], probing.kind)
        for code, name in enumerate(probing.experiment.examples.names):
            rows = tested & (probing.y == code)
            if probing.pictures(rows) > 1:
                own = right[rows[tested]]
                between = of_rows(own, scoring.draws(rows), scoring.level, share=True)
                row = replace(
                    scoring.row(trials[0], "accuracy", rows), metric="recall", subset=f"label={name}", headline=False
                )
                yield replace(scoring.aggregate([row], between), value=float(own.mean()))

    def _categories(self, trials: Sequence[Trial]) -> Iterator[Score]:
        """Each category and, as `macro`, their mean."""
        parts, values = [], []
        for name, stratum in self._strata("category").items():
            rows = self._tested(trials) & stratum
            found = self._part(trials, rows, f"category={name}")
            yield from found[-1:]
            if found and not np.isnan(found[-1].value):
                parts.append(rows)
                values.append([row.value for row in found[:-1]])
        if len(parts) > 1:
            yield from self._macro(trials, parts, np.mean(values, axis=0))

    def _macro(self, trials: Sequence[Trial], parts: Sequence[np.ndarray], values: np.ndarray) -> Iterator[Score]:
        """The mean over categories, seed by seed [S] and of all: a category's rows weigh more where it has fewer."""
        scoring, whole = self._scoring, np.any(parts, axis=0)
        rows = [scoring.row(trial, scoring.headline, whole) for trial in trials]
        seeds = [replace(row, subset="macro", value=float(value)) for row, value in zip(rows, values, strict=True)]
        linear = np.full(int(whole.sum()), values.mean())
        for part in parts:
            own = scoring.linearised(trials, part)
            linear[part[whole]] += (own - own.mean()) * whole.sum() / (len(parts) * part.sum())
        share = scoring.headline not in (NLL, R2)
        yield from (*seeds, scoring.aggregate(seeds, of_rows(linear, scoring.draws(whole), scoring.level, share)))

    def _covariates(self, trials: Sequence[Trial]) -> Iterator[Score]:
        """Each stratum of each covariate."""
        for name, strata in self._probing.strata.items():
            for stratum in np.unique(strata[self._probing.test]).tolist():
                yield from self._part(trials, self._tested(trials) & (strata == stratum), f"{name}={stratum}")[-1:]

    def _tested(self, trials: Sequence[Trial]) -> np.ndarray:
        return self._scoring.rows(trials[0], "test")

    def _part(self, trials: Sequence[Trial], rows: np.ndarray, name: str = "") -> list[Score]:
        """The headline of each seed and of all over some test rows; nothing where there are none."""
        if self._probing.pictures(rows) < 2:
            return []
        scoring, metric = self._scoring, self._scoring.headline
        found = [replace(scoring.row(trial, metric, rows), subset=name) for trial in trials]
        return [*found, scoring.aggregate(found, scoring.interval(trials, metric, rows))]

    def _strata(self, name: str) -> dict[str, np.ndarray]:
        """{value: rows [N] bool} of a stratum that tells test rows apart."""
        return self._masks.get(name, {})

    @cached_property
    def _masks(self) -> dict[str, dict[str, np.ndarray]]:
        found: dict[str, dict[str, np.ndarray]] = {}
        for name in ("named", "category"):
            values = np.asarray([decision.strata.get(name, "") for decision in self._decisions])
            seen = sorted(set(values[self._probing.test].tolist()) - {""})
            found[name] = {value: values == value for value in seen} if len(seen) > 1 else {}
        return found
