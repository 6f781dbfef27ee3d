"""Trials -> rows of scores.csv: every measure for validation and test, and means over seeds with their intervals."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from mllm_probe.config.sweep import CONTROL_TASK
from mllm_probe.experiment.experiment import columns_of
from mllm_probe.fitting.headline_metric import BALANCED, headline
from mllm_probe.fitting.trials import Probing, Trial
from mllm_probe.records.problems import content
from mllm_probe.records.score import NOT_APPLICABLE, Score
from mllm_probe.records.sites import Key
from mllm_probe.scoring.alarms import rare_label
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.intervals import ALIKE, Interval, of, of_difference, of_rows
from mllm_probe.stats.measures import HIGHER_IS_BETTER, METRICS, linearised, measure, weighed_alike
from mllm_probe.stats.paired import Difference, difference, row_scores

YES_RATE = "yes_rate"  # the share of positive answers
Found = TypeVar("Found")


class Scoring:
    """The resamples of the test pictures are drawn once, so that all layers and controls are compared within them.

    What is said of the same decisions is measured and resampled once: keys that can tell nothing all say the same.
    """

    def __init__(self, probing: Probing) -> None:
        self.probing, self._experiment = probing, probing.experiment
        self._draws: dict[bytes, Resamples] = {}
        self._kept: dict[str, Any] = {}
        self._unbounded: dict[str, dict[str, None]] = {}
        self._uncompared: dict[bytes, str | None] = {}
        self._called = self._experiment.group_word
        self.level = self._experiment.sweep.ci_level
        self.headline = headline(probing)
        self.run = self._experiment.run

    def draws(self, rows: np.ndarray) -> Resamples:
        """Of the pictures that the decisions `rows` [N] bool are about; most keys share them."""
        name = rows.tobytes()
        if name not in self._draws:
            self._draws[name] = Resamples(self.probing.groups[rows], self._experiment.sweep.draws, called=self._called)
        return self._draws[name]

    def scores(self, trials: Sequence[Trial]) -> list[Score]:
        """The rows of one key: each control's own, and what the real labels have over the control task."""
        by_control: dict[str, list[Trial]] = {}
        for trial in trials:
            by_control.setdefault(trial.control, []).append(trial)
        found: list[Score] = []
        for same in by_control.values():
            places = [(trial, split, self.rows(trial, split)) for trial in same for split in ("val", "test")]
            found += [row for metric in self._metrics(same[0]) for row in self._metric(places, metric)]
        if "" in by_control and CONTROL_TASK in by_control:
            found += self._selectivity(by_control[""], by_control[CONTROL_TASK])
        return found

    def _metrics(self, trial: Trial) -> tuple[str, ...]:
        """Outputs that are no log-odds have neither a log loss nor a calibration; an answer has a share of yes."""
        wanted = METRICS[self.probing.kind]
        if trial.facts.get("answer") and self.probing.kind == "binary":
            wanted = (*wanted, YES_RATE)
        return wanted if trial.facts["log_odds"] else tuple(name for name in wanted if name not in ("nll", "ece"))

    def _metric(self, places: Sequence[tuple[Trial, str, np.ndarray]], metric: str) -> list[Score]:
        """Rows of one measure, and its mean over seeds on the test pictures."""
        rows = [self.row(trial, metric, rows, split=split) for trial, split, rows in places]
        tested = [(trial, rows) for trial, split, rows in places if split == "test"]
        between = self.interval([trial for trial, _ in tested], metric, tested[0][1])
        return [*rows, self.aggregate([row for row in rows if row.split == "test"], between)]

    def _once(self, make: Callable[[], Found], *given: Any) -> Found:
        """What is made of these arrays and names, kept."""
        name = content(*given)
        if name not in self._kept:
            self._kept[name] = make()
        found: Found = self._kept[name]
        return found

    def rows(self, trial: Trial, split: str) -> np.ndarray:
        """Which decisions [N] bool of a split the trial reads."""
        return (self.probing.place(trial.control, trial.seed) == split) & trial.read

    def logits(self, trial: Trial, metric: str, rows: np.ndarray) -> np.ndarray:
        """What a trial says of the decisions `rows` [N] bool, as a measure reads it: [n] or [n, C]."""
        found = trial.logits[rows].astype(np.float64)
        if metric != BALANCED or not trial.facts["log_odds"] or trial.facts.get("answer"):
            return found
        return weighed_alike(found, self.probing.log_shares(trial.control, trial.seed), self.probing.kind)

    def row_scores(self, trials: Sequence[Trial], rows: np.ndarray) -> np.ndarray:
        """What each of some decisions adds to the headline, the mean over seeds [n]; more is better."""
        logits = np.stack([self.logits(trial, self.headline, rows) for trial in trials])
        truth, groups = self.probing.truth(trials[0].control)[rows], self.probing.groups[rows]
        return row_scores(logits, truth, self.probing.kind, self.headline, groups)

    def linearised(self, trials: Sequence[Trial], rows: np.ndarray) -> np.ndarray:
        """The headline's linearised scores of some decisions, the mean over seeds [n], in its own sign."""
        truth, kind = self.probing.truth(trials[0].control)[rows], self.probing.kind
        each = (self.logits(trial, self.headline, rows) for trial in trials)
        return np.mean([linearised(self.headline, logits, truth, kind) for logits in each], axis=0)

    @property
    def sign(self) -> int:
        """1 where more of the headline is better, else -1: what row scores are multiplied by."""
        return 1 if self.headline in HIGHER_IS_BETTER else -1

    def measured(self, scores: np.ndarray) -> float:
        """The headline of some row scores [n], in its own sign."""
        return self.sign * float(scores.mean())

    def incomparable(self, rows: np.ndarray) -> str | None:
        """Why layers are not compared by the headline on the decisions `rows` [N] bool; None where they may be."""
        name = rows.tobytes()
        if name not in self._uncompared:
            self._uncompared[name] = rare_label(
                self.headline,
                self.probing.y[rows],
                self.probing.groups[rows],
                self._experiment.examples.names,
                self._called,
            )
        return self._uncompared[name]

    def difference(self, a: np.ndarray, b: np.ndarray, rows: np.ndarray, permutations: int = 9999) -> Difference:
        """Of row scores a and b [n] of the decisions `rows`; the value alone where they are not to be compared."""
        found = difference(a, b, self.draws(rows), self.level, permutations)
        return found.untested if self.incomparable(rows) else found

    def interval(self, trials: Sequence[Trial], metric: str, rows: np.ndarray, level: float | None = None) -> Interval:
        """Of a measure over some decisions, the mean over seeds; at `sweep.ci_level`, or another level."""
        logits, level = np.stack([self.logits(trial, metric, rows) for trial in trials]), level or self.level
        if metric == YES_RATE:
            return of_rows((logits > 0).mean(axis=0), self.draws(rows), level, share=True)
        truth = self.probing.truth(trials[0].control)[rows]
        make = partial(of, metric, logits, truth, self.draws(rows), self.probing.kind, level)
        return self._once(make, "interval", metric, level, logits, truth, rows)

    def aggregate(self, rows: Sequence[Score], between: Interval) -> Score:
        """The row `all`: the mean over seeds, its interval over pictures; what has none is remembered by its reason.
        That all rows are alike is a remark of its own."""
        if between.reason not in ("", ALIKE.reason) and rows[0].real:
            self._unbounded.setdefault(between.reason, {}).setdefault(rows[0].metric.replace("_", " "))
        value, converged = float(np.mean([row.value for row in rows])), all(row.converged for row in rows)
        mean = replace(rows[0], seed="all", value=value, lambda_=None, converged=converged)
        return replace(mean, low=between.low, high=between.high, ci_level=self.level)

    def _selectivity(self, real: Sequence[Trial], control: Sequence[Trial]) -> list[Score]:
        """Real minus control task, seed by seed and on average (Hewitt and Liang 2019)."""
        test = self.rows(real[0], "test")
        pairs = zip(*([self.row(t, self.headline, test) for t in side] for side in (real, control)), strict=True)
        rows = [replace(a, metric="selectivity", headline=False, value=a.value - b.value) for a, b in pairs]
        a, b = (self.row_scores(side, test) for side in (real, control)[:: self.sign])
        between = Interval(np.nan, np.nan)
        if not self.incomparable(test):
            between = of_difference(a, b, self.draws(test), self.level)
        return [*rows, self.aggregate(rows, between)]

    def row(self, trial: Trial, metric: str, rows: np.ndarray, **more: str) -> Score:
        """One measure over the decisions `rows` [N] bool."""
        logits, truth = self.logits(trial, metric, rows), self.probing.truth(trial.control)[rows]
        value = (logits > 0).mean() if metric == YES_RATE else self._measured(metric, logits, truth)
        n, pictures = int(rows.sum()), self._once(partial(self.probing.pictures, rows), "pictures", rows)
        told = {"metric": metric, "headline": metric == self.headline, **more}
        return replace(self.blank(trial), value=float(value), n=n, n_groups=pictures, **told)  # type: ignore[arg-type]

    def _measured(self, metric: str, logits: np.ndarray, truth: np.ndarray) -> float:
        make = partial(measure, metric, logits, truth, kind=self.probing.kind)
        return float(self._once(make, "value", metric, logits, truth)[0])

    def bounds_said(self) -> list[str]:
        """Which measures have no interval, and by which layers are not compared, each with the reason."""
        said = [f"no interval of {', '.join(metrics)}: {reason}" for reason, metrics in self._unbounded.items()]
        return [*said, *dict.fromkeys(f"layers are {one}" for one in self._uncompared.values() if one)]

    def validation(self, trials: Sequence[Trial]) -> float:
        """Mean headline on validation over the trials of some seeds; more is better."""
        return self.sign * float(np.mean([self.row(t, self.headline, self.rows(t, "val")).value for t in trials]))

    def not_applicable(self, key: Key, control: str, features: str = "single") -> Score:
        """A control that does not exist at a key says so."""
        trial = Trial.blank(key, control, self.probing.seeds[0], features)
        named = replace(trial, probe=self._experiment.probe.name, facts={"converged": 1.0})
        return replace(self.blank(named), seed="all", metric=NOT_APPLICABLE, converged=None, n_train=0)

    def final(self, trials: Sequence[Trial], metric: str, value: float) -> Score:
        """One row for some trials together, on the test pictures."""
        return replace(
            self.blank(trials[0]),
            seed="all",
            metric=metric,
            n=int(self.probing.test.sum()),
            n_groups=self.probing.pictures(self.probing.test),
            lambda_=None,
            converged=all(trial.facts["converged"] for trial in trials),
            value=value,
        )

    def _trained(self, trial: Trial) -> int:
        """On how many decisions."""
        return int((self.probing.place(trial.control, trial.seed) == "train").sum())

    def blank(self, trial: Trial) -> Score:
        """Everything a row says of its trial, without a value."""
        experiment, key = self._experiment, trial.key
        shown = next((variant for variant in experiment.variants if variant.control == trial.control), experiment)
        template = experiment.task.template
        return Score(
            run=self.run,
            cache=shown.identity.digest if key else "",
            model=shown.model.label,
            **columns_of(experiment, key),
            task=experiment.task.name,
            target=experiment.examples.decisions[0].target,
            subset="",
            features=trial.features,
            probe=trial.probe,
            control=trial.control,
            train_template=template,
            test_template=template,
            seed=str(trial.seed),
            split="test",
            metric="",
            n=0,
            n_groups=0,
            n_train=self._once(lambda: self._trained(trial), "trained", trial.control, trial.seed),
            lambda_=trial.facts.get("lambda"),
            converged=bool(trial.facts["converged"]),
            value=float("nan"),
        )


def tested(scores: Sequence[Score], p_values: Mapping[str, tuple[float, float, str]], metric: str) -> list[Score]:
    """The rows with {key: (p, p after Holm, family)} filled in where a layer's headline was tested."""
    return [
        replace(row, p_value=p[0], p_holm=p[1], family=p[2])
        if row.seed == "all" and row.metric == metric and row.real and (p := p_values.get(f"{row.site}@{row.position}"))
        else row
        for row in scores
    ]
