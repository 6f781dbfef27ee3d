"""What may go of caches: what killed processes left, and groups that nobody finished or that are damaged; and what else
is kept for later beside them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mllm_probe.cache.upkeep import Cache, Doomed, Group, abandoned, choose, day, doomed, find_caches, leftovers, walk
from mllm_probe.cache.verify import Finding
from mllm_probe.files.paths import OutputPaths

KEPT = {
    "fits": "what sweeps have fitted; the next sweep fits it again",
    "labels": "vectors of slices for Sugar's labels; the next training makes them again",
}


def kept_folders(outputs: Path) -> dict[str, Path]:
    """{name: folder beside the caches} of what else is kept for later, where there is some."""
    return {name: outputs / name for name in KEPT if walk(outputs / name)}


def root_of(entry: Doomed, outputs: OutputPaths) -> Path:
    """Below which folder no link is followed to it."""
    return outputs.caches if outputs.caches in entry.path.parents else outputs.root


def named(words: Sequence[str], outputs: OutputPaths) -> list[Doomed]:
    """Whole caches, and what is kept beside them. Raises CacheError."""
    kept = [doomed(folder, KEPT[name]) for name, folder in kept_folders(outputs.root).items() if name in words]
    caches = choose(find_caches(outputs.caches), [word for word in words if word not in KEPT])
    whole = [doomed(one.paths.root, f"the whole cache, last written {day(one.written)}") for one in caches]
    return [*kept, *whole]


def unfinished_groups(caches: Iterable[Cache], now: float) -> tuple[list[Doomed], list[Group]]:
    """Those that may go, and those that somebody may be at work on."""
    groups = [group for cache in caches for group in cache.groups if not group.finished]
    idle = [group for group in groups if abandoned(group, now)]
    gone = [doomed(group.paths.root, "unfinished, nothing written for an hour") for group in idle]
    return gone, [group for group in groups if group not in idle]


def damaged_groups(findings: Iterable[Finding]) -> list[Doomed]:
    """Each once, whatever is wrong with it."""
    found = {finding.group.paths.root: finding for finding in findings if finding.group is not None}
    return [doomed(root, f"damaged: {one.path.name} {one.what}") for root, one in found.items()]


def with_leftovers(outputs: OutputPaths, groups: Sequence[Doomed], now: float) -> list[Doomed]:
    """These groups, and before them what killed processes left elsewhere; what lies in a group goes with it."""
    going = {group.path for group in groups}
    left = [one for root in (outputs.caches, *kept_folders(outputs.root).values()) for one in leftovers(root, now)]
    return [*(entry for entry in left if not going & set(entry.path.parents)), *groups]
