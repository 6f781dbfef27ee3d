"""What some split lacks, left out with its rows: classes where the user says so (task.rare=drop), and categories that
have outputs of their own, unless the user keeps them (task.rare=keep)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mllm_probe.errors import DataError, count, few
from mllm_probe.records.problems import outputs_apart, row_offsets, trained
from mllm_probe.records.samples import Examples
from mllm_probe.tasks.splits import SPLITS, Folds

RARE = REFUSE, DROP = "refuse", "drop"
KEEP = "keep"


def without_rare(examples: Examples, folds: Folds, seeds: Sequence[int]) -> Examples:
    """The decisions about classes that every split of every seed holds, numbered anew; other kinds as they are. Raises
    DataError where fewer than two are left."""
    rare = _lacking(examples, folds, seeds)
    if not rare:
        return examples
    kept = [code for code in range(len(examples.names)) if code not in rare]
    if len(kept) < 2:
        raise DataError(
            f"task.rare=drop leaves {len(kept)} of {len(examples.names)} classes, because each other class is missing "
            "in some split of some seed, and two are needed; add pictures of each class, or merge rare ones with "
            "task.labels"
        )
    anew = {code: place for place, code in enumerate(kept)}
    decisions = tuple(replace(d, label=anew[int(d.label)]) for d in examples.decisions if d.label in anew)
    asked = {decision.sample for decision in decisions}
    gone = Counter(examples.names[int(d.label)] for d in examples.decisions if d.label in rare)
    rows = count(sum(gone.values()), "row")
    said = f"task.rare=drop leaves out {rows} of {len(gone)} classes that some split lacks: {few(sorted(gone), 6)}"
    return replace(
        examples,
        samples=tuple(sample for sample in examples.samples if sample.uid in asked),
        decisions=decisions,
        names=tuple(examples.names[code] for code in kept),
        skipped=(*examples.skipped, said),
    )


def _lacking(examples: Examples, folds: Folds, seeds: Sequence[int]) -> set[int]:
    if examples.kind != "classes":
        return set()
    codes, found = set(range(len(examples.names))), set()
    for seed in seeds:
        split = folds.splits(examples.folds, seed)
        held = {(split[decision.group], int(decision.label)) for decision in examples.decisions}
        found |= {code for code in codes for name in SPLITS if (name, code) not in held}
    return found


def without_unlearnt(examples: Examples, folds: Folds, seeds: Sequence[int], positions: Sequence[str]) -> Examples:
    """The decisions about categories that a probe can learn with every seed: both labels are in training, and something
    is there to validate on. All, where one output serves every category at all `positions`, or where too few are left
    for splits that can be judged.

    A category that cannot be learnt would count as undecided, and so half, in every score.
    """
    apart = any(outputs_apart(examples, position, row_offsets(examples, position)) for position in positions)
    rare = _unlearnt(examples, folds, seeds) if apart and examples.kind == "binary" else set()
    if not rare:
        return examples
    decisions = tuple(decision for decision in examples.decisions if decision.head not in rare)
    asked = {decision.sample for decision in decisions}
    kept = tuple(sample for sample in examples.samples if sample.uid in asked)
    found = replace(examples, samples=kept, decisions=decisions, unlearnt=tuple(sorted(rare)))
    try:
        folds.check(found, seeds)
    except DataError:
        return examples
    return found


def _unlearnt(examples: Examples, folds: Folds, seeds: Sequence[int]) -> set[str]:
    own = [one for one in examples.decisions if not one.given and not one.template]
    heads, y = np.asarray([one.head for one in own]), np.asarray([one.label for one in own])
    taught = {str(one.head) for one in examples.decisions}
    everything = set(taught)
    for seed in seeds:
        split_of = folds.splits(examples.folds, seed)
        split = np.asarray([split_of[one.group] for one in own])
        taught &= set(trained(heads, y, split == "train", split == "val").tolist())
    return everything - taught
