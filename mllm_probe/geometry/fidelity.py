"""The two sides of a fidelity run, key by key: the rows of fidelity.csv. Extracts nothing.

The reference is the model without quantisation, or without its adapter. A probe is fitted on each side and read on
each, so that what changes in the states and what changes for a probe that was fitted elsewhere are told apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from mllm_probe.config.geometry import BASE, FidelityConfig, FidelitySettings
from mllm_probe.experiment.controls import loaded_otherwise
from mllm_probe.experiment.experiment import Experiment, filled
from mllm_probe.files.digests import open_digests
from mllm_probe.fitting.readout import Source
from mllm_probe.fitting.resume import Parts
from mllm_probe.fitting.trials import Fitted, Probing, Trial
from mllm_probe.geometry.deviation import deviation
from mllm_probe.geometry.row_checks import is_constant, prepared
from mllm_probe.geometry.samples import draw_samples
from mllm_probe.geometry.similarity import between, similarity
from mllm_probe.records.problems import Rows
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import digest
from mllm_probe.records.sites import Key
from mllm_probe.results.fidelity import CHANGED, HOME, MODEL, MOVED, REFERENCE, SIDES, Agreement
from mllm_probe.scoring.aggregate import Scoring
from mllm_probe.stats.bootstrap import Redraws, interval
from mllm_probe.stats.intervals import of_rows
from mllm_probe.stats.paired import known
from mllm_probe.stats.permutation import holm_within

PAIRS = tuple(product(SIDES, SIDES))  # (fitted on, read on)


def reference_of(experiment: Experiment, config: FidelityConfig) -> Experiment:
    """The same of what the model was before: without quantisation, or without its adapter."""
    digests = open_digests(experiment.outputs.digests, config.cache.trust)
    if config.fidelity.reference == BASE:
        other: dict[str, Any] = {"adapter": None}
    else:
        other = {"quantization": "none", "dtype": config.fidelity.dtype or config.model.dtype}
    reference = loaded_otherwise(experiment, digests, **other)
    digests.save()
    return reference


class Agreements:
    """Two experiments with the same examples and filled caches. Raises CacheError."""

    def __init__(self, experiment: Experiment, reference: Experiment, settings: FidelitySettings) -> None:
        self._experiment, self._reference, self._settings = experiment, reference, settings
        self._sides = dict(zip(SIDES, (reference, experiment), strict=True))
        self._coverage = {side: filled(one) for side, one in self._sides.items()}
        self._probing = Probing(experiment)
        self._scoring = Scoring(self._probing)
        self.scored = self._probing.scored
        self.run = digest(self._scoring.run, reference.identity.digest, vars(settings))
        group = {decision.sample: decision.group for decision in experiment.examples.decisions}
        self._groups = {sample.uid: group[sample.uid] for sample in experiment.examples.samples}
        self._draws = Redraws(experiment.sweep.draws)

    def rows(self, parts: Parts, reporter: Reporter) -> Iterator[Agreement]:
        """Every key, then the models' own answers; what was fitted is kept in `parts`, for a killed run."""
        keys = self._experiment.keys
        for done, key in enumerate(keys):
            yield from self.states(key)
            yield from self.scores(key, parts.get(str(key), lambda key=key: self.trials(key)))  # type: ignore[misc]
            reporter.progress("fidelity", done + 1, len(keys), "keys")
        yield from map(self.answers, self._experiment.answer_keys)

    @property
    def _against(self) -> str:
        model = self._reference.model
        adapter = ", no adapter" if model.adapter != self._experiment.model.adapter else ""
        return f"{model.precision} ({model.dtype}){adapter}"

    def states(self, key: Key) -> Iterator[Agreement]:
        """What the states of a key are to those of the reference. Raises ProbeError for values that are not finite."""
        (exact, bounds), (other, _) = self._both(key, list(self._groups))
        found = deviation(exact, other, str(key), self._settings.standardise)
        groups = np.repeat(list(self._groups.values()), np.diff(bounds))
        draws = self._draws.of(groups)
        squared, spread = found.squared, found.spread
        with np.errstate(divide="ignore", invalid="ignore"):  # a layer that is the same for every prompt has no spread
            fvu = squared.sum() / spread.sum(), draws.ratios(squared[:, None]) / draws.ratios(spread[:, None])
        means = ((name, values.mean(), draws.ratios(values[:, None])) for name, values in found.means.items())
        for name, value, drawn in (*means, ("fvu", *fvu)):
            yield self._estimated(key, name, value, drawn[:, 0], n=len(groups), n_groups=draws.size)
        yield self._cka(key)

    def _cka(self, key: Key) -> Agreement:
        """Unbiased linear CKA over the rows that `geometry` takes; none where rows are constant."""
        settings, experiment = self._settings, self._experiment
        samples = draw_samples(
            experiment.examples.samples, experiment.collection.pictures, settings.max_rows, settings.seed
        )
        sides = [values[:][bounds[:-1]].double().numpy() for values, bounds in self._both(key, samples)]
        same = any(map(is_constant, sides))
        both = (prepared(one, settings.clip, settings.standardise) for one in sides)
        value = None if same else between(similarity("cka"), *both)
        return self._agreement(key, "cka", value=value, n=len(samples), n_groups=len(samples))

    def answers(self, key: Key) -> Agreement:
        """How often both sides give the same answer, if they stopped at the block of an answer's key."""
        (exact, _), (other, _) = self._both(key, list(self._groups))
        says = [rows[:].flip(1).argmax(1).numpy() for rows in (exact, other)]
        alike, pictures = says[0] == says[1], self._draws.of(np.asarray(list(self._groups.values())))
        between = of_rows(alike, pictures, self._scoring.level, share=True)
        more = {"n": len(alike), "n_groups": pictures.size, "value": float(alike.mean())}
        return self._agreement(
            Key(key.site, "last"),
            "answer_agreement",
            low=between.low,
            high=between.high,
            ci_level=self._scoring.level,
            **more,
        )

    def trials(self, key: Key) -> list[Trial]:
        """Probes fitted on each side and read on each; `features` names the pair."""
        probing, seeds = self._probing, self._probing.seeds
        readouts = {side: Source(one, self._coverage[side]).readout(key) for side, one in self._sides.items()}
        problems = [probing.problem("", seed) for seed in seeds]
        fits = {side: Fitted.on(self._experiment.probe, readout, problems) for side, readout in readouts.items()}
        blanks = {pair: [Trial.blank(key, "", seed, " on ".join(pair)) for seed in seeds] for pair in PAIRS}
        found = [fits[pair[0]].trials(readouts[pair[1]], blanks[pair]) for pair in PAIRS]
        return [replace(trial, arrays={}) for trials in found for trial in trials]

    def scores(self, key: Key, trials: Sequence[Trial]) -> Iterator[Agreement]:
        """The four curves' rows, and the two differences that matter."""
        of = {pair: [trial for trial in trials if trial.features == " on ".join(pair)] for pair in PAIRS}
        for pair, same in of.items():
            for split in ("val", "test"):
                yield self._score(key, pair, same, split)
        for name, pair in ((CHANGED, (MODEL, MODEL)), (MOVED, (REFERENCE, MODEL))):
            yield self._difference(key, name, pair, of[pair], of[HOME])

    def _score(self, key: Key, pair: tuple[str, str], trials: Sequence[Trial], split: str) -> Agreement:
        scoring = self._scoring
        rows = [scoring.row(trial, scoring.headline, scoring.rows(trial, split)) for trial in trials]
        value, more = float(np.mean([row.value for row in rows])), self._pair(pair, rows[0].n, rows[0].n_groups)
        if split == "val":
            return self._agreement(key, scoring.headline, value=value, split=split, **more)
        between = scoring.interval(trials, scoring.headline, scoring.rows(trials[0], split))
        bounds = {"low": between.low, "high": between.high, "ci_level": scoring.level}
        return self._agreement(key, scoring.headline, value=value, **bounds, **more)

    def _difference(
        self, key: Key, name: str, pair: tuple[str, str], trials: Sequence[Trial], others: Sequence[Trial]
    ) -> Agreement:
        """The first trials minus the others on the same test rows, as the measure has it; p by sign flips."""
        rows = self._scoring.rows(trials[0], "test")
        a, b = (self._scoring.row_scores(each, rows) for each in (trials, others)[:: self._scoring.sign])
        found = self._scoring.difference(a, b, rows)
        bounds = {"low": known(found.low), "high": known(found.high), "p_value": known(found.p)}
        more = self._pair(pair, int(rows.sum()), self._probing.pictures(rows))
        return self._agreement(key, name, value=found.value, ci_level=self._scoring.level, **bounds, **more)

    def _pair(self, pair: tuple[str, str], n: int, pictures: int) -> dict[str, Any]:
        probe = self._experiment.probe.name
        return {"fitted_on": pair[0], "read_on": pair[1], "probe": probe, "n": n, "n_groups": pictures}

    def _both(self, key: Key, samples: Sequence[str]) -> Iterator[tuple[Rows, np.ndarray]]:
        """Rows [T, D] and bounds [N + 1] of the reference, then of the model."""
        return (one.store.rows(key, samples, self._coverage[side]) for side, one in self._sides.items())

    def _estimated(self, key: Key, name: str, value: float, drawn: np.ndarray, **more: Any) -> Agreement:
        """With the interval of the draws [R]."""
        low, high = map(float, interval(drawn, more["n_groups"], self._scoring.level))
        bounds = {"low": low, "high": high, "ci_level": self._scoring.level}
        return self._agreement(key, name, value=float(value), **bounds, **more)

    def _agreement(self, key: Key, measure: str, **more: Any) -> Agreement:
        experiment, site = self._experiment, key.site
        model = experiment.model
        return Agreement(
            run=self.run,
            model=model.label,
            revision=model.revision or "",
            quantization=f"{model.precision} ({model.dtype})",
            reference=self._against,
            cache=experiment.identity.digest,
            reference_cache=self._reference.identity.digest,
            dataset=experiment.collection.name,
            task=experiment.task.name,
            site=str(site),
            tower=site.tower,
            layer=site.layer,
            part=site.part,
            depth=round(experiment.anatomy.depth(site), 4),
            position=key.position,
            measure=measure,
            **more,
        )


def corrected(rows: Sequence[Agreement]) -> list[Agreement]:
    """p after Holm, over the sites of each position and kind of difference."""
    adjusted = holm_within([row.p_value for row in rows], [(row.position, row.measure) for row in rows])
    return [replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]
