"""`mllm-probe cache`: list, verify, prune and compare the caches in outputs/cache. Imports no torch and no Hydra."""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mllm_probe.cache import waste
from mllm_probe.cache.upkeep import Cache, Doomed, choose, find_caches, linked, remove
from mllm_probe.cache.verify import Finding, shards_of, verify_all
from mllm_probe.errors import CacheError, count
from mllm_probe.files.digests import Digests, open_digests
from mllm_probe.files.paths import OutputPaths, RunPaths
from mllm_probe.report.terminal.cache_difference import why
from mllm_probe.report.terminal.cache_tables import list_caches, list_groups
from mllm_probe.report.terminal.plain import cache_state
from mllm_probe.report.terminal.progress import RichReporter

COMMANDS = {
    "ls": "list caches, one row each, and what else is kept; or the groups of IDENTITY",
    "verify": "read every shard again and compare it with the manifests; exit code 1 where something is damaged",
    "prune": "list leftovers of killed processes, or the named caches, fits or labels; --yes removes them",
    "why": "whether two runs share a cache, and if not, which fields of its identity differ",
}
ABOUT = "Look after the caches of activations in outputs/cache."
IDENTITY = "a cache, or the beginning of its name"


def run(args: Sequence[str]) -> None:
    """The command. Raises CacheError; exits with 2 where the arguments are wrong, as argparse does."""
    parser = argparse.ArgumentParser("mllm-probe cache", description=ABOUT, allow_abbrev=False)
    below = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    found = {}
    for name, what in COMMANDS.items():
        found[name] = below.add_parser(name, help=what, description=what, allow_abbrev=False)
    for name in ("ls", "verify", "prune"):
        several = "?" if name == "ls" else "*"
        found[name].add_argument("identity", nargs=several, metavar="IDENTITY", help=IDENTITY)
        found[name].add_argument("--outputs", default="outputs", metavar="FOLDER", help="paths.outputs of the runs")
    flag = partial(found["prune"].add_argument, action="store_true")
    flag("--unfinished", help="also unfinished groups that nothing wrote to for an hour")
    flag("--damaged", help="also finished groups that `verify` finds damaged")
    flag("--yes", help="remove what is listed")
    for number in ("first", "second"):
        found["why"].add_argument(number, metavar="RUN", help="folder of a run, such as outputs/run/DATE/TIME")
    given = parser.parse_args(args)
    if given.command == "prune" and given.identity and (given.unfinished or given.damaged):
        found["prune"].error("a named cache is removed as a whole: leave out IDENTITY, or --unfinished and --damaged")
    {"ls": _ls, "verify": _verify, "prune": _prune, "why": _why}[given.command](given)


def _ls(given: argparse.Namespace) -> None:
    outputs = OutputPaths(Path(given.outputs))
    caches = find_caches(outputs.caches)
    if not caches:
        cache_state.print_none(outputs)
    elif given.identity is not None:
        list_groups(*choose(caches, [given.identity]))
    else:
        list_caches(list(caches.values()))
    if given.identity is None:
        cache_state.print_kept(waste.kept_folders(outputs.root), outputs)


def _why(given: argparse.Namespace) -> None:
    why(RunPaths(Path(given.first)), RunPaths(Path(given.second)))


def _verify(given: argparse.Namespace) -> None:
    outputs = OutputPaths(Path(given.outputs))
    caches = find_caches(outputs.caches)
    chosen = choose(caches, given.identity) if given.identity else list(caches.values())
    if not chosen:
        cache_state.print_none(outputs)
        return
    digests = open_digests(outputs.digests, tell=print)
    findings = _verified(chosen, digests)
    cache_state.print_findings(findings, outputs)
    digests.save()
    groups = sum(len(cache.finished) for cache in chosen)
    checked = f"{count(groups, 'finished group')} in {count(len(chosen), 'cache')}"
    if damaged := len({finding.path for finding in findings if not finding.harmless}):
        raise CacheError(f"{count(damaged, 'file')} of {checked} damaged or missing; how to fix it is said above")
    print(f"{checked}, {count(sum(map(shards_of, chosen)), 'shard')}: all match their manifests")
    cache_state.print_unread(chosen)


def _verified(caches: Sequence[Cache], digests: Digests) -> list[Finding]:
    with RichReporter() as reporter:
        return verify_all(caches, digests, reporter)


def _prune(given: argparse.Namespace) -> None:
    outputs = OutputPaths(Path(given.outputs))
    if not outputs.caches.is_dir() and not waste.kept_folders(outputs.root) and not given.identity:
        cache_state.print_none(outputs)
        return
    found = waste.named(given.identity, outputs) if given.identity else _waste(given, outputs)
    behind = [entry for entry in found if linked(waste.root_of(entry, outputs), entry.path)]
    cache_state.print_linked(behind)
    going = [entry for entry in found if entry not in behind]
    for entry in going:
        cache_state.print_doomed(entry)
        if given.yes:
            remove(waste.root_of(entry, outputs), entry.path)
    cache_state.print_freed(going, given.yes)


def _waste(given: argparse.Namespace, outputs: OutputPaths) -> list[Doomed]:
    caches, groups, now = list(find_caches(outputs.caches).values()), list[Doomed](), time.time()
    if given.unfinished:
        groups, at_work = waste.unfinished_groups(caches, now)
        cache_state.print_at_work(at_work)
    if given.damaged:
        groups += waste.damaged_groups(_verified(caches, open_digests(outputs.digests)))
    return waste.with_leftovers(outputs, groups, now)
