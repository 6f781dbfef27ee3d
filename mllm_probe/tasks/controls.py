"""The same decisions about other inputs: no picture, a blank one, the picture of somebody else. Knows no model.

Labels, groups and texts stay, so that whatever a control still scores was not read from the picture it was asked about.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

from mllm_probe.data.duplicates import joined
from mllm_probe.errors import DataError
from mllm_probe.records.samples import Examples, Sample

Digests = tuple[str, ...]  # of the pictures in a prompt; equal bytes are one picture
Shown = tuple[tuple[Path, ...], Digests]  # their files, too


def without_picture(examples: Examples) -> Examples:
    return _showing(examples, lambda _: ((), ()))


def blank_picture(examples: Examples, blank: Callable[[Path], tuple[Path, str]]) -> Examples:
    """`blank` gives the file and digest of an empty picture as large as the one it stands in for."""

    def shown(sample: Sample) -> Shown:
        pairs = [blank(path) for path in sample.images]
        return tuple(path for path, _ in pairs), tuple(digest for _, digest in pairs)

    return _showing(examples, shown)


def shuffled_picture(examples: Examples, seed: int, alike: Mapping[str, str] | None = None) -> Examples:
    """Every picture is replaced by one of another group of its fold, each serving once.

    Groups are those of the decisions and, where given, {digest of a picture: its group} of `alike`. Where more than
    half of a fold's pictures are one group, as few of them as can be are shown one of their own. Raises DataError for
    a fold of one group.
    """
    group, by_fold = _groups(examples, alike or {}), _by_fold(examples)
    other: dict[Digests, Shown] = {}
    for fold, found in sorted(by_fold.items()):
        if len({group[mine] for mine in found}) < 2:
            raise DataError(
                f"controls=[shuffled_picture] needs two groups of pictures in every fold, and fold {fold} has "
                f"{len(found)} pictures of one group; take more pictures (data.n) or fewer splits.blocks"
            )
        taken = _exchanged(list(found), group, Random(f"shuffled/{seed}/{fold}"))
        other |= {mine: (found[its], its) for mine, its in taken.items()}
    return _showing(examples, lambda sample: other[sample.digests])


def shares(before: Examples, after: Examples, alike: Mapping[str, str]) -> dict[str, float | None]:
    """Of the decisions, the share that is shown a picture of its own group, and, of those whose text was asked of the
    shown picture too, the share with the same answer (None: there are no such texts)."""
    group = _groups(before, alike)
    own, shown = ({sample.uid: sample for sample in each.samples} for each in (before, after))
    label = {(own[d.sample].uid, d.mark, d.head): d.label for d in before.decisions}
    kept, same = [], []
    for mine, now in zip(before.decisions, after.decisions, strict=True):
        kept.append(group[own[mine.sample].digests] == group[shown[now.sample].digests])
        if (asked := label.get((now.sample, mine.mark, mine.head))) is not None:
            same.append(asked == mine.label)
    return {"own_group": sum(kept) / len(kept), "same_answer": sum(same) / len(same) if same else None}


def _groups(examples: Examples, alike: Mapping[str, str]) -> dict[Digests, str]:
    """{pictures of a prompt: the component they belong to}."""
    shown = {sample.uid: sample.digests for sample in examples.samples}
    pairs = [("|".join(shown[d.sample]), f"group {d.group}") for d in examples.decisions]
    pairs += [("|".join(own), f"alike {alike.get(one, one)}") for own in shown.values() for one in own]
    component = joined((), pairs)
    return {own: component["|".join(own)] for own in shown.values()}


def _by_fold(examples: Examples) -> dict[int, dict[Digests, tuple[Path, ...]]]:
    """{fold: {digests: files}}; one fold for all where the rows of a picture lie in several (splits.unit=row)."""
    samples = {sample.uid: sample for sample in examples.samples}
    folds: dict[Digests, set[int]] = defaultdict(set)
    for decision in examples.decisions:
        folds[samples[decision.sample].digests].add(examples.folds[decision.group])
    apart = max(map(len, folds.values())) == 1
    found: dict[int, dict[Digests, tuple[Path, ...]]] = defaultdict(dict)
    for sample in examples.samples:
        found[min(folds[sample.digests]) if apart else 0].setdefault(sample.digests, sample.images)
    return found


def _exchanged(pictures: list[Digests], group: Mapping[Digests, str], rng: Random) -> dict[Digests, Digests]:
    """{picture: the one shown instead}, a permutation. In a line of whole groups, the largest first, nobody who moves
    on by the largest group's size stays in his own; then pairs trade at random what both may have."""
    rng.shuffle(pictures)
    members: dict[str, list[Digests]] = defaultdict(list)
    for one in pictures:
        members[group[one]].append(one)
    blocks = sorted(members.values(), key=len, reverse=True)
    line = [one for block in blocks for one in block]
    taken = {one: line[(i + len(blocks[0])) % len(line)] for i, one in enumerate(line)}
    for one in line:
        two = rng.choice(line)
        if group[one] != group[taken[two]] and group[two] != group[taken[one]]:
            taken[one], taken[two] = taken[two], taken[one]
    return taken


def _showing(examples: Examples, shown: Callable[[Sample], Shown]) -> Examples:
    changed = {sample.uid: sample.showing(*shown(sample)) for sample in examples.samples}
    decisions = tuple(replace(d, sample=changed[d.sample].uid) for d in examples.decisions)
    samples = {sample.uid: sample for sample in changed.values()}
    return replace(examples, samples=tuple(samples.values()), decisions=decisions)
