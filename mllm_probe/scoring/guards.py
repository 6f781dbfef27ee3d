"""Stops a run that cannot be valid, or with guards=note reports it. Knows where a position must differ."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mllm_probe.errors import ProbeError
from mllm_probe.fitting.model_answers import said
from mllm_probe.fitting.readout import Readout, Source
from mllm_probe.fitting.trials import Probing, Trial
from mllm_probe.probes.majority import Majority
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.sites import Key, before_question
from mllm_probe.scoring.aggregate import Scoring
from mllm_probe.scoring.alarms import constant_predictions, identical_vectors, question_decides, worse_than_chance
from mllm_probe.stats.intervals import of
from mllm_probe.stats.measures import measure
from mllm_probe.tasks.answer_words import answered, bound

SURE = 0.999  # of the interval that must lie below chance: one in 2,000 models that guess is stopped


@dataclass(frozen=True)
class Guards:
    """Checks of one sweep; `told` raises ProbeError, or notes the sentence and keeps it in `said`."""

    probing: Probing
    reporter: Reporter
    said: list[str] = field(default_factory=list)

    def first(self, scoring: Scoring, source: Source) -> None:
        """What can be seen before anything is fitted."""
        self.question()
        self.vectors(source)
        self.answers(scoring, source)

    def question(self) -> None:
        """Do the words alone give the label?"""
        probing = self.probing
        if probing.kind == "number":
            return
        split = probing.split_of[probing.seeds[0]]
        self.told(question_decides(probing.texts, probing.y.tolist(), split == "train", probing.test))

    def add(self, trials: Sequence[Trial]) -> None:
        """Probes that say the same of every row, above the embeddings and behind what is asked."""
        real = [trial for trial in trials if trial.key and not trial.control and trial.features == "single"]
        if real and real[0].key and _sees(real[0].key) and not isinstance(self.probing.experiment.probe, Majority):
            rows = real[0].read
            self.told(constant_predictions(np.stack([trial.logits[rows] for trial in real]), str(real[0].key)))

    def vectors(self, source: Source) -> None:
        """At the highest block that is read: statements with other labels must not have the same state."""
        decisions = self.probing.experiment.examples.decisions
        keys = [key for key in self.probing.experiment.keys if _sees(key) and key.site.part == "block"]
        top = max((key.site.layer for key in keys), default=0)
        for key in keys:
            if key.site.layer < top or key.position.startswith("tokens:"):
                continue
            readout: Readout = source.readout(key)
            asked = [decisions[i] for i in readout.who]
            labels, groups = [d.label for d in asked], [d.group for d in asked]
            rows = readout.data.rows[:].float().numpy()
            self.told(identical_vectors(rows, labels, groups, [d.sample for d in asked], str(key)))

    def answers(self, scoring: Scoring, source: Source) -> None:
        """Are the model's own answers worse than chance, as exchanged words make them?"""
        probing, experiment = self.probing, self.probing.experiment
        trained = experiment.model.weights != "random"
        for key in experiment.answer_keys if trained else ():
            if key.site.layer == experiment.anatomy.blocks["lm"]:
                logits = said(probing, source, key)
                rows = probing.test & ~np.isnan(logits.reshape(len(logits), -1)[:, 0])
                value = float(measure("auroc", logits[rows], probing.y[rows], kind=probing.kind)[0])
                between = of("auroc", logits[None, rows], probing.y[rows], scoring.draws(rows), probing.kind, SURE)
                words = bound(experiment.extract.answers, experiment.examples)
                self.told(worse_than_chance(value, between.high, answered(words, experiment.examples)))

    def told(self, sentence: str | None) -> None:
        if sentence is None:
            return
        if self.probing.experiment.guards == "stop":
            raise ProbeError(f"{sentence}; guards=note continues anyway")
        self.said.append(sentence)
        self.reporter.note(f"guard: {sentence}")


def _sees(key: Key) -> bool:
    """Whether a key lies above the embeddings and behind the words that differ between statements."""
    return key.site.tower == "lm" and key.site.layer > 0 and not before_question(key.position)
