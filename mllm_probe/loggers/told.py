"""What loggers get from a finished run, under the same names for all loggers.

    TASK/POSITION/PROBE/MEASURE        entailment/last/logistic/accuracy: a value a block of the language model
    TASK/TOWER.POSITION.PART/...       entailment/vision.mean_image/..., entailment/last.norm/...: other sites
    .../PROBE.FEATURES.CONTROL/...     entailment/last/logistic.control_task/accuracy
    TASK/BASELINE/MEASURE              entailment/question_only/accuracy: no layer, step 0
    TASK/chosen/POSITION/MEASURE       the block that validation chose; TASK/chosen/POSITION/layer is its number

The step is the layer. MEASURE.low and MEASURE.high are the interval. Characters that one of the loggers refuses are _.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mllm_probe.config.sentences import flat, show
from mllm_probe.files.paths import OutputPaths, RunPaths
from mllm_probe.files.readback import read_config
from mllm_probe.results.score_file import load_scores, load_summary

if TYPE_CHECKING:
    import pandas as pd

PLAIN = ("single", "answer")  # features that the probe's name says already


@dataclass(frozen=True)
class Point:
    """One value of a curve; `step` is the layer, 0 where there is none."""

    name: str
    step: int
    value: float


@dataclass(frozen=True)
class Record:
    """A finished run: its digest, where it is, {dotted name: setting}, its curves, {name: value} and its PNGs."""

    name: str
    paths: RunPaths
    outputs: OutputPaths
    settings: dict[str, str | int | float | bool]
    points: tuple[Point, ...]
    chosen: dict[str, float]
    figures: tuple[Path, ...]


class Logger(Protocol):
    """Where finished runs can be sent."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The modules it imports, of packages that are no dependency."""

    def log(self, record: Record) -> str:
        """Write a run and say how to look at it. Whatever it raises is noted, and hurts nobody."""


def recorded(paths: RunPaths, outputs: OutputPaths) -> Record:
    """The record of a run's folder. Raises DataError."""
    scores, summary = load_scores(paths.scores), load_summary(paths.summary)
    settings = flat(read_config(paths.config))
    plain = {name: value if isinstance(value, str | int | float) else show(value) for name, value in settings.items()}
    figures = tuple(sorted(paths.root.glob("*.png")))
    return Record(str(summary["run"]), paths, outputs, plain, tuple(_points(scores)), _chosen(summary), figures)


def _points(scores: "pd.DataFrame") -> Iterator[Point]:
    """The aggregate test rows of every measure, over all test rows in the wording that was trained on."""
    whole = (scores.seed == "all") & (scores.split == "test") & (scores.subset == "") & scores.value.notna()
    for row in scores[whole & (scores.train_template == scores.test_template)].itertuples():
        name, step = _name(row), int(row.layer) if row.layer == row.layer else 0
        for end, value in (("", row.value), (".low", row.low), (".high", row.high)):
            if value == value:
                yield Point(f"{name}{end}", step, float(value))


def _name(row: Any) -> str:
    if not row.site:
        return _clean(row.task, row.control or row.probe, row.metric)
    tower, part = "" if row.tower == "lm" else row.tower, "" if row.part == "block" else row.part
    place = ".".join(word for word in (tower, row.position, part) if word)
    features = "" if row.features in PLAIN else row.features
    return _clean(row.task, place, ".".join(word for word in (row.probe, features, row.control) if word), row.metric)


def _chosen(summary: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for position, entry in summary["chosen"].items():
        found[_clean(summary["task"], "chosen", position, summary["metric"])] = entry["value"]
        found[_clean(summary["task"], "chosen", position, "layer")] = int(entry["site"].split(".")[1])
    return found


def _clean(*words: str) -> str:
    return "/".join(re.sub(r"[^\w.-]", "_", word) for word in words)
