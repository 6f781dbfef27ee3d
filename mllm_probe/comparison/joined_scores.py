"""compare.csv: the scores of all runs that are compared, as their files have them."""

import csv
import os
from collections.abc import Sequence

import pandas as pd

from mllm_probe.comparison.finished import FinishedRun
from mllm_probe.files.comparison_paths import ComparisonPaths
from mllm_probe.files.readback import cell
from mllm_probe.files.store_paths import replacing
from mllm_probe.results.score_file import COLUMNS, load_scores


def save_scores(runs: Sequence[FinishedRun], paths: ComparisonPaths, parquet: bool) -> None:
    """The rows of all runs as their files have them, each with the run's label and its place below the folder that
    holds all of them."""
    above = os.path.commonpath([run.folder for run in runs])
    added = [(run.label, run.folder.relative_to(above).as_posix()) for run in runs]
    with replacing(paths.scores("csv")) as part, part.open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow((*COLUMNS, "label", "path"))
        for run, more in zip(runs, added, strict=True):
            with run.paths.scores.open(newline="") as own:
                writer.writerows((*row, *map(cell, more)) for row in list(csv.reader(own))[1:])
    if parquet:
        tables = [
            load_scores(run.paths.scores).assign(label=label, path=place)
            for run, (label, place) in zip(runs, added, strict=True)
        ]
        with replacing(paths.scores("parquet")) as part:
            pd.concat(tables).to_parquet(part, engine="pyarrow", index=False)
