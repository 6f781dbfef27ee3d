"""Baselines that read no layer, as trials: the words of the question, covariates, and the most frequent answer."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from mllm_probe.fitting.readout import Readout
from mllm_probe.fitting.trials import Probing, Trial, fitted
from mllm_probe.probes.logistic import Logistic
from mllm_probe.probes.majority import Majority
from mllm_probe.probes.solving.question_only import bag_of_words
from mllm_probe.records.problems import LayerData
from mllm_probe.records.protocols import Probe

QUESTION_ONLY = "question_only"


def baselines(probing: Probing) -> Mapping[str, Callable[[], list[Trial]]]:
    """{name: what fits it}: two in every run, and one for each covariate."""
    found = {QUESTION_ONLY: partial(_question_only, probing), "majority": partial(_majority, probing)}
    return found | {f"covariate.{i}": partial(_covariate, probing, name) for i, name in enumerate(probing.strata)}


def _question_only(probing: Probing) -> list[Trial]:
    return _words(probing, bag_of_words(probing.texts), QUESTION_ONLY)


def _covariate(probing: Probing, name: str) -> list[Trial]:
    """What the strata of a covariate say by themselves."""
    strata = probing.strata[name]
    return _words(probing, (strata[:, None] == np.unique(strata)).astype(np.float64), f"covariate:{name}")


def _words(probing: Probing, rows: np.ndarray, control: str) -> list[Trial]:
    return _fitted(probing, _words_probe(probing.kind), rows, control, "words")


def _words_probe(kind: str) -> Probe:
    if kind != "number":
        return Logistic()
    from mllm_probe.probes.ridge import Ridge

    return Ridge()


def _majority(probing: Probing) -> list[Trial]:
    return _fitted(probing, Majority(), np.zeros((len(probing.y), 0)), "", "none")


def _fitted(probing: Probing, probe: Probe, rows: np.ndarray, control: str, features: str) -> list[Trial]:
    import torch

    problems = [probing.problem("", seed) for seed in probing.seeds]
    blanks = [Trial.blank(None, control, seed, features) for seed in probing.seeds]
    return fitted(probe, Readout.of(LayerData(torch.from_numpy(rows))), problems, blanks)
