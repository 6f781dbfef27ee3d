"""What no layer may be praised for: what permuted labels score, and the best answer that is the same for all questions.

The two are not the same. A layer is *above chance* where its predictions go with the labels (permutation of the test
labels), and *above the best constant answer* where it scores more than that answer does. Where labels are unbalanced,
a probe can be the first without the second. Fits nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mllm_probe.errors import ProbeError, count
from mllm_probe.fitting.headline_metric import BALANCED, MEASURES, R2
from mllm_probe.fitting.trials import Probing, Trial
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.score import ALPHA, BY_DESIGN, Score
from mllm_probe.records.sites import Key
from mllm_probe.scoring.aggregate import Scoring
from mllm_probe.scoring.verdicts.best_layers import Test, numbers
from mllm_probe.scoring.verdicts.fixed_scores import ByDesign
from mllm_probe.stats.chance import statistic
from mllm_probe.stats.intervals import Interval, of_difference, p_above
from mllm_probe.stats.measures import METRICS
from mllm_probe.stats.paired import known
from mllm_probe.stats.permutation import MaxT, holm_within, max_t

CONSTANT = "constant"
ABOVE_CHANCE, FLOOR, BEYOND = "above_chance", "floor", "beyond"  # the tests of tests.csv
FIXED = (BALANCED, "auroc", R2)  # measures whose floor is a number, whatever the test labels
WORDS = {ABOVE_CHANCE: "above chance", FLOOR: "above the best constant answer", BEYOND: "beyond the covariate"}


def constant(probing: Probing, rows: np.ndarray) -> Trial:
    """The best constant answer about the decisions `rows` [N] bool: it is told how common their labels are, or their
    mean, and nothing else. So it is the same for all seeds, and no probe that says the same of all rows scores more."""
    y = probing.y[rows]
    if probing.kind == "number":
        answer = y.mean()
    else:
        shares = np.bincount(y, minlength=int(probing.y.max()) + 1) / len(y)
        log_odds = np.log(shares.clip(min=1e-300))
        answer = log_odds if probing.kind == "classes" else log_odds[1] - log_odds[0]
    logits = np.broadcast_to(answer, (len(probing.y), *np.shape(answer)))
    facts = {"converged": 1.0, "log_odds": 1.0, "answer": 1.0}
    return Trial(None, "", CONSTANT, probing.seeds[0], logits, facts, {}, "none")


class Floors:
    """The real trials of a sweep, key by key, held against both."""

    def __init__(self, scoring: Scoring, design: ByDesign) -> None:
        self._scoring, self._probing, self._design = scoring, scoring.probing, design
        self._trials: dict[Key, list[Trial]] = {}
        self._known: dict[Key, list[Trial]] = {}

    def add(self, trials: Sequence[Trial]) -> None:
        """Of anything but real labels on the rows of one key nothing is kept."""
        real = [trial for trial in trials if trial.key and not trial.control and trial.features == "single"]
        if real and real[0].key:
            kept = self._known if self._design.has("", real[0].key) else self._trials
            kept[real[0].key] = real

    def scores(self) -> list[Score]:
        """The best constant answer to all test questions by each measure. No interval: nothing was drawn."""
        test, kind = self._probing.test, self._probing.kind
        trial = constant(self._probing, test)
        rows = [self._scoring.row(trial, metric, test) for metric in METRICS[kind] if metric in MEASURES]
        return [replace(row, seed="all", ci_level=None) for row in rows if not np.isnan(row.value)]

    def tests(self, reporter: Reporter) -> list[Test]:
        """Every key against permuted labels and against the best constant answer."""
        families: dict[bytes, list[Key]] = {}
        for key, trials in self._trials.items():
            families.setdefault(self._scoring.rows(trials[0], "test").tobytes(), []).append(key)
        found = [test for keys in families.values() for test in self._above_chance(keys, reporter)]
        for name in self._probing.strata:
            found += [test for keys in families.values() for test in self._beyond(keys, name, reporter)]
        return [*found, *self._above_constant(), *self._by_design()]

    def _above_chance(self, keys: Sequence[Key], reporter: Reporter) -> list[Test]:
        """Max-T over every key that reads the same decisions; nearly always these are all."""
        scoring, trials = self._scoring, [self._trials[key] for key in keys]
        rows = scoring.rows(trials[0][0], "test")
        try:
            result = self._permuted(trials, rows)
        except ProbeError as error:
            reporter.note(f"no test against chance: {error}")
            return []
        values = [scoring.measured(scoring.row_scores(same, rows)) for same in trials]
        columns = zip(keys, values, result.p.tolist(), result.p_adjusted.tolist(), strict=True)
        return [
            self._test(ABOVE_CHANCE, key, count(len(keys), "key"), value=value, p_value=p, p_adjusted=a)
            for key, value, p, a in columns
        ]

    def _beyond(self, keys: Sequence[Key], name: str, reporter: Reporter) -> list[Test]:
        """The same with labels that stay in their stratum of a covariate; the value is what such labels do not give."""
        trials = [self._trials[key] for key in keys]
        rows = self._scoring.rows(trials[0][0], "test")
        strata = self._probing.strata[name][rows]
        cuts = len(np.unique(strata))
        if cuts == 1:
            reporter.note(f"no test beyond {name}: it is the same for all test questions")
            return []
        try:
            result = self._permuted(trials, rows, strata)
        except ProbeError:
            reporter.note(f"no test beyond {name}: no labels could change places within its {cuts} strata")
            return []
        family = f"{count(len(keys), 'key')}, {cuts} strata of {name}"
        more = (result.statistic - result.expected).tolist()
        columns = zip(keys, more, result.p.tolist(), result.p_adjusted.tolist(), strict=True)
        return [
            self._test(BEYOND, key, family, other=name, value=value, p_value=p, p_adjusted=a)
            for key, value, p, a in columns
        ]

    def _permuted(self, trials: Sequence[list[Trial]], rows: np.ndarray, strata: np.ndarray | None = None) -> MaxT:
        """Raises ProbeError."""
        probing, metric = self._probing, self._scoring.headline
        logits = np.stack([[self._scoring.logits(one, metric, rows) for one in same] for same in trials])
        table = statistic(metric, logits, probing.y[rows], probing.kind)
        draws = probing.experiment.sweep.permutations
        return max_t(
            table, probing.y[rows], probing.groups[rows], probing.uids[rows], probing.kind, draws, strata=strata
        )

    def _above_constant(self) -> list[Test]:
        """One-sided, by the interval of what a key has over the answer; Holm over the keys that have one."""
        found = [self._over_constant(trials) for trials in self._trials.values()]
        adjusted = holm_within([one["p_value"] for one in found], [CONSTANT] * len(found))
        family = count(len(found), "key")
        return [
            self._test(FLOOR, key, family, other=CONSTANT, p_adjusted=p, **one)
            for key, one, p in zip(self._trials, found, adjusted, strict=True)
        ]

    def _over_constant(self, trials: Sequence[Trial]) -> dict[str, float | None]:
        """Difference, interval, p and least detectable difference. Signs of differences are not flipped here: a layer
        and a constant are not exchangeable, and where a label is rare the rows that have it weigh many times more."""
        scoring, rows = self._scoring, self._scoring.rows(trials[0], "test")
        own, floor = (scoring.row_scores(side, rows) for side in (trials, [constant(self._probing, rows)]))
        draws = scoring.draws(rows)

        def between(level: float) -> Interval:
            if scoring.headline not in FIXED:
                if scoring.incomparable(rows):
                    return Interval(np.nan, np.nan)
                return of_difference(own, floor, draws, level)
            found, least = scoring.interval(trials, scoring.headline, rows, level), float(floor.mean())
            return Interval(found.low - least, found.high - least, found.reason)

        at = between(scoring.level)
        one = scoring.difference(own, floor, rows, permutations=1)
        bounds = {"low": known(at.low), "high": known(at.high), "p_value": p_above(between, one.value)}
        return {**numbers(one), **bounds}

    def _by_design(self) -> list[Test]:
        """Keys that can score nothing else are told, and in no family."""
        run, scoring = self._scoring.run, self._scoring
        return [
            Test(
                run,
                ABOVE_CHANCE,
                BY_DESIGN,
                trials[0].probe,
                key.position,
                str(key.site),
                value=scoring.measured(scoring.row_scores(trials, scoring.rows(trials[0], "test"))),
                verdict=BY_DESIGN,
            )
            for key, trials in self._known.items()
        ]

    def _test(self, name: str, key: Key, family: str, **more: Any) -> Test:
        p = more["p_adjusted"]
        verdict = WORDS[name] if p is not None and p <= ALPHA else ""
        place = (family, self._trials[key][0].probe, key.position, str(key.site))
        return Test(self._scoring.run, name, *place, verdict=verdict, **more)
