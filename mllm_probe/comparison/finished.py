"""Finished runs for `compare`: found in folders, read from their own files, and checked for equal data.

Those of interventions are found here, too, and read in compared_effects. Opens no cache and loads no model.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.config.build import first_named
from mllm_probe.config.sentences import flat
from mllm_probe.errors import DataError
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import REPEAT, blamed, read_config
from mllm_probe.results.predictions import Scored, load_scored
from mllm_probe.results.score_file import load_scores, load_summary, load_tests
from mllm_probe.results.selection import blocks, headline, real, with_words

if TYPE_CHECKING:
    import pandas as pd

COMPARED = ("fingerprint", "run", "model", "task", "metric", "chosen", "versions")  # of a summary
NAMED = 4  # of many, how many a message names


class InFolder:
    """What has a folder of its own."""

    paths: RunPaths

    @property
    def name(self) -> str:
        """Where it is, as the user may type it."""
        return str(self.paths.root)

    @property
    def folder(self) -> Path:
        """The same, whatever the working directory."""
        return self.paths.root.resolve()


@dataclass(frozen=True, eq=False)
class FinishedRun(InFolder):
    """One run: its rows, its summary, its settings by dotted name, and what to call it. `topic` takes the place of the
    task's name where runs of one task were tested on several data sets."""

    paths: RunPaths
    scores: "pd.DataFrame"
    summary: Mapping[str, Any]
    settings: Mapping[str, Any]
    label: str = ""
    topic: str = ""

    @property
    def task(self) -> str:
        return self.topic or str(self.summary["task"])

    @property
    def dataset(self) -> str:
        """`scenes`, or `FIRST -> OTHER` where another one was tested."""
        return str(self.rows.dataset.iloc[0])

    @property
    def level(self) -> float:
        """Of its intervals."""
        return float(self.rows.ci_level.iloc[0])

    @cached_property
    def rows(self) -> "pd.DataFrame":
        """The headline test scores of its sites. Raises DataError where there is none."""
        found = real(headline(self.scores))
        if found.empty:
            raise DataError(f"{self.paths.scores} has no score of a site; repeat the sweep, its cache is still used")
        return found

    def curve(self, position: str) -> list[float]:
        """The values of the language model's blocks, from the first to the last."""
        here = blocks(self.rows)
        return here[here.position == position].sort_values("layer").value.tolist()

    @cached_property
    def scored(self) -> Scored:
        found = load_scored(self.paths.predictions)
        if found.fingerprint != self.summary["fingerprint"]:
            raise DataError(
                f"{self.paths.predictions} is about other decisions than {self.paths.summary.name} next to it; repeat "
                "the sweep, its cache is still used"
            )
        return found

    def chosen(self, position: str) -> Any:
        """The row of scores.csv at the best language-model block on validation. Raises DataError."""
        site = self.summary["chosen"][position]["site"]
        found = self.rows[(self.rows.site == site) & (self.rows.position == position)]
        if found.empty:
            raise DataError(
                f"{self.paths.scores} lacks {site} at {position}, which validation chose by {self.paths.summary.name}; "
                "repeat the sweep, its cache is still used"
            )
        return next(found.itertuples())


def find_runs(folders: Sequence[Path]) -> tuple[list[RunPaths], list[Path]]:
    """The finished runs, or interventions, in and below some folders, each once, and the jobs there that left none.

    Raises DataError for a folder that holds none.
    """
    runs: dict[Path, RunPaths] = {}
    failed: dict[Path, Path] = {}
    for folder in folders:
        jobs = [path for path in _below(folder) if _is_job(path)]
        here = [path for path in jobs if _is_finished(path)]
        if not here and (places := [path for path in jobs if RunPaths(path).regions.is_file()]):
            raise DataError(
                f"{places[0]} is a run of single picture tokens, and compare sets scores of whole prompts, or effects "
                "of interventions, side by side; read the tables of such runs, regions.csv, beside each other"
            )
        if not here:
            state = "holds no finished run" if folder.is_dir() else "does not exist"
            raise DataError(
                f"{folder} {state}; give folders such as outputs/run/DATE/TIME, with scores.csv and summary.json, "
                "outputs/intervene/DATE/TIME, with effects.safetensors, or the folder of a sweep"
            )
        runs |= {path.resolve(): RunPaths(path) for path in here if path.resolve() not in runs}
        above = {parent for path in jobs for parent in path.parents}
        failed |= {path.resolve(): path for path in jobs if path not in here and path not in above}
    return list(runs.values()), list(failed.values())


