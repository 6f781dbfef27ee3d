"""What all fits of one sweep share, and how one fit becomes rows of scores.csv. Knows no model."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mllm_probe.cache.coverage import Coverage
from mllm_probe.config import run_digest
from mllm_probe.protocols import Fit, Probe
from mllm_probe.stages.prepare import Prepared
from mllm_probe.stats.bootstrap import Resamples, interval
from mllm_probe.stats.measures import measure
from mllm_probe.types import Key, LayerData, Score


@dataclass(frozen=True)
class Trial:
    """One probe fitted with one seed: its logits for all N decisions, and who was in which split."""

    key: Key | None
    control: str
    probe: str
    seed: int
    fit: Fit
    logits: np.ndarray
    split: np.ndarray


class Bench:
    """Labels, groups, splits and the resamples of the test pictures."""

    def __init__(self, ready: Prepared) -> None:
        self._ready = ready
        decisions = ready.examples.decisions
        self._samples = {sample.uid: sample for sample in ready.examples.samples}
        self.texts = [self._samples[decision.sample].text for decision in decisions]
        self.y = np.asarray([decision.label for decision in decisions])
        self.groups = np.asarray([decision.group for decision in decisions])
        seeds = ready.config.sweep.seeds
        self.splits = {seed: ready.folds.splits(ready.examples.folds, seed) for seed in seeds}
        self.split_of = {
            seed: np.asarray([split[group] for group in self.groups]) for seed, split in self.splits.items()
        }
        self._test = self.split_of[seeds[0]] == "test"
        self._run = run_digest(ready.config, ready.identity.digest, [decision.uid for decision in decisions])

    @cached_property
    def _resamples(self) -> Resamples:
        return Resamples(self.groups[self._test], self._ready.config.sweep.draws)

    def layer(self, key: Key, coverage: Coverage) -> LayerData:
        """The rows of all decisions at one key, as float64 [N, D]."""
        uids = list(self._samples)
        values, bounds = self._ready.store.read(key, uids, coverage)
        number = {uid: i for i, uid in enumerate(uids)}
        rows = [
            bounds[number[decision.sample]] + self._offset(key, decision.sample, decision.mark)
            for decision in self._ready.examples.decisions
        ]
        return LayerData(key, values[rows].double().numpy(), self.y, self.groups)

    def _offset(self, key: Key, sample: str, mark: str | None) -> int:
        """Which of a sample's rows is this decision's own: its mark's place among the marks the position reads."""
        family = key.position.partition(":")[2]
        marks = [name for name in self._samples[sample].marks if name.partition(":")[0] == family]
        return marks.index(mark) if mark in marks else 0

    def trial(self, probe: Probe, values: np.ndarray, key: Key | None, control: str, seed: int) -> Trial:
        split = self.split_of[seed]
        train, val = split == "train", split == "val"
        fit = probe.fit(values[train], self.y[train], values[val], self.y[val], seed)
        return Trial(key, control, probe.name, seed, fit, fit(values), split)

    def scores(self, trials: list[Trial]) -> list[Score]:
        """Validation and test rows of each seed, then the aggregate on test with its interval over pictures."""
        found = []
        for metric in ("accuracy", "auroc"):
            for trial in trials:
                found += [self._score(trial, metric, split) for split in ("val", "test")]
            tests = [score for score in found if score.metric == metric and score.split == "test"]
            logits = np.stack([trial.logits[self._test] for trial in trials])[None]
            drawn = self._resamples.means(metric, logits, self.y[self._test])
            low, high = map(float, interval(drawn, self._level)[0])
            found.append(
                replace(
                    tests[0],
                    seed="all",
                    value=float(np.mean([score.value for score in tests])),
                    lambda_=None,
                    converged=all(score.converged for score in tests),
                    low=low,
                    high=high,
                    ci_level=self._level,
                )
            )
        return found

    @property
    def _level(self) -> float:
        return self._ready.config.sweep.ci_level

    def _score(self, trial: Trial, metric: str, split: str) -> Score:
        ready, key = self._ready, trial.key
        rows = trial.split == split
        template = ready.task.template
        return Score(
            run=self._run,
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
            features="single" if key else "words" if trial.control else "none",
            probe=trial.probe,
            control=trial.control,
            train_template=template,
            test_template=template,
            seed=str(trial.seed),
            split=split,
            metric=metric,
            n=int(rows.sum()),
            n_groups=len(np.unique(self.groups[rows])),
            n_train=int((trial.split == "train").sum()),
            lambda_=trial.fit.facts.get("lambda"),
            converged=bool(trial.fit.facts["converged"]),
            value=float(measure(metric, trial.logits[rows], self.y[rows])[0]),
        )
