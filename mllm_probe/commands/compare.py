"""`mllm-probe compare`: finished runs side by side, from their own files. Imports no torch and no Hydra.

Knows the arguments, which runs belong together, what is written and printed; the numbers are those of `ranking`.
"""

import argparse
import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.config.report import ReportSettings, check_size
from mllm_probe.config.sweep import METRICS
from mllm_probe.config.verbosity import name_folder
from mllm_probe.errors import ConfigError, DataError, choices, count
from mllm_probe.files.cells import cell
from mllm_probe.files.job_states import standings
from mllm_probe.files.paths import ComparisonPaths, OutputPaths, replacing

if TYPE_CHECKING:
    from mllm_probe.comparison.finished import FinishedRun
    from mllm_probe.files.paths import RunPaths
    from mllm_probe.records.protocols import Reporter

ABOUT = """Finished runs side by side: compare.csv with all their scores; for each task with several runs a figure with
a line a run, and in ranking.csv every run at the layer that its validation prefers, and paired differences; for several
tasks or tested data sets a figure with a panel a model; and all of it in report.html."""
PLACE = "--out FOLDER"  # what names another place for results


def run(args: Sequence[str]) -> None:
    """The command. Raises ConfigError, DataError; exits with 2 where the arguments are wrong, as argparse does."""
    from mllm_probe.report.terminal.progress import RichReporter

    parser = argparse.ArgumentParser("mllm-probe compare", description=ABOUT, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or of a sweep: every run in it")
    parser.add_argument("--out", metavar="FOLDER", help="where to write; else a new folder in outputs/compare")
    where = "compare at this position only, may be repeated; else at all positions that the runs of a task share"
    parser.add_argument("--position", action="append", default=[], metavar="NAME", help=where)
    reference = "the run, by folder or label, that differences refer to; else the first on the test rows"
    parser.add_argument("--baseline", metavar="RUN", help=reference)
    parser.add_argument("--anyway", action="store_true", help="runs on different data, too; no paired intervals")
    measure = "show and compare this measure; else the one that chose the layers"
    parser.add_argument("--metric", metavar="NAME", help=measure)
    size = "of each figure, in inches; else a fitting size"
    parser.add_argument("--size", nargs=2, type=float, metavar=("WIDTH", "HEIGHT"), help=size)
    parser.add_argument("--parquet", action="store_true", help="compare.parquet beside compare.csv")
    given = parser.parse_args(args)
    if given.size:
        width, height = given.size
        check_size(given.size, f"--size {width:g} {height:g}", "--size 7 4")
    if given.parquet and find_spec("pyarrow") is None:
        raise ConfigError("--parquet needs pyarrow; pip install 'mllm-probe[parquet]', or leave it out")
    _compare(given, args, RichReporter())


def _compare(given: argparse.Namespace, args: Sequence[str], reporter: "Reporter") -> None:
    """Everything is read and judged before anything is written."""
    from mllm_probe.comparison.ranking import ranking, save_ranking
    from mllm_probe.report.html.comparison import show

    tasks = _tasks(given, reporter)
    rivals = {task: runs for task, runs in tasks.items() if len(runs) > 1}
    read = _positions(rivals, given.position, reporter)
    against = {task: _baseline(rivals[task], given.baseline) for task in read}
    ranks = [ranking(rivals[task], position, against[task]) for task in read for position in read[task]]
    paths = ComparisonPaths(Path(given.out)) if given.out else OutputPaths(Path("outputs")).comparison(datetime.now())
    _save_scores([run for runs in tasks.values() for run in runs], paths, given.parquet)
    save_ranking(paths.ranking, [row for rows in ranks for row in rows])
    show(tasks, ranks, given.position, paths, _without_place(args), reporter, ReportSettings(size=given.size))
    reporter.note(f"everything is in {paths.root}")
    name_folder(paths.root)


def _without_place(args: Sequence[str]) -> list[str]:
    """The arguments without --out: the same runs give the same page wherever it is."""
    after = [i for i, word in enumerate(args) if i and args[i - 1] == "--out"]
    return [word for i, word in enumerate(args) if i not in after and word.partition("=")[0] != "--out"]


def _tasks(given: argparse.Namespace, reporter: "Reporter") -> dict[str, list["FinishedRun"]]:
    """{task: its runs with their labels}, checked. Raises DataError."""
    from mllm_probe.comparison.finished import check_data, check_measure, find_runs
    from mllm_probe.comparison.run_names import labelled, shared_name

    folders = [Path(folder) for folder in given.runs]
    found, failed = find_runs(folders)
    if going := [job for folder in folders for job in standings(folder) if not job.over]:
        reporter.note(f"not finished in these folders: {count(len(going), 'job')}; `mllm-probe status` shows them")
    if failed:
        reporter.note(f"left out, no finished sweep: {', '.join(map(str, failed))}")
    runs = [_measured(run, given.metric) for run in _different(_loaded(found, reporter), reporter)]
    tasks: dict[str, list[FinishedRun]] = {}
    for one in runs:
        tasks.setdefault(one.task, []).append(one)
    if not given.anyway:
        tasks = _by_data(tasks, reporter)
    if sum(map(len, tasks.values())) < 2:
        ((task, (run,)),) = tasks.items()
        raise DataError(f"{run.name} is the only run of {task}, so it cannot be compared; name more runs")
    for task, runs in tasks.items():
        check_measure(runs)
        if not given.anyway:
            check_data(runs)
        tasks[task], unsaid = labelled(runs)
        if shared := shared_name(runs):
            reporter.note(f"{task}: {shared}")
        if unsaid:
            reporter.note(f"{task}: the runs differ in {', '.join(unsaid)}, too")
    return tasks


def _by_data(tasks: Mapping[str, Sequence["FinishedRun"]], reporter: "Reporter") -> dict[str, list["FinishedRun"]]:
    """A task that was tested on several data sets is several, as their scores are not to be subtracted."""
    from mllm_probe.comparison.finished import by_data

    found: dict[str, list[FinishedRun]] = {}
    for runs in tasks.values():
        topics = by_data(runs)
        if len(topics) > 1:
            reporter.note(f"{', '.join(topics)}: side by side, without differences; --anyway ranks them together")
        found |= topics
    return found


def _measured(run: "FinishedRun", metric: str | None) -> "FinishedRun":
    """The run with another measure as its headline. Raises ConfigError where it was not measured."""
    from mllm_probe.results.selection import measures, selected

    if metric is None:
        return run
    known = measures(run.scores) & set(METRICS)
    if metric not in known:
        raise ConfigError(f"--metric {metric} was not measured in {run.name}; {choices(metric, known)}")
    return replace(run, scores=selected(run.scores, ReportSettings(metric=metric)))


def _loaded(found: Sequence["RunPaths"], reporter: "Reporter") -> list["FinishedRun"]:
    """The runs whose files can be read; the others are named. Raises DataError where none can."""
    from mllm_probe.comparison.finished import load_run

    runs, errors = [], []
    for paths in found:
        try:
            runs.append(load_run(paths))
        except DataError as error:
            errors.append(error)
    if len(runs) < 2 and errors:
        raise errors[0]
    for left_out in errors:
        reporter.note(f"left out: {left_out}")
    return runs


def _different(runs: Iterable["FinishedRun"], reporter: "Reporter") -> list["FinishedRun"]:
    """Each run once, however often it was made."""
    found: dict[str, FinishedRun] = {}
    for one in runs:
        first = found.setdefault(one.summary["run"], one)
        if first is not one:
            reporter.note(f"left out, the same run as {first.name}: {one.name}")
    return list(found.values())


def _positions(
    tasks: Mapping[str, Sequence["FinishedRun"]], wanted: Sequence[str], reporter: "Reporter"
) -> dict[str, list[str]]:
    """{task: where to compare its runs}. Raises DataError, ConfigError where nothing is left."""
    shared = {}
    for task, runs in tasks.items():
        shared[task] = [
            name for name in runs[0].summary["chosen"] if all(name in run.summary["chosen"] for run in runs)
        ]
        if not shared[task]:
            read = "; ".join(f"{run.name}: {', '.join(run.summary['chosen']) or 'none'}" for run in runs)
            raise DataError(f"the runs of {task} have no position of the language model in common ({read})")
    known = [name for names in shared.values() for name in names]
    for name in wanted:
        if name not in known:
            raise ConfigError(f"--position {name} is not shared by the runs of a task; {choices(name, set(known))}")
    chosen = {task: [name for name in names if not wanted or name in wanted] for task, names in shared.items()}
    for task in (task for task, names in chosen.items() if not names):
        reporter.note(f"{task}: left out, its runs share {', '.join(shared[task])} only")
    return {task: names for task, names in chosen.items() if names}


def _baseline(runs: Sequence["FinishedRun"], given: str | None) -> str | None:
    """The label of the run that a label or a folder names. Raises ConfigError unless that is one."""
    if given is None:
        return None
    folder = Path(given).resolve()
    found = [run.label for run in runs if given == run.label or folder in (run.folder, *run.folder.parents)]
    if len(found) != 1:
        raise ConfigError(
            f"--baseline {given} is {count(len(found), 'run')} of {runs[0].task}, one is needed; "
            f"{choices(given, (run.label for run in runs))}"
        )
    return found[0]


def _save_scores(runs: Sequence["FinishedRun"], paths: ComparisonPaths, parquet: bool) -> None:
    """The rows of all runs as their files have them, each with the run's label and its place below the folder that
    holds all of them."""
    from mllm_probe.results.score_file import COLUMNS, load_scores

    above = os.path.commonpath([run.folder for run in runs])
    added = [(run.label, run.folder.relative_to(above).as_posix()) for run in runs]
    with replacing(paths.scores("csv")) as part, part.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow((*COLUMNS, "label", "path"))
        for run, more in zip(runs, added, strict=True):
            with run.paths.scores.open(newline="") as own:
                writer.writerows((*row, *map(cell, more)) for row in list(csv.reader(own))[1:])
    if parquet:
        import pandas as pd

        tables = [
            load_scores(run.paths.scores).assign(label=label, path=place)
            for run, (label, place) in zip(runs, added, strict=True)
        ]
        with replacing(paths.scores("parquet")) as part:
            pd.concat(tables).to_parquet(part, engine="pyarrow", index=False)
