"""`mllm-probe status`: how the jobs of a multirun stand. Reads what they wrote; imports no torch and no Hydra."""

import argparse
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mllm_probe.errors import DataError, count
from mllm_probe.files.job_states import STATES, Standing, seconds, standings
from mllm_probe.files.jobs import DONE, Job, now, unreadable
from mllm_probe.files.paths import MultirunPaths
from mllm_probe.report.terminal.printing import add_row, bare, wide_console

ABOUT = "How the jobs of a multirun stand; exit code 1 where one is over and not done."
EVERY = 5.0  # seconds between two looks of --watch
Box = tuple[tuple[str, ...], ...]


def run(args: Sequence[str]) -> None:
    """The command. Raises DataError where a folder holds no job; exits with 1 where one is over and not done."""
    parser = argparse.ArgumentParser("mllm-probe status", description=ABOUT, allow_abbrev=False)
    folders = "of a multirun, or of runs; a job of a later folder replaces the same job of an earlier one"
    parser.add_argument("folders", nargs="+", metavar="FOLDER", type=Path, help=folders)
    parser.add_argument("--watch", action="store_true", help="look again every few seconds until all have ended")
    given = parser.parse_args(args)
    jobs = _jobs(given.folders)
    if given.watch:
        jobs = _watched(jobs, given.folders)
    else:
        wide_console().print(_shown(jobs))
    for path in [path for folder in given.folders for path in unreadable(MultirunPaths(folder))]:
        print(f"{path} is damaged, or of another release, and is left out")
    bad = [job for job in jobs if job.over and job.state != DONE]
    if commands := again([job for job in bad if not job.unfit]):
        print("\nto run them again:", *commands, sep="\n")
    sys.stdout.flush()
    if bad:
        sys.exit(1)


def again(jobs: Sequence[Standing]) -> list[str]:
    """Few commands that together run just these jobs of multiruns again, the overrides quoted for a shell."""
    alike: dict[tuple[str, tuple[str, ...], tuple[str, ...]], list[tuple[str, ...]]] = {}
    for job in jobs:
        if job.asked is not None:
            words = ("mllm-probe", job.asked.command, "-m", *job.asked.options)
            names = tuple(override.partition("=")[0] for override in job.overrides)
            alike.setdefault((job.asked.folder, words, names), []).append(job.overrides)
    commands = []
    for (folder, words, names), overrides in alike.items():
        there = "" if Path(folder) == Path.cwd() else f"cd {shlex.quote(folder)} && "
        for box in _boxes([[one.partition("=")[2] for one in job] for job in overrides]):
            swept = [f"{name}={','.join(values)}" for name, values in zip(names, box, strict=True)]
            commands.append(there + shlex.join([*words, *swept]))
    return commands


def _boxes(jobs: Sequence[Sequence[str]]) -> list[Box]:
    """Jobs [N][K] -> few boxes of K sets of values each, whose combinations are these jobs: what one -m can say."""
    found: list[Box] = [tuple((value,) for value in job) for job in jobs]
    for i in range(len(found[0])):
        alike: dict[Box, list[str]] = {}
        for box in found:
            alike.setdefault((*box[:i], *box[i + 1 :]), []).extend(box[i])
        found = [(*rest[:i], tuple(values), *rest[i:]) for rest, values in alike.items()]
    return found


def _jobs(folders: Sequence[Path]) -> list[Standing]:
    found: list[Standing] = []
    for folder in folders:
        later = standings(folder)
        if not later and (bad := unreadable(MultirunPaths(folder))):
            raise DataError(f"{bad[0]} is damaged, or of another release, and {folder} holds no other job")
        if not later:
            state = "holds no job" if folder.is_dir() else "does not exist"
            raise DataError(f"{folder} {state}; name the folder of a multirun, such as outputs/multirun/DATE/TIME")
        named = {(job.command, job.overrides) for job in later}
        found = [job for job in found if (job.command, job.overrides) not in named] + later
    return found


def _watched(jobs: list[Standing], folders: Sequence[Path]) -> list[Standing]:
    with Live(_shown(jobs), console=wide_console(), auto_refresh=False) as live:
        while not all(job.over for job in jobs):
            time.sleep(EVERY)
            jobs = _jobs(folders)
            live.update(_shown(jobs), refresh=True)
    return jobs


def _shown(jobs: Sequence[Standing]) -> Group:
    """A row for each job; below it what went wrong, each reason once; how many there are of each state."""
    states = Counter(job.state for job in jobs)
    said = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    return Group(_table(jobs), *_reasons(jobs), Text(f"{count(len(jobs), 'job')}: {said}"))


def _table(jobs: Sequence[Standing]) -> Table:
    table = bare()
    for name in ("", "state", "stage", "time", "where", "overrides"):
        table.add_column(name)
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    for number, standing in enumerate(jobs):
        apart = [override for override in standing.overrides if override not in common]
        told = (_stage(standing.job), _time(standing.job)) if standing.job else ("", "")
        add_row(table, str(number), standing.state, *told, " ".join(_where(standing)), " ".join(apart))
    return table


def _stage(job: Job) -> str:
    return f"{job.stage} {job.done}/{job.total} {job.unit}" if job.stage else job.note


def _time(job: Job) -> str:
    minutes, rest = divmod(int(seconds(job.started, job.ended or now())), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _where(standing: Standing) -> Iterator[str]:
    if standing.name:
        yield f"job {standing.name}"
    if standing.job:
        yield standing.job.host
        if standing.job.restarts:
            yield f"({count(standing.job.restarts, 'restart')})"


def _reasons(jobs: Sequence[Standing]) -> Iterator[Text]:
    alike: dict[tuple[str, str], list[str]] = {}
    for number, job in enumerate(jobs):
        if job.why:
            alike.setdefault((job.state, job.why), []).append(str(number))
    for (state, why), numbers in alike.items():
        yield Text(f"{state} ({', '.join(numbers)}): {why}")
    for number, job in enumerate(jobs):
        if job.asked and job.job and job.asked.code and job.job.code not in ("", job.asked.code):
            yield Text(f"{number} ran other code than when it was submitted: {job.job.code}, {job.asked.code}")
