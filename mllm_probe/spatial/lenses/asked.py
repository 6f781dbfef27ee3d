"""Whose attention is read: statements about drawn test pictures, and the object that a true one is about. Knows masks
and no model."""

from collections import Counter
from dataclasses import dataclass
from random import Random

import numpy as np

from mllm_probe.errors import DataError
from mllm_probe.experiment.experiment import Experiment
from mllm_probe.records.samples import Sample
from mllm_probe.tasks.splits import TEST


@dataclass(frozen=True)
class Statements:
    """N statements about G pictures. `groups` [N] are the pictures' groups, `owner` [N] is which of the G prompts
    `neutral` is about the same picture; `placed` [G] are its tokens with a place, and `objects` [N] the share of every
    picture token's cell that the statement's object covers, [T] float32, None where it is about no object there."""

    samples: tuple[Sample, ...]
    groups: np.ndarray
    categories: tuple[str, ...]  # [N], "" for none
    objects: tuple[np.ndarray | None, ...]
    neutral: tuple[Sample, ...]
    owner: np.ndarray
    placed: tuple[np.ndarray, ...]


def statements_of(experiment: Experiment, pictures: int | None, seed: int, neutral: str) -> Statements:
    """Of each of so many test pictures, drawn by `seed`, all statements that ask one thing about it alone. Raises
    DataError, and ModelError for a model whose picture tokens have no place."""
    examples = experiment.examples
    asked = Counter(decision.sample for decision in examples.decisions)
    one = {each.sample: each for each in examples.decisions if asked[each.sample] == 1 and not each.side}
    tested = {uid for uid, each in one.items() if examples.folds[each.group] == TEST}
    samples = [each for each in examples.samples if each.uid in tested and len(each.digests) == 1]
    groups = sorted({one[each.uid].group for each in samples})
    drawn = set(groups if pictures is None else Random(f"attention/{seed}").sample(groups, min(pictures, len(groups))))
    samples = [each for each in samples if one[each.uid].group in drawn]
    if len(drawn) < 2:
        raise DataError(
            f"task={experiment.task.name} has prompts that ask one thing about {len(drawn)} group(s) of test pictures, "
            "and lens=[attention] needs 2; take more pictures, or a task that asks one thing in each prompt"
        )
    digests = list(dict.fromkeys(each.digests[0] for each in samples))
    about = [experiment.places.pictures[digest] for digest in digests]
    names = [one[each.uid].head or "" for each in samples]
    return Statements(
        tuple(samples),
        np.unique([one[each.uid].group for each in samples], return_inverse=True)[1],
        tuple(names),
        tuple(_object(experiment, each, name) for each, name in zip(samples, names, strict=True)),
        tuple(Sample.of([picture], neutral, {}) for picture in about),
        np.asarray([digests.index(each.digests[0]) for each in samples]),
        tuple(experiment.places.grid(picture).placed for picture in about),
    )


def _object(experiment: Experiment, sample: Sample, category: str) -> np.ndarray | None:
    """[T] float32, 0 for tokens without a place; None where the category is not in the picture, or too small to be
    seen on its grid."""
    places = experiment.places
    if not category or experiment.collection.masks is None:
        return None
    found = places.shares(places.pictures[sample.digests[0]]).get(category)
    whole = None if found is None else np.nan_to_num(found)
    return whole if whole is not None and whole.any() else None
