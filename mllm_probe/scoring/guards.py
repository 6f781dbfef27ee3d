"""What cannot be valid: refused as soon as settings, data set or examples show it, or else found in the scores, where
guards=note reports it and goes on.

Remarks are what a reader of the scores should know of the fits: constant columns, ties, fits that did not converge.
Knows where a position must differ.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from mllm_probe.config.report import ReportSettings
from mllm_probe.config.run import RunConfig
from mllm_probe.data.coco import Selection
from mllm_probe.errors import ConfigError, ProbeError
from mllm_probe.experiment.examples import of_file
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.fitting.baseline_trials import said
from mllm_probe.fitting.headline_metric import check_shown, headline
from mllm_probe.fitting.readout import Readout, Source
from mllm_probe.fitting.trials import NAMED, Probing, Trial
from mllm_probe.probes.majority import Majority
from mllm_probe.records.problems import KINDS
from mllm_probe.records.protocols import Picking, Reporter
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


class Remarks:
    """Trials are given key by key; `found` {remark: the keys and integrations that it holds of}."""

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self.found: dict[str, list[str]] = {}

    def add(self, trials: Sequence[Trial]) -> None:
        for remark in remarks_on(trials, self._scoring.probing.kind):
            self.found.setdefault(remark, []).append(_subject(trials))

    def tell(self, keys: int, source: Source, reporter: Reporter) -> None:
        """All of it, and what could not be fitted. `keys`: how many there are, with integrations."""
        probing = self._scoring.probing
        for remark, named in self.found.items():
            rest = "" if len(named) <= NAMED else f" and {len(named) - NAMED} more"
            reporter.note(f"at {len(named)} of {keys} keys {remark}: {', '.join(named[:NAMED])}{rest}")
        for sentence in (probing.left_out, probing.undecided(source), *self._scoring.bounds_said()):
            if sentence:
                reporter.note(sentence)


def remarks_on(trials: Sequence[Trial], kind: str) -> list[str]:
    """What a reader of the scores should know of the fits of a key or an integration."""
    if not trials or trials[0].key is None or trials[0].control or trials[0].features == "answer":
        return []
    found = {
        "some columns are constant in training and carry no information": any(
            trial.facts.get("constant_columns", 0) for trial in trials
        ),
        "the probe predicts the same for every row": any(
            np.ptp(trial.logits[trial.read], axis=0).max() == 0 for trial in trials
        ),
        "some decisions are ties and count half": kind != "number" and any(map(_tied, trials)),
        "some fits did not converge": not all(trial.facts["converged"] for trial in trials),
    }
    return [remark for remark, holds in found.items() if holds]


def _tied(trial: Trial) -> bool:
    """Whether some decisions are ties, though not all rows say the same."""
    said = trial.logits[trial.read]
    if np.ptp(said, axis=0).max(initial=0) == 0:
        return False
    return bool((said == 0).any() if said.ndim == 1 else ((said == said.max(1, keepdims=True)).sum(1) > 1).any())


def _subject(trials: Sequence[Trial]) -> str:
    key, features = trials[0].key, trials[0].features
    return f"{features} at {key.position}" if key and features != "single" else str(key)


def check_reads(experiment: Experiment, config: RunConfig) -> None:
    """Refuse what the probe cannot read as far as the settings tell, before a picture is opened. Raises ConfigError."""
    probe, kind = experiment.probe, _kind(experiment, config)
    if isinstance(experiment.task, Picking):  # whose probes have an output for each category
        if "labels" not in probe.kinds:
            raise ConfigError(
                f"probe={probe.name} has one output, and task={experiment.task.name} one for each category; choose "
                "probe=ridge"
            )
        return
    if kind in KINDS:
        _check_kind(experiment, "binary" if kind == "labels" else kind)
    ragged = [position for position in experiment.extract.positions if position.startswith("tokens:")]
    if probe.reads == "tokens" and len(ragged) < len(experiment.extract.positions):
        raise ConfigError(
            f"probe={probe.name} reads a row for every token; set extract.positions=[tokens:text], tokens:image or "
            f"tokens:all instead of {experiment.extract.positions}"
        )
    if ragged and probe.reads != "tokens":
        raise ConfigError(
            f"position {ragged[0]} holds a row for every token, and probe={probe.name} reads one row a decision; "
            "choose probe=attention, or a pooled position such as mean_text"
        )
    _check_pairs(
        experiment, bool(getattr(experiment.task, "answers", True))
    )  # a task without that setting says so later
    if experiment.sweep.analyses:
        from mllm_probe.scoring.analyses import check_wishes

        check_wishes(experiment)


def _check_pairs(experiment: Experiment, pairs: bool) -> None:
    if experiment.probe.reads == "pairs" and not pairs:
        raise ConfigError(
            f"probe={experiment.probe.name} reads contrast pairs, and task={experiment.task.name} asks each question "
            "once; set task.answers=[Yes,No], which task=entailment takes"
        )


def _kind(experiment: Experiment, config: RunConfig) -> str | None:
    """Of the task's labels, as far as settings tell, or the data set before a picture is opened."""
    kind_of, labels = getattr(experiment.task, "kind_of", None), getattr(experiment.dataset, "labels", None)
    alone = config.test.get("dataset") is None  # else settings may name labels of the other data set
    if alone and kind_of and labels and (found := labels(Selection(**asdict(config.data)))) is not None:
        with of_file(Path(str(getattr(experiment.dataset, "file", None) or "")).name):
            return str(kind_of(found))
    return getattr(experiment.task, "kind", None)


def check_regions_run(folder: str | None, experiment: Experiment) -> None:
    """That the run of task=regions which a study is to tell read its model. Raises ConfigError, DataError."""
    if folder is not None:
        from mllm_probe.scoring.turns_global import check_regions_run as check

        check(folder, experiment.identity.digest)


def check_probe(experiment: Experiment, shown: ReportSettings) -> None:
    """Refuse what the probe cannot read before anything is extracted for it. Raises ConfigError."""
    _check_kind(experiment, experiment.examples.kind)
    _check_outputs(experiment)
    if experiment.sweep.analyses:
        from mllm_probe.scoring.analyses import check_analyses

        check_analyses(experiment)
    headline(probing := Probing(experiment))
    check_shown(probing, shown)
    _check_pairs(experiment, any(decision.side for decision in experiment.examples.decisions))


def _check_outputs(experiment: Experiment) -> None:
    """Where several decisions read one state, each category needs an output of its own, which few probes have."""
    if "labels" in experiment.probe.kinds:
        return
    source = Source(experiment)
    read = (key for each in (experiment, *experiment.variants) for key in (*each.keys, *each.integrated))
    for position in dict.fromkeys(key.position for key in read):
        if source.headed(position):
            raise ConfigError(
                f"at {position} decisions about several categories read the same state, and probe="
                f"{experiment.probe.name} has one output for all; choose probe=logistic, ridge or mlp, or other "
                "positions"
            )


def check_question(experiment: Experiment, reporter: Reporter) -> None:
    """Refuse questions whose words alone give the label, before the model is loaded. With guards=note the sweep says
    it. Raises ProbeError."""
    if experiment.guards == "stop":
        Guards(Probing(experiment), reporter).question()


def _check_kind(experiment: Experiment, kind: str) -> None:
    probe = experiment.probe
    if kind not in probe.kinds or kind == "labels":
        raise ConfigError(
            f"probe={probe.name} fits targets of kind {', '.join(probe.kinds)}, and task={experiment.task.name} has "
            f"targets of kind {kind}; choose another probe, for numbers probe=ridge"
        )
