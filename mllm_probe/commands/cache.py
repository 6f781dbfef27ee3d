"""`mllm-probe cache`: list, verify, prune and compare what lies in outputs/cache. Imports no torch and no Hydra."""

import argparse
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from mllm_probe.cache.upkeep import (
    Cache,
    Doomed,
    abandoned,
    choose,
    doomed,
    find_caches,
    last_written,
    leftovers,
    linked,
    remove,
)
from mllm_probe.cache.verify import Finding, shards_of, verify
from mllm_probe.errors import CacheError, count
from mllm_probe.files.digests import Digests, open_digests
from mllm_probe.files.paths import OutputPaths, RunPaths
from mllm_probe.files.store_paths import prune
from mllm_probe.report.terminal.cache_difference import why
from mllm_probe.report.terminal.cache_tables import day, gigabytes, list_caches, list_groups
from mllm_probe.report.terminal.progress import RichReporter

COMMANDS = {
    "ls": "list caches, one row each, or the groups of IDENTITY",
    "verify": "read every shard again and compare it with the manifests; exit code 1 where something is damaged",
    "prune": "list leftovers of killed processes, or the named caches; --yes removes them",
    "why": "whether two runs share a cache, and if not, which fields of its identity differ",
}
ABOUT = "Look after the caches of activations in outputs/cache."
IDENTITY = "a cache, or the beginning of its name"


def run(args: Sequence[str]) -> None:
    """The command. Raises CacheError; exits with 2 where the arguments are wrong, as argparse does."""
    parser = argparse.ArgumentParser("mllm-probe cache", description=ABOUT, allow_abbrev=False)
    below = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    actions = {"ls": _ls, "verify": _verify, "prune": _prune, "why": _why}
    found = {}
    for name, what in COMMANDS.items():
        found[name] = below.add_parser(name, help=what, description=what, allow_abbrev=False)
    for name in ("ls", "verify", "prune"):
        several = "?" if name == "ls" else "*"
        found[name].add_argument("identity", nargs=several, metavar="IDENTITY", help=IDENTITY)
        found[name].add_argument("--outputs", default="outputs", metavar="FOLDER", help="paths.outputs of the runs")
    _prune_options(found["prune"])
    for number in ("first", "second"):
        found["why"].add_argument(number, metavar="RUN", help="folder of a run, such as outputs/run/DATE/TIME")
    given = parser.parse_args(args)
    if given.command == "prune" and given.identity and (given.unfinished or given.damaged):
        found["prune"].error("a named cache is removed as a whole: leave out IDENTITY, or --unfinished and --damaged")
    actions[given.command](given)


def _prune_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--unfinished", action="store_true", help="also unfinished groups that nothing wrote to for an hour"
    )
    parser.add_argument("--damaged", action="store_true", help="also finished groups that `verify` finds damaged")
    parser.add_argument("--yes", action="store_true", help="remove what is listed")


def _ls(given: argparse.Namespace) -> None:
    outputs = OutputPaths(Path(given.outputs))
    caches = find_caches(outputs.caches)
    if not caches:
        _say_none(outputs)
    elif given.identity is not None:
        (cache,) = choose(caches, [given.identity])
        list_groups(cache)
    else:
        list_caches(list(caches.values()))


def _say_none(outputs: OutputPaths) -> None:
    print(f"no cache yet in {outputs.caches}: `mllm-probe extract` fills one, --outputs FOLDER names another place")


def _why(given: argparse.Namespace) -> None:
    why(RunPaths(Path(given.first)), RunPaths(Path(given.second)))


def _verify(given: argparse.Namespace) -> None:
    outputs = OutputPaths(Path(given.outputs))
    caches = find_caches(outputs.caches)
    chosen = choose(caches, given.identity) if given.identity else list(caches.values())
    if not chosen:
        _say_none(outputs)
        return
    digests = open_digests(outputs.digests, tell=print)
    findings = _findings(chosen, digests)
    _print_findings(findings, outputs)
    digests.save()
    groups = sum(len(cache.finished) for cache in chosen)
    checked = f"{count(groups, 'finished group')} in {count(len(chosen), 'cache')}"
    if damaged := len({finding.path for finding in findings if not finding.harmless}):
        raise CacheError(f"{count(damaged, 'file')} of {checked} damaged or missing; how to fix it is said above")
    print(f"{checked}, {count(sum(map(shards_of, chosen)), 'shard')}: all as their manifests say")
    _print_unread(chosen)


