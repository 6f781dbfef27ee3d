"""`mllm-probe status`: the state of the jobs of a multirun. Reads what they wrote; imports no torch and no Hydra."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mllm_probe.files.job_states import Standing, latest
from mllm_probe.files.jobs import DONE, unreadable
from mllm_probe.files.paths import MultirunPaths
from mllm_probe.files.rerun import again
from mllm_probe.report.terminal.plain.job_table import job_table, live
from mllm_probe.report.terminal.printing import wide_console

ABOUT = "State of the jobs of a multirun; exit code 1 if one ended and is not done."
EVERY = 5.0  # seconds between two looks of --watch


def run(args: Sequence[str]) -> None:
    """The command. Raises DataError where a folder holds no job; exits with 1 where one is over and not done."""
    parser = argparse.ArgumentParser("mllm-probe status", description=ABOUT, allow_abbrev=False)
    folders = "of a multirun, or of runs; a job of a later folder replaces the same job of an earlier one"
    parser.add_argument("folders", nargs="+", metavar="FOLDER", type=Path, help=folders)
    parser.add_argument("--watch", action="store_true", help="look again every few seconds until all have ended")
    given = parser.parse_args(args)
    jobs = latest(given.folders)
    if given.watch:
        jobs = _watched(jobs, given.folders)
    else:
        wide_console().print(job_table(jobs))
    for path in [path for folder in given.folders for path in unreadable(MultirunPaths(folder))]:
        print(f"{path} is damaged, or from another release, and is left out")
    bad = [job for job in jobs if job.over and job.state != DONE]
    if commands := again([job for job in bad if not job.unfit]):
        print("\nto run them again:", *commands, sep="\n")
    sys.stdout.flush()
    if bad:
        sys.exit(1)


def _watched(jobs: list[Standing], folders: Sequence[Path]) -> list[Standing]:
    with live(jobs) as screen:
        while not all(job.over for job in jobs):
            time.sleep(EVERY)
            jobs = latest(folders)
            screen.update(job_table(jobs), refresh=True)
    return jobs
