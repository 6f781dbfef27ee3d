"""Trials that fit no layer: baselines (the words of the question, covariates, the most frequent answer) and the answers
of the model itself."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from mllm_probe.fitting.readout import Readout, Source
from mllm_probe.fitting.trials import Probing, Trial
from mllm_probe.probes.logistic import Logistic
from mllm_probe.probes.majority import Majority
from mllm_probe.records.problems import LayerData
from mllm_probe.records.protocols import Probe
from mllm_probe.records.score import LENS, ZERO_SHOT
from mllm_probe.records.sites import Key

QUESTION_ONLY = "question_only"
FEATURES = "answer"  # of trials that the model itself answers


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
    return probing.fitted(Readout.of(LayerData(torch.from_numpy(rows))), problems, blanks, probe)


def bag_of_words(texts: Sequence[str]) -> np.ndarray:
    """[N, V] of 0 and 1: which of all words, in the order of the alphabet, a text has; single letters are words.

    As scikit-learn's binary CountVectorizer, whose import takes longer than all baselines.
    """
    found = [set(re.findall(r"\w+", text.lower())) for text in texts]
    place = {word: i for i, word in enumerate(sorted(set().union(*found)))}
    rows = np.zeros((len(texts), len(place)))
    for row, words in zip(rows, found, strict=True):
        row[[place[word] for word in words]] = 1
    return rows


def answers(probing: Probing, source: Source) -> Iterator[list[Trial]]:
    """One list of trials a block; those of the top, where it is read, once more as the baseline of no layer."""
    for key in probing.experiment.answer_keys:
        logits = said(probing, source, key)
        yield _trials(probing, Key(key.site, "last"), "", LENS, logits)
        if key.site.layer == probing.experiment.anatomy.blocks["lm"]:
            yield _trials(probing, None, ZERO_SHOT, FEATURES, logits)


def said(probing: Probing, source: Source, key: Key) -> np.ndarray:
    """The model's answers at a key as a probe's logits: log-odds [N] of two labels, a logit a class [N, C] of more."""
    logits = source.readout(key).data.rows[:].double().numpy()
    return ((logits[:, 0] - logits[:, 1]) if probing.kind == "binary" else logits).astype(np.float32)


def _trials(probing: Probing, key: Key | None, control: str, probe: str, logits: np.ndarray) -> list[Trial]:
    """They need no seed, but validation rows differ by it."""
    facts = {"converged": 1.0, "log_odds": 1.0, "answer": 1.0}
    return [Trial(key, control, probe, seed, logits, facts, {}, FEATURES) for seed in probing.seeds]