def _print_unread(caches: Sequence[Cache]) -> None:
    for cache in caches:
        if cache.foreign is not None:
            print(f"{cache.paths.root} has format {cache.foreign} of another release and was not read")
        elif unfinished := len(cache.groups) - len(cache.finished):
            print(f"{cache.paths.root} has {count(unfinished, 'unfinished group')}, without a manifest to compare with")


def _findings(caches: Sequence[Cache], digests: Digests) -> list[Finding]:
    """What is wrong with these caches, found under a bar."""
    total, done = sum(map(shards_of, caches)), 0
    with RichReporter() as reporter:

        def advance() -> None:
            nonlocal done
            done += 1
            reporter.progress("verify", done, total, "shards")

        return [finding for cache in caches for finding in verify(cache, digests, advance)]


def _print_findings(findings: Iterable[Finding], outputs: OutputPaths) -> None:
    """By what fixes them, since one remedy often serves many files."""
    commands = {"prune": prune("", outputs.root), "damaged": prune("--damaged", outputs.root)}
    remedies: dict[str, list[Finding]] = {}
    for finding in findings:
        remedies.setdefault(finding.fix, []).append(finding)
    for remedy, here in remedies.items():
        print(f"{remedy.format(**commands)}:")
        for finding in here:
            print(f"  {finding.path} {finding.what}")


def _prune(given: argparse.Namespace) -> None:
    outputs = OutputPaths(Path(given.outputs))
    caches = find_caches(outputs.caches)
    if not outputs.caches.is_dir() and not given.identity:
        _say_none(outputs)
        return
    found = _whole(choose(caches, given.identity)) if given.identity else _waste(outputs, list(caches.values()), given)
    behind = [entry.path for entry in found if linked(outputs.caches, entry.path)]
    for path in behind:
        print(f"{path} is a link or is in a linked folder, and links are not followed: remove it by hand")
    _remove(outputs, [entry for entry in found if entry.path not in behind], given.yes)


def _whole(caches: Iterable[Cache]) -> list[Doomed]:
    return [
        doomed(cache.paths.root, f"the whole cache, last written {day(last_written(cache.files, cache.paths.root))}")
        for cache in caches
    ]


def _waste(outputs: OutputPaths, caches: Sequence[Cache], given: argparse.Namespace) -> list[Doomed]:
    """Temporary files, and the groups that the options name. What lies in such a group goes with it."""
    now, found = time.time(), {}
    if given.unfinished:
        for group in (group for cache in caches for group in cache.groups if not group.finished):
            if abandoned(group, now):
                found[group.paths.root] = doomed(group.paths.root, "unfinished, nothing written for an hour")
            else:
                print(f"{group.paths.root} was written to within the last hour: it may be in use, and is kept")
    if given.damaged:
        for finding in _findings(caches, open_digests(outputs.digests)):
            if finding.group is not None:
                root = finding.group.paths.root
                found[root] = doomed(root, f"damaged: {finding.path.name} {finding.what}")
    rest = [entry for entry in leftovers(outputs.caches, now) if not found.keys() & set(entry.path.parents)]
    return [*rest, *found.values()]


def _remove(outputs: OutputPaths, entries: Sequence[Doomed], really: bool) -> None:
    if not entries:
        print("nothing to remove")
        return
    for entry in entries:
        print(f"{entry.path} ({gigabytes(entry.bytes)} GB): {entry.why}")
        if really:
            remove(outputs.caches, entry.path)
    freed = f"{gigabytes(sum(entry.bytes for entry in entries))} GB in {count(len(entries), 'place')}"
    print(f"removed: {freed}" if really else f"would be removed: {freed}; add --yes to remove")
