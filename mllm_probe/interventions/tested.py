"""On which prompts interventions are tried: those about test pictures, with what is right and how long they are.

Labels are for scoring alone: no intervention is told of them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from mllm_probe.errors import ConfigError, DataError
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.fitting.trials import Probing
from mllm_probe.records.samples import Sample
from mllm_probe.tasks.answer_words import bound


@dataclass(frozen=True)
class Tested:
    """Prompts [N], {uid: label, group} of each, and the two answer words, that of label 1 first."""

    samples: tuple[Sample, ...]
    labels: Mapping[str, int]
    groups: Mapping[str, str]
    words: tuple[str, ...]

    def of(self, uids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Labels [N] and groups [N]."""
        return np.asarray([self.labels[uid] for uid in uids]), np.asarray([self.groups[uid] for uid in uids])

    def kept(self, uids: frozenset[str]) -> "Tested":
        """Some of them alone."""
        return Tested(tuple(one for one in self.samples if one.uid in uids), self.labels, self.groups, self.words)


def tested(experiment: Experiment, probing: Probing, pictures: int | None, seed: int) -> Tested:
    """Of each test picture all prompts that ask one thing, whose answer is a word; `pictures` of them drawn by `seed`.

    Raises ConfigError, DataError.
    """
    if probing.kind != "binary":
        raise ConfigError(
            f"task={experiment.task.name} asks for {probing.kind}, and effects are told of answers by two words; take "
            "a task of yes and no, such as task=entailment"
        )
    asked = Counter(decision.sample for decision in experiment.examples.decisions)
    decisions = [
        one
        for one, test in zip(experiment.examples.decisions, probing.test, strict=True)
        if test and asked[one.sample] == 1 and not one.side
    ]
    if not decisions:
        raise DataError(
            f"no prompt of task={experiment.task.name} asks one thing about a test picture, so no answer is right or "
            "wrong; take task=entailment, or another that asks one thing in each prompt"
        )
    groups = sorted({one.group for one in decisions})
    drawn = set(groups if pictures is None else Random(f"intervene/{seed}").sample(groups, min(pictures, len(groups))))
    chosen = {one.sample: one for one in decisions if one.group in drawn}
    return Tested(
        tuple(sample for sample in experiment.examples.samples if sample.uid in chosen),
        {uid: int(one.label) for uid, one in chosen.items()},
        {uid: one.group for uid, one in chosen.items()},
        bound(experiment.extract.answers, experiment.examples),
    )
