"""What `mllm-probe cache` says beside its tables: what is damaged and what fixes it, what was not read, what goes."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from mllm_probe.cache.upkeep import Cache, Doomed, Group, day, last_written, total_bytes, walk
from mllm_probe.cache.verify import Finding
from mllm_probe.errors import count
from mllm_probe.files.paths import OutputPaths
from mllm_probe.files.store_paths import prune
from mllm_probe.report.terminal.cache_tables import gigabytes


def print_none(outputs: OutputPaths) -> None:
    print(f"no cache yet in {outputs.caches}: `mllm-probe extract` fills one, --outputs FOLDER names another place")


def print_kept(folders: Mapping[str, Path], outputs: OutputPaths) -> None:
    """What else is kept for later, a line each."""
    for name, folder in folders.items():
        files = walk(folder)
        size, written = gigabytes(total_bytes(files)), day(last_written(files, folder))
        held = f"{count(len(files), 'file')}, {size} GB, last written {written}"
        print(f"{folder}: {held}; {prune(name, outputs.root)} removes them")


def print_findings(findings: Iterable[Finding], outputs: OutputPaths) -> None:
    """By what fixes them, since one remedy often serves many files."""
    commands = {"prune": prune("", outputs.root), "damaged": prune("--damaged", outputs.root)}
    remedies: dict[str, list[Finding]] = {}
    for finding in findings:
        remedies.setdefault(finding.fix, []).append(finding)
    for remedy, here in remedies.items():
        print(f"{remedy.format(**commands)}:")
        for finding in here:
            print(f"  {finding.path} {finding.what}")


def print_unread(caches: Iterable[Cache]) -> None:
    for cache in caches:
        if cache.foreign is not None:
            print(f"{cache.paths.root} has format {cache.foreign} of another release and was not read")
        elif unfinished := len(cache.groups) - len(cache.finished):
            print(f"{cache.paths.root} has {count(unfinished, 'unfinished group')}, without a manifest to compare with")


def print_at_work(groups: Iterable[Group]) -> None:
    for group in groups:
        print(f"{group.paths.root} was written to within the last hour: it may be in use, and is kept")


def print_linked(entries: Iterable[Doomed]) -> None:
    for entry in entries:
        print(f"{entry.path} is a link or is in a linked folder, and links are not followed: remove it by hand")


def print_doomed(entry: Doomed) -> None:
    print(f"{entry.path} ({gigabytes(entry.bytes)} GB): {entry.why}")


def print_freed(entries: list[Doomed], really: bool) -> None:
    if not entries:
        print("nothing to remove")
        return
    freed = f"{gigabytes(sum(entry.bytes for entry in entries))} GB in {count(len(entries), 'place')}"
    print(f"removed: {freed}" if really else f"would be removed: {freed}; add --yes to remove")