def _below(folder: Path) -> Iterator[Path]:
    """A folder and those in it, job 10 behind job 9; links are not followed."""
    yield folder
    if folder.is_dir():
        with os.scandir(folder) as entries:
            names = [one.name for one in entries if one.is_dir(follow_symlinks=False) and not one.name.startswith(".")]
        for name in sorted(names, key=_natural):
            yield from _below(folder / name)


def _natural(name: str) -> list[str | int]:
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))]


def _is_job(folder: Path) -> bool:
    return (folder / ".hydra").is_dir() or RunPaths(folder).config.is_file() or _is_finished(folder)


def _is_finished(folder: Path) -> bool:
    """summary.json is what a sweep writes last."""
    return RunPaths(folder).summary.is_file() and (RunPaths(folder).scores.is_file() or intervened(RunPaths(folder)))


def intervened(paths: RunPaths) -> bool:
    """Whether a finished folder is one of `intervene`."""
    return paths.outcomes.is_file()


def load_run(paths: RunPaths) -> FinishedRun:
    """Raises DataError where a file is missing, damaged or of an older release."""
    with blamed(paths.root):
        return _loaded(paths)


def _loaded(paths: RunPaths) -> FinishedRun:
    """What is read of it later is looked at now."""
    summary = load_summary(paths.summary)
    if absent := [name for name in COMPARED if name not in summary]:
        raise DataError(
            f"{paths.summary} lacks the entry '{absent[0]}': it was cut off, edited, or written by an "
            f"older release; {REPEAT}"
        )
    table = with_words(load_scores(paths.scores), paths.config)
    found = FinishedRun(paths, table, summary, flat(first_named(read_config(paths.config))))
    _ = found.level, load_tests(paths.tests)
    return found


def check_measure(runs: Sequence[FinishedRun]) -> None:
    """Refuse values that have no common scale. Raises DataError."""
    measures, levels = [str(run.rows.metric.iloc[0]) for run in runs], [str(run.level) for run in runs]
    for what, values in (("headline measures", measures), ("interval levels", levels)):
        found = dict(zip(reversed(values), reversed(runs), strict=True))
        if len(found) > 1:
            said = ", ".join(f"{value} in {run.name}" for value, run in reversed(found.items()))
            raise DataError(f"the runs of {runs[0].task} have different {what} ({said}); compare them separately")


def check_data(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs on data of one name that were not asked the same: the commonest data is right. Raises DataError."""
    prints = Counter(run.summary["fingerprint"] for run in runs)
    usual = next(run for run in runs if run.summary["fingerprint"] == prints.most_common(1)[0][0])
    others = [run for run in runs if run.summary["fingerprint"] != usual.summary["fingerprint"]]
    if others:
        said = ", ".join(f"{run.name} has {_how(run.scored, usual.scored)}" for run in others[:NAMED])
        more = f" and {len(others) - NAMED} more differ" if len(others) > NAMED else ""
        raise DataError(
            f"not all runs of {usual.task} were scored on the data of {usual.name} ({usual.dataset}): {said}{more}; "
            f"repeat them with the same task, dataset, data and splits,{_apart(usual)} or add --anyway, which leaves "
            "out their paired intervals"
        )


def _apart(run: FinishedRun) -> str:
    """How other data gets another name, where a setting names it."""
    tested = next((name for name in ("test.dataset.name", "dataset.name") if name in run.settings), None)
    return "" if tested is None else f" give other data another name ({tested}) to see both side by side,"


def by_data(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """{topic: its runs} of one task: the task, and the data set where there are several."""
    found: dict[str, list[FinishedRun]] = {}
    for run in runs:
        found.setdefault(run.dataset, []).append(run)
    if len(found) == 1:
        return {runs[0].task: list(runs)}
    topics = {name: f"{runs[0].task} on {name}" for name in found}
    return {topics[name]: [replace(run, topic=topics[name]) for run in same] for name, same in found.items()}


def _how(one: Scored, other: Scored) -> str:
    """`other decisions (118, of which 60 are shared)`, `other labels (of 3 decisions)`, `another test split`, ..."""
    facts = [dict(zip(s.decisions, zip(s.labels, s.groups, s.test, strict=True), strict=True)) for s in (one, other)]
    shared = facts[0].keys() & facts[1].keys()
    kinds = (("other labels", 0), ("other groups", 1), ("another test split", 2))
    found = [(what, sum(facts[0][uid][i] != facts[1][uid][i] for uid in shared)) for what, i in kinds]
    said = [f"{what} (of {n} decisions)" for what, n in found if n]
    if len(shared) < max(map(len, facts)):
        said.insert(0, f"other decisions ({len(facts[0])}, of which {len(shared)} are shared)")
    return " and ".join(said)
