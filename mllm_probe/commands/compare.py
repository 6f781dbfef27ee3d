"""`mllm-probe compare`: finished runs, or interventions, side by side, from their own files. Imports no torch and no
Hydra."""

import argparse
from collections.abc import Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.config.report import ReportSettings, check_size
from mllm_probe.config.verbosity import name_folder
from mllm_probe.errors import ConfigError
from mllm_probe.files.comparison_paths import ComparisonPaths
from mllm_probe.files.paths import OutputPaths

if TYPE_CHECKING:
    from mllm_probe.files.paths import RunPaths
    from mllm_probe.records.protocols import Reporter

ABOUT = """Finished runs side by side: compare.csv with all their scores; for each task with several runs a figure with
a line a run, and in ranking.csv every run at its best layer on validation, and paired differences; for several
tasks or tested data sets a figure with a panel a model; and all of it in report.html. Of interventions of one kind
differences.csv: what each condition does to one model more than to another."""
OF_RUNS = ("position", "anyway", "size", "parquet")  # arguments that interventions have no use for
PLACE = "--out FOLDER"  # what names another place for results


def run(args: Sequence[str]) -> None:
    """The command. Raises ConfigError, DataError; exits with 2 where the arguments are wrong, as argparse does."""
    given = _asked(args)  # before pandas is imported: --help, and what is refused, is there at once
    from mllm_probe.comparison.compared_effects import interventions
    from mllm_probe.comparison.compared_runs import finished_in
    from mllm_probe.report.terminal.progress import RichReporter, end

    reporter = RichReporter()
    found = finished_in([Path(folder) for folder in given.runs], reporter)
    shown = _effects if interventions(found) else _runs
    paths = shown(found, given, _without_place(args), reporter)
    end(reporter, paths.root)
    name_folder(paths.root)


def _runs(
    found: Sequence["RunPaths"], given: argparse.Namespace, words: Sequence[str], reporter: "Reporter"
) -> ComparisonPaths:
    """Finished runs side by side; `words` are the arguments that the page shows."""
    from mllm_probe.comparison.compared_runs import baseline_of, positions_of, runs_by_task
    from mllm_probe.comparison.joined_scores import save_scores
    from mllm_probe.comparison.ranking import ranking, save_ranking
    from mllm_probe.report.html.comparison import show

    tasks = runs_by_task(found, given.metric, given.anyway, reporter)
    rivals = {task: runs for task, runs in tasks.items() if len(runs) > 1}
    read = positions_of(rivals, given.position, reporter)
    against = {task: baseline_of(rivals[task], given.baseline) for task in read}
    ranks = [ranking(rivals[task], position, against[task]) for task in read for position in read[task]]
    # everything is read and judged: from here on it is written
    paths = _place(given)
    save_scores([run for runs in tasks.values() for run in runs], paths, given.parquet)
    save_ranking(paths.ranking, [row for rows in ranks for row in rows])
    show(tasks, ranks, given.position, paths, words, reporter, ReportSettings(size=given.size))
    return paths


def _effects(
    found: Sequence["RunPaths"], given: argparse.Namespace, words: Sequence[str], _: "Reporter"
) -> ComparisonPaths:
    """Finished interventions of one kind."""
    from mllm_probe.comparison.compared_effects import load_sweeps
    from mllm_probe.comparison.compared_runs import baseline_of
    from mllm_probe.comparison.effect_differences import effect_differences, metric_of, save_differences
    from mllm_probe.report.html.effect_differences import show_differences

    if unused := next((name for name in OF_RUNS if getattr(given, name)), None):
        raise ConfigError(f"--{unused} is for runs, and {found[0].root} is of mllm-probe intervene; leave it out")
    sweeps = load_sweeps(found)
    rows = effect_differences(sweeps, baseline_of(sweeps, given.baseline) or sweeps[0].label)
    shown = metric_of(rows, given.metric)
    paths = _place(given)
    save_differences(paths.differences, rows)
    show_differences(rows, shown, sweeps, paths, words)
    return paths


def _place(given: argparse.Namespace) -> ComparisonPaths:
    return ComparisonPaths(Path(given.out)) if given.out else OutputPaths(Path("outputs")).comparison(datetime.now())


def _asked(args: Sequence[str]) -> argparse.Namespace:
    """Raises ConfigError for what can be seen in the arguments alone."""
    parser = argparse.ArgumentParser("mllm-probe compare", description=ABOUT, allow_abbrev=False)
    what = "folder of a run, of an intervention, or of a sweep: every one in it"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=what)
    parser.add_argument("--out", metavar="FOLDER", help="where to write; else a new folder in outputs/compare")
    where = "compare at this position only, may be repeated; else at all positions that the runs of a task share"
    parser.add_argument("--position", action="append", default=[], metavar="NAME", help=where)
    reference = "the run, by folder or label, that differences refer to; else the first on the test rows, of "
    reference += "interventions the first that is named"
    parser.add_argument("--baseline", metavar="RUN", help=reference)
    parser.add_argument("--anyway", action="store_true", help="runs on different data, too; no paired intervals")
    measure = "show and compare this measure; else the one that chose the layers, or the first of the kind"
    parser.add_argument("--metric", metavar="NAME", help=measure)
    size = "of each figure, in inches; else a fitting size"
    parser.add_argument("--size", nargs=2, type=float, metavar=("WIDTH", "HEIGHT"), help=size)
    parser.add_argument("--parquet", action="store_true", help="also compare.parquet")
    given = parser.parse_args(args)
    if given.size:
        width, height = given.size
        check_size(given.size, f"--size {width:g} {height:g}", "--size 7 4")
    if given.parquet and find_spec("pyarrow") is None:
        raise ConfigError("--parquet needs pyarrow; pip install 'mllm-probe[parquet]', or leave it out")
    return given


def _without_place(args: Sequence[str]) -> list[str]:
    """The arguments without --out: the same runs give the same page wherever it is."""
    after = [i for i, word in enumerate(args) if i and args[i - 1] == "--out"]
    return [word for i, word in enumerate(args) if i not in after and word.partition("=")[0] != "--out"]
