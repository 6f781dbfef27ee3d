"""What is compared: which runs, told apart by labels, at which positions, with which baseline.

Everything is read and judged here, before anything is written.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mllm_probe.comparison.compared_effects import FinishedSweep
from mllm_probe.comparison.finished import FinishedRun, by_data, check_data, check_measure, find_runs, load_run
from mllm_probe.comparison.run_names import labelled, shared_name
from mllm_probe.config.report import ReportSettings
from mllm_probe.config.sweep import METRICS
from mllm_probe.errors import ConfigError, DataError, choices, count
from mllm_probe.files.job_states import standings
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.protocols import Reporter
from mllm_probe.results.selection import measures, selected


def finished_in(folders: Sequence[Path], reporter: Reporter) -> list[RunPaths]:
    """The finished runs, or interventions, in and below some folders; what is not finished is told. Raises
    DataError."""
    found, failed = find_runs(folders)
    if going := [job for folder in folders for job in standings(folder) if not job.over]:
        reporter.note(f"not finished in these folders: {count(len(going), 'job')}; `mllm-probe status` shows them")
    if failed:
        reporter.note(f"left out, no finished sweep: {', '.join(map(str, failed))}")
    return found


def runs_by_task(
    found: Sequence[RunPaths], metric: str | None, anyway: bool, reporter: Reporter
) -> dict[str, list[FinishedRun]]:
    """{task: its runs with their labels}, checked. Raises DataError."""
    runs = [_measured(run, metric) for run in _different(_loaded(found, reporter), reporter)]
    tasks: dict[str, list[FinishedRun]] = {}
    for one in runs:
        tasks.setdefault(one.task, []).append(one)
    if not anyway:
        tasks = _by_data(tasks, reporter)
    if sum(map(len, tasks.values())) < 2:
        ((task, (run,)),) = tasks.items()
        raise DataError(f"{run.name} is the only run of {task}, so it cannot be compared; name more runs")
    for task, runs in tasks.items():
        check_measure(runs)
        if not anyway:
            check_data(runs)
        tasks[task], unsaid = labelled(runs)
        if shared := shared_name(runs):
            reporter.note(f"{task}: {shared}")
        if unsaid:
            reporter.note(f"{task}: the runs differ in {', '.join(unsaid)}, too")
    return tasks


def _by_data(tasks: Mapping[str, Sequence[FinishedRun]], reporter: Reporter) -> dict[str, list[FinishedRun]]:
    """A task that was tested on several data sets is several, as their scores are not to be subtracted."""
    found: dict[str, list[FinishedRun]] = {}
    for runs in tasks.values():
        topics = by_data(runs)
        if len(topics) > 1:
            reporter.note(f"{', '.join(topics)}: side by side, without differences; --anyway ranks them together")
        found |= topics
    return found


def _measured(run: FinishedRun, metric: str | None) -> FinishedRun:
    """The run with another measure as its headline. Raises ConfigError where it was not measured."""
    if metric is None:
        return run
    known = measures(run.scores) & set(METRICS)
    if metric not in known:
        raise ConfigError(f"--metric {metric} was not measured in {run.name}; {choices(metric, known)}")
    return replace(run, scores=selected(run.scores, ReportSettings(metric=metric)))


def _loaded(found: Sequence[RunPaths], reporter: Reporter) -> list[FinishedRun]:
    """The runs whose files can be read; the others are named. Raises DataError where none can."""
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


def _different(runs: Iterable[FinishedRun], reporter: Reporter) -> list[FinishedRun]:
    """Each run once, however often it was made."""
    found: dict[str, FinishedRun] = {}
    for one in runs:
        first = found.setdefault(one.summary["run"], one)
        if first is not one:
            reporter.note(f"left out, the same run as {first.name}: {one.name}")
    return list(found.values())


def positions_of(
    tasks: Mapping[str, Sequence[FinishedRun]], wanted: Sequence[str], reporter: Reporter
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


def baseline_of(runs: Sequence[FinishedRun | FinishedSweep], given: str | None) -> str | None:
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
