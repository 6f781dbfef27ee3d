"""Rows of scores.csv written by hand, their curves drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from mllm_probe.config.report import DEFAULT, ReportSettings
from mllm_probe.records.score import NOT_APPLICABLE, Score
from mllm_probe.report.figures.layers import layers_figure
from mllm_probe.report.figures.saving import save
from mllm_probe.report.figures.study import study_figure
from mllm_probe.report.tables.findings import Reading
from mllm_probe.results.score_file import ScoreFile

COMMON = {
    "headline": True,
    "run": "r",
    "cache": "c",
    "model": "mini",
    "revision": "",
    "quantization": "nf4",
    "dataset": "scenes",
    "task": "entailment",
    "target": "caption",
    "subset": "",
    "part": "block",
    "features": "single",
    "probe": "logistic",
    "control": "",
    "train_template": "t, with a comma",
    "test_template": "t, with a comma",
    "split": "test",
    "metric": "accuracy",
    "n": 40,
    "n_groups": 10,
    "n_train": 100,
    "lambda_": None,
    "converged": True,
    "ci_level": 0.95,
}


LAYERS = 9
HALF = {"text_only": 0.503, "blank_picture": 0.497, "shuffled_picture": 0.508, "random_weights": 0.56}
H1 = {
    "name": "H1",
    "claim": "entailment at last rises, peaks and falls",
    "verdict": "holds",
    "sentence": "entailment at last: peak at lm.05 [lm.04, lm.06]; the top layer lm.08 is 5.2 points lower [4.3, 6.1]",
    "numbers": {"chosen": "lm.05", "first": "lm.04", "last": "lm.06"}
    | {"chosen_depth": 0.625, "first_depth": 0.5, "last_depth": 0.75},
}


def score(value: float | None, **more: Any) -> Score:
    bounds = {} if value is None else {"low": value - 0.02, "high": value + 0.02}
    place = {"site": "", "tower": "", "layer": None, "depth": None, "position": "", "seed": "all"}
    return Score(**{**COMMON, **place, **bounds, "value": float("nan") if value is None else value, **more})  # type: ignore[arg-type]


def at(tower: str, layer: int, position: str, depth: float) -> dict[str, Any]:
    return {"site": f"{tower}.{layer:02d}", "tower": tower, "layer": layer, "position": position, "depth": depth}


def write(folder: Path, task: str, curve: Sequence[float], majority: float = 0.5, more: Sequence[Score] = ()) -> Path:
    """A run with every kind of row that a report may meet."""
    rows: list[Score] = []
    for layer, value in enumerate(curve):
        place = at("lm", layer, "last", layer / (LAYERS - 1))
        rows += [score(value, task=task, **place), score(value - 0.04, task=task, **{**place, "position": "mean_text"})]
        rows += [score(v + 0.004 * np.sin(layer), task=task, control=name, **place) for name, v in HALF.items()]
        liked = {"split": "val", "seed": "0", "task": task, **place}
        rows += [score(0.9 if layer == 4 else 0.5, control=name, **liked) for name in HALF]
        rows.append(score(0.5 + 0.3 * (layer / 8) ** 3, probe="logit_lens", features="answer", task=task, **place))
    for layer in range(4):
        rows.append(score(0.5, task=task, **at("vision", layer, "mean_image", layer / 3)))
    ceiling = {"control": "copy_ceiling", **at("lm", 8, "last", 1.0)}
    rows += [
        score(0.985, task=task, **ceiling),
        score(0.505, control="vision_only", task=task, **at("vision", 3, "x", 1)),
    ]
    rows += [score(0.78, control="zero_shot", probe="answer", task=task), score(majority, probe="majority", task=task)]
    rows += [score(0.613, control="zero_shot", metric="yes_rate", headline=False, task=task)]
    rows += [score(0.507, control="question_only", features="words", task=task)]
    rows += [score(None, control="text_only", metric=NOT_APPLICABLE, task=task, **at("lm", 0, "mean_image", 0.0))]
    rows += [score(0.99, subset="named", task=task, **at("lm", 3, "last", 0.375))]
    rows += [score(0.33, test_template="another", task=task, **at("lm", 3, "last", 0.375))]
    folder.mkdir()
    file = ScoreFile(folder / "scores.csv")
    file.add([*rows, *more])
    return folder / "scores.csv"


PEAKED = [0.5, 0.55, 0.65, 0.78, 0.87, 0.93, 0.92, 0.90, 0.88]
PLATEAU = [0.6, 0.75, 0.88, 0.93, 0.94, 0.945, 0.945, 0.94, 0.94]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    found: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **rest: (found.append(self), save(self, *args, **rest))[1]
    )
    return found


def lines(figure: Figure) -> dict[str, list[float]]:
    """{label or gid: y} of the last panel."""
    return {line.get_gid() or str(line.get_label()): list(line.get_ydata()) for line in figure.axes[-1].lines}  # type: ignore[arg-type]


def draw_layers(scores: pd.DataFrame, paths: Sequence[Path], settings: ReportSettings = DEFAULT) -> str:
    """The figure of layers as files; what `save` says."""
    return save(layers_figure(scores, settings), paths, settings)


def draw_study(
    whole: pd.DataFrame,
    local: pd.DataFrame,
    best: Sequence[Reading | None],
    paths: Sequence[Path],
    settings: ReportSettings = DEFAULT,
) -> str:
    """The figure of a study as files; what `save` says."""
    return save(study_figure(whole, local, best, settings), paths, settings)
