"""Trials -> rows of scores.csv: every measure for validation and test, and means over seeds with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from mllm_probe.config import run_digest
from mllm_probe.score import Score
from mllm_probe.settings import CONTROL_TASK
from mllm_probe.stages.bench import Bench, Trial
from mllm_probe.stats.bootstrap import Resamples, interval
from mllm_probe.stats.measures import METRICS, measure

HEADLINE = {"binary": "accuracy", "classes": "accuracy", "number": "r2"}


class Scoring:
    """The resamples of the test pictures are drawn once, so that all layers and controls are compared within them."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self._ready = bench, bench.ready
        self.level = self._ready.config.sweep.ci_level
        self.headline = HEADLINE[bench.kind]
        self.run = run_digest(self._ready.config, self._ready.identity.digest, self._ready.examples)

    @cached_property
    def resamples(self) -> Resamples:
        return Resamples(self.bench.groups[self.bench.test], self._ready.config.sweep.draws)

    def scores(self, trials: Sequence[Trial]) -> list[Score]:
        """The rows of one key: each control's own, and what the real labels have over the control task."""
        by_control: dict[str, list[Trial]] = {}
        for trial in trials:
            by_control.setdefault(trial.control, []).append(trial)
        found, draws = [], {}
        for control, same in by_control.items():
            for metric in self._metrics(same[0]):
                rows, drawn = self._metric(same, metric)
                found += rows
                if metric == self.headline:
                    draws[control] = (rows, drawn)
        if "" in draws and CONTROL_TASK in draws:
            found += self._selectivity(draws[""], draws[CONTROL_TASK])
        return found

    def _metrics(self, trial: Trial) -> tuple[str, ...]:
        """Outputs that are no log-odds have neither a log loss nor a calibration."""
        wanted = METRICS[self.bench.kind]
        return wanted if trial.facts["log_odds"] else tuple(name for name in wanted if name not in ("nll", "ece"))

    def _metric(self, trials: Sequence[Trial], metric: str) -> tuple[list[Score], np.ndarray]:
        """Rows of one measure and its mean over seeds in each draw [R]."""
        bench = self.bench
        rows = [self._row(trial, metric, split) for trial in trials for split in ("val", "test")]
        tests = [row for row in rows if row.split == "test"]
        logits = np.stack([trial.logits[bench.test] for trial in trials])[None]
        truth = bench.truth(trials[0].control)[bench.test]
        drawn = self.resamples.means(metric, logits, truth, bench.kind)[0]
        return [*rows, self._aggregate(tests, drawn)], drawn

    def _aggregate(self, rows: Sequence[Score], drawn: np.ndarray) -> Score:
        """The row `all`: the mean over seeds, its interval over pictures."""
        low, high = map(float, interval(drawn, self.level))
        value, converged = float(np.mean([row.value for row in rows])), all(row.converged for row in rows)
        mean = replace(rows[0], seed="all", value=value, lambda_=None, converged=converged)
        return replace(mean, low=low, high=high, ci_level=self.level)

    def _selectivity(
        self, real: tuple[list[Score], np.ndarray], control: tuple[list[Score], np.ndarray]
    ) -> list[Score]:
        """Real minus control task, seed by seed and on average (Hewitt and Liang 2019)."""
        pairs = [(a, b) for a, b in zip(real[0], control[0], strict=True) if a.split == "test" and a.seed != "all"]
        rows = [replace(a, metric="selectivity", value=a.value - b.value) for a, b in pairs]
        return [*rows, self._aggregate(rows, real[1] - control[1])]

    def _row(self, trial: Trial, metric: str, split: str) -> Score:
        bench, rows = self.bench, self.bench.split_of[trial.seed] == split
        truth = bench.truth(trial.control)[rows]
        return replace(
            self.blank(trial),
            split=split,
            metric=metric,
            n=int(rows.sum()),
            n_groups=bench.pictures[trial.seed, split],
            value=float(measure(metric, trial.logits[rows], truth, kind=bench.kind)[0]),
        )

    def final(self, trials: Sequence[Trial], metric: str, value: float) -> Score:
        """One row for some trials together, on the test pictures."""
        return replace(
            self.blank(trials[0]),
            seed="all",
            metric=metric,
            n=int(self.bench.test.sum()),
            n_groups=self.bench.pictures[trials[0].seed, "test"],
            lambda_=None,
            converged=all(trial.facts["converged"] for trial in trials),
            value=value,
        )

    def blank(self, trial: Trial) -> Score:
        """Everything a row says of its trial, without a value."""
        ready, key = self._ready, trial.key
        template = ready.task.template
        return Score(
            run=self.run,
            cache=ready.identity.digest if key else "",
            model=ready.config.model.label,
            revision=ready.config.model.revision or "",
            quantization=ready.config.model.precision,
            dataset=ready.collection.name,
            task=ready.task.name,
            target=ready.examples.decisions[0].target,
            subset="",
            site=str(key.site) if key else "",
            tower=key.site.tower if key else "",
            layer=key.site.layer if key else None,
            part=key.site.part if key else "",
            depth=round(ready.anatomy.depth(key.site), 4) if key else None,
            position=key.position if key else "",
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
            n_train=int((self.bench.split_of[trial.seed] == "train").sum()),
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
