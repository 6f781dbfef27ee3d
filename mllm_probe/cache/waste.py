"""What may go of caches: what killed processes left, and groups that nobody finished or that are damaged."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mllm_probe.cache.upkeep import Cache, Doomed, Group, abandoned, doomed, leftovers
from mllm_probe.cache.verify import Finding


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


def with_leftovers(root: Path, groups: Sequence[Doomed], now: float) -> list[Doomed]:
    """These groups, and before them what killed processes left elsewhere; what lies in a group goes with it."""
    going = {group.path for group in groups}
    return [*(entry for entry in leftovers(root, now) if not going & set(entry.path.parents)), *groups]
