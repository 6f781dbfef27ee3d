"""What all fits of one sweep share: labels, controls, splits, and how a key's rows meet them. Knows no statistic."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mllm_probe.config.sweep import CONTROL_TASK, PERMUTED
from mllm_probe.errors import few
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.fitting.readout import Readout, Source
from mllm_probe.probes.solving.linear import logits_of
from mllm_probe.records.problems import Problem, trained
from mllm_probe.records.protocols import Fit, Probe
from mllm_probe.records.samples import MORE_OF_EACH, digest
from mllm_probe.records.score import COPY_CEILING
from mllm_probe.records.sites import Key
from mllm_probe.results.predictions import Scored
from mllm_probe.stats.permutation import handed_on

NAMED = 4  # of many, how many a message names
COPIED, REWORDED = "copied", "reworded"  # places of decisions that no split of the real labels holds


@dataclass(frozen=True)
class Trial:
    """One probe fitted with one seed: float32 logits for all N decisions (nan: it reads nothing of one), what the fit
    says of itself, its arrays.

    `features`: "single" for the rows of one key, "words", "none", or what else was done to them (see analyses).
    """

    key: Key | None
    control: str
    probe: str
    seed: int
    logits: np.ndarray
    facts: Mapping[str, float]
    arrays: Mapping[str, np.ndarray]
    features: str = "single"

    @classmethod
    def blank(cls, key: Key | None, control: str, seed: int, features: str = "single") -> "Trial":
        """Not fitted yet."""
        return cls(key, control, "", seed, np.zeros(0), {}, {}, features)

    @property
    def read(self) -> np.ndarray:
        """Which decisions it says something of [N] bool."""
        return ~np.isnan(self.logits.reshape(len(self.logits), -1)[:, 0])

    @property
    def name(self) -> str:
        """`lm.07@last/logistic/seed0`; control and features stand before the seed, a baseline has no key."""
        middle = "".join(
            f"{part}/" for part in (self.control, self.features) if self.key and part not in ("", "single")
        )
        return f"{self.key or self.control or 'none'}/{self.probe}/{middle}seed{self.seed}"


@dataclass(frozen=True)
class Fitted:
    """A probe's fits of some problems, by their numbers; they may be read on any rows of the same decisions.

    Where no output has both labels in training there is nothing to fit, and all decisions are undecided.
    """

    probe: Probe
    problems: Sequence[Problem]
    fits: Mapping[int, Fit]

    @classmethod
    def on(cls, probe: Probe, readout: Readout, problems: Sequence[Problem]) -> "Fitted":
        asked = [readout.problem(problem) for problem in problems]
        live = [i for i, problem in enumerate(asked) if problem.y.size]
        fits = probe.fit(readout.data, [asked[i] for i in live]) if live else []
        return cls(probe, problems, dict(zip(live, fits, strict=True)))

    def trials(self, readout: Readout, blanks: Sequence[Trial]) -> list[Trial]:
        """The blank trials, one a problem, with what its fit makes of the rows."""
        found = dict(
            zip(self.fits, logits_of(list(self.fits.values()), readout.data) if self.fits else [], strict=True)
        )
        trials = []
        for i, blank in enumerate(blanks):
            fit, z = self.fits.get(i), found.get(i, np.zeros((len(readout.who), 0)))
            facts = {**(fit.facts if fit else {"converged": 1.0}), "log_odds": float(self.probe.log_odds)}
            arrays, logits = fit.arrays() if fit else {}, readout.logits(z, self.problems[i])
            trials.append(replace(blank, probe=self.probe.name, logits=logits, facts=facts, arrays=arrays))
        return trials


@dataclass(frozen=True)
class Asked:
    """What decides some trials: a probe, the rows it reads, and for each blank trial a problem."""

    probe: Probe
    readout: Readout
    problems: Sequence[Problem]
    blanks: Sequence[Trial]

    def fitted(self) -> list[Trial]:
        """The blank trials with what the probe made of their problems."""
        return Fitted.on(self.probe, self.readout, self.problems).trials(self.readout, self.blanks)


Keep = Callable[[Asked, Callable[[], list[Trial]]], list[Trial]]


class Probing:
    """Labels, groups and splits of one experiment. `keep` may know the trials that are to be made, see `KeptFits`."""

    def __init__(self, experiment: Experiment, keep: Keep | None = None) -> None:
        self.experiment, self._keep = experiment, keep
        decisions = experiment.examples.decisions
        self.kind = experiment.examples.kind
        self.y = np.asarray([decision.label for decision in decisions], float if self.kind == "number" else int)
        self.groups = np.asarray([decision.group for decision in decisions])
        self.uids = np.asarray([decision.uid for decision in decisions])
        self.seeds = tuple(experiment.sweep.seeds)
        self.splits = {seed: experiment.folds.splits(experiment.examples.folds, seed) for seed in self.seeds}
        self.wordings = np.asarray([decision.template for decision in decisions])
        self.given = np.asarray([decision.given for decision in decisions])
        self._raw = {seed: np.asarray([split[group] for group in self.groups]) for seed, split in self.splits.items()}
        self.split_of = {seed: self._scored(split) for seed, split in self._raw.items()}
        self.test = self.split_of[self.seeds[0]] == "test"
        self.controls = ("", *self._controls())

    def _scored(self, split: np.ndarray) -> np.ndarray:
        """Decisions in other words are only tested, those whose label the prompt gives away are not the model's."""
        return np.where(self.given, COPIED, np.where(self.wordings != "", REWORDED, split))

    def place(self, control: str, seed: int) -> np.ndarray:
        """The split of each decision [N]; the copy ceiling has those whose label is given away, and the absent ones."""
        if control != COPY_CEILING:
            return self.split_of[seed]
        return np.where(self.given | (self.y == 0), self._raw[seed], COPIED)

    def pictures(self, rows: np.ndarray) -> int:
        """How many pictures some decisions [N] bool are about."""
        return len(np.unique(self._numbers[rows]))

    @cached_property
    def scored(self) -> Scored:
        """What the run is scored on, whatever the model."""
        samples = tuple(decision.sample for decision in self.experiment.examples.decisions)
        uids, labels, groups, test = (tuple(array.tolist()) for array in (self.uids, self.y, self.groups, self.test))
        told = self.kind != "number" and self.experiment.probe.log_odds
        shares = {seed: tuple(self.log_shares("", seed).tolist()) for seed in self.seeds} if told else {}
        return Scored(uids, labels, groups, test, self.kind, samples, shares, self.experiment.examples.names)

    @cached_property
    def _numbers(self) -> np.ndarray:
        return np.unique(self.groups, return_inverse=True)[1]

    @cached_property
    def strata(self) -> dict[str, np.ndarray]:
        """{covariate: the stratum of each decision [N]}."""
        decisions = self.experiment.examples.decisions
        names = decisions[0].covariates if decisions else ()
        if not names:
            return {}
        from mllm_probe.fitting.strata import strata_of

        return {name: strata_of([d.covariates[name] for d in decisions], self.groups, self.test) for name in names}

    @cached_property
    def texts(self) -> list[str]:
        """What is asked; a category that stands in no text is a word of its own."""
        text = {sample.uid: sample.text for sample in self.experiment.examples.samples}
        asked = [(text[d.sample], re.sub(r"\W", "_", d.head or "")) for d in self.experiment.examples.decisions]
        return [f"{said} head_{head}" if head else said for said, head in asked]

    def _controls(self) -> tuple[str, ...]:
        """Those asked for that this experiment can have; `left_out` says which it cannot."""
        wanted = [name for name in (CONTROL_TASK, PERMUTED) if name in self.experiment.controls]
        found = tuple(name for name in wanted if name != CONTROL_TASK or self.control_labels is not None)
        return (*found, COPY_CEILING) if self.given.any() else found

    @property
    def left_out(self) -> str | None:
        """Why there is no control task although one was asked for."""
        if CONTROL_TASK not in self.experiment.controls or self.control_labels is not None:
            return None
        needed = f"training needs all {self.y.max() + 1}" if self.kind == "classes" else "every split needs two"
        return (
            f"no control task: its labels go by type, and the {len(self.y)} decisions of "
            f"task={self.experiment.task.name} have {len(set(self._types))} types, and {needed} labels of them"
        )

    def undecided(self, source: Source) -> str | None:
        """Which categories are too rare for an output of their own, where one row serves several."""
        positions = dict.fromkeys(key.position for key in self.experiment.keys)
        if not any(source.headed(position) for position in positions):
            return None
        names = np.asarray([decision.head for decision in self.experiment.examples.decisions])
        fits = [self.problem("", seed) for seed in self.seeds]
        live = [set(trained(names, fit.y, fit.train, fit.val).tolist()) for fit in fits]
        rare = sorted(set(names.tolist()).difference(set.intersection(*live)))
        if not rare:
            return None
        return (
            f"{len(rare)} of {len(set(names.tolist()))} categories lack a label in training or validation of some "
            f"seed ({few(rare, NAMED)}); where each has its own output, these are undecided and count half; "
            f"{MORE_OF_EACH}"
        )

    @property
    def _types(self) -> list[str | None]:
        return [decision.type for decision in self.experiment.examples.decisions]

    @cached_property
    def control_labels(self) -> np.ndarray | None:
        """One label for each type of decision, so that all rows have about the real labels' distribution (Hewitt and
        Liang 2019 draw them; a frequent type then decides how lopsided the labels are).

        None where decisions have no types, or too few for two labels in every split or for every class in training.
        """
        counts = Counter(self._types)
        if None in counts or len(counts) < 2:
            return None
        names = sorted(counts, key=digest)
        ends = np.cumsum([counts[name] for name in names])
        place = (ends - np.asarray([counts[name] for name in names]) / 2).astype(int)
        label = dict(zip(names, np.sort(self.y)[place], strict=True))
        found = self._opposed(np.asarray([label[name] for name in self._types]))
        told = [
            np.unique(found[split == name]) for split in self.split_of.values() for name in ("train", "val", "test")
        ]
        classes = int(self.y.max()) + 1 if self.kind == "classes" else 2
        learnt = [len(np.unique(found[split == "train"])) for split in self.split_of.values()]
        return found if min(map(len, told)) > 1 and min(learnt) >= classes else None

    def _opposed(self, y: np.ndarray) -> np.ndarray:
        """The halves of a contrast pair have opposite labels, whatever they are: those of the + row decide."""
        decisions = self.experiment.examples.decisions
        plus = {decision.pair: y[i] for i, decision in enumerate(decisions) if decision.side > 0}
        return np.asarray([1 - plus[d.pair] if d.side < 0 else y[i] for i, d in enumerate(decisions)])

    def truth(self, control: str) -> np.ndarray:
        """The labels that a control is scored on [N]: its own, except where it was trained on shuffled real ones."""
        if control == CONTROL_TASK:
            assert self.control_labels is not None
            return self.control_labels
        return self.y

    def log_shares(self, control: str, seed: int) -> np.ndarray:
        """Log share of each label among the training rows [C]; half a row is added to each."""
        y = self.truth(control)
        counts = np.bincount(y[self.place(control, seed) == "train"], minlength=int(y.max()) + 1) + 0.5
        return np.log(counts / counts.sum())

    def problem(self, control: str, seed: int) -> Problem:
        """Labels of test rows are blanked: no probe sees them. Permuted labels of a picture stay together: one by one
        they would average out within it, and such probes would keep closer to chance than chance does."""
        split = self.place(control, seed)
        y, seen = self.truth(control).copy(), np.isin(split, ("train", "val"))
        if control == PERMUTED:
            y[seen] = y[seen][handed_on(self.groups[seen], self.uids[seen], np.random.default_rng(seed))]
            y = self._opposed(y)
        y[~seen] = 0
        return Problem(y, split == "train", split == "val", self.kind, seed=seed)

    def trials(
        self, key: Key | None, readout: Readout, controls: Sequence[str] = ("",), features: str = "single"
    ) -> list[Trial]:
        """All controls and seeds of a key in one call, so that the probe can share work among them."""
        alone = readout.heads is not None  # each output is of one type, which has one label in a control task
        places = [(c, seed) for c in controls for seed in self.seeds if not (alone and c == CONTROL_TASK)]
        problems = [self.problem(*place) for place in places]
        return self.fitted(readout, problems, [Trial.blank(key, *place, features) for place in places])

    def shown(self, control: str, key: Key, readout: Readout, features: str = "single") -> list[Trial]:
        """The real labels on the rows of a control that read something else."""
        blanks = [Trial.blank(key, control, seed, features) for seed in self.seeds]
        return self.fitted(readout, [self.problem("", seed) for seed in self.seeds], blanks)

    def fitted(
        self, readout: Readout, problems: Sequence[Problem], blanks: Sequence[Trial], probe: Probe | None = None
    ) -> list[Trial]:
        """By the experiment's probe unless another is given; or kept from an earlier sweep."""
        asked = Asked(probe or self.experiment.probe, readout, problems, blanks)
        return self.kept(asked, asked.fitted)

    def kept(self, asked: Asked, make: Callable[[], list[Trial]]) -> list[Trial]:
        """What `make` gives, which nothing but what is asked decides; or kept from an earlier sweep."""
        return self._keep(asked, make) if self._keep else make()
