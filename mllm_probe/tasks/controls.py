"""The same decisions about other inputs: no picture, a blank one, the picture of somebody else. Knows no model.

Labels, groups and texts stay, so that whatever a control still scores was not read from the picture it was asked about.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

from mllm_probe.errors import DataError
from mllm_probe.types import Examples, Sample

Shown = tuple[tuple[Path, ...], tuple[str, ...]]  # files and digests of the pictures in a prompt


def without_picture(examples: Examples) -> Examples:
    return _showing(examples, lambda _: ((), ()))


def blank_picture(examples: Examples, blank: Callable[[Path], tuple[Path, str]]) -> Examples:
    """`blank` gives the file and digest of an empty picture as large as the one it stands in for."""

    def shown(sample: Sample) -> Shown:
        pairs = [blank(path) for path in sample.images]
        return tuple(path for path, _ in pairs), tuple(digest for _, digest in pairs)

    return _showing(examples, shown)


def shuffled_picture(examples: Examples, seed: int) -> Examples:
    """Every picture is replaced by another one of its fold, each serving once. Raises DataError for a lone picture."""
    group = {decision.sample: decision.group for decision in examples.decisions}
    by_fold: dict[int, dict[Shown, None]] = defaultdict(dict)
    for sample in examples.samples:
        by_fold[examples.folds[group[sample.uid]]][sample.images, sample.digests] = None
    other: dict[tuple[str, ...], Shown] = {}
    for fold, found in sorted(by_fold.items()):
        order = list(found)
        if len(order) < 2:
            raise DataError(
                f"controls=[shuffled_picture] needs two pictures in every fold, and fold {fold} has {len(order)}; take "
                "more pictures (data.n) or fewer splits.blocks"
            )
        Random(f"shuffled/{seed}/{fold}").shuffle(order)
        other |= {mine[1]: order[(i + 1) % len(order)] for i, mine in enumerate(order)}  # one cycle: nobody keeps it
    return _showing(examples, lambda sample: other[sample.digests])


def _showing(examples: Examples, shown: Callable[[Sample], Shown]) -> Examples:
    changed = {sample.uid: sample.showing(*shown(sample)) for sample in examples.samples}
    decisions = tuple(replace(d, sample=changed[d.sample].uid) for d in examples.decisions)
    samples = {sample.uid: sample for sample in changed.values()}
    return replace(examples, samples=tuple(samples.values()), decisions=decisions)
