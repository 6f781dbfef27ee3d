"""Classes that some split lacks, left out with their rows where the user says so (task.rare=drop)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from mllm_probe.errors import DataError, count, few
from mllm_probe.records.samples import Examples
from mllm_probe.tasks.splits import SPLITS, Folds

RARE = REFUSE, DROP = "refuse", "drop"


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
