"""Baselines that read no layer, as trials: the words of the question, covariates, and the commonest answer."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from mllm_probe.fitting.readout import Readout
from mllm_probe.fitting.trials import Bench, Trial, fitted
from mllm_probe.probes.logistic import Logistic
from mllm_probe.probes.majority import Majority
from mllm_probe.probes.solving.question_only import bag_of_words
from mllm_probe.records.problems import LayerData
from mllm_probe.records.protocols import Probe

QUESTION_ONLY = "question_only"


def baselines(bench: Bench) -> Mapping[str, Callable[[], list[Trial]]]:
    """{name: what fits it}: two in every run, and one for each covariate."""
    found = {QUESTION_ONLY: partial(_question_only, bench), "majority": partial(_majority, bench)}
    return found | {f"covariate.{i}": partial(_covariate, bench, name) for i, name in enumerate(bench.strata)}


def _question_only(bench: Bench) -> list[Trial]:
    return _words(bench, bag_of_words(bench.texts), QUESTION_ONLY)


def _covariate(bench: Bench, name: str) -> list[Trial]:
    """What the strata of a covariate say by themselves."""
    strata = bench.strata[name]
    return _words(bench, (strata[:, None] == np.unique(strata)).astype(np.float64), f"covariate:{name}")


def _words(bench: Bench, rows: np.ndarray, control: str) -> list[Trial]:
    return _fitted(bench, _words_probe(bench.kind), rows, control, "words")


def _words_probe(kind: str) -> Probe:
    if kind != "number":
        return Logistic()
    from mllm_probe.probes.ridge import Ridge

    return Ridge()


def _majority(bench: Bench) -> list[Trial]:
    return _fitted(bench, Majority(), np.zeros((len(bench.y), 0)), "", "none")


def _fitted(bench: Bench, probe: Probe, rows: np.ndarray, control: str, features: str) -> list[Trial]:
    import torch

    problems = [bench.problem("", seed) for seed in bench.seeds]
    blanks = [Trial.blank(None, control, seed, features) for seed in bench.seeds]
    return fitted(probe, Readout.of(LayerData(torch.from_numpy(rows))), problems, blanks)
