"""attention.csv, sinks.csv and attention.safetensors: how much of the attention of statements lies where. Knows no way
in which attention is read."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mllm_probe.files.readback import load_filled, save_rows
from mllm_probe.files.store_paths import replacing

if TYPE_CHECKING:
    import pandas as pd

SPANS = STATEMENT, LAST = "statement", "last"  # whose attention
OWN, NEUTRAL, RELATIVE = "own", "neutral", "relative"  # maps over the picture
PICTURE, OBJECT, AREA, ABOVE, SINK = "picture_mass", "object_mass", "object_area", "object_above_area", "sink_mass"
SUMMARY = {"statements": int, "pictures": int, "said": list}  # what is read of summary.json


@dataclass(frozen=True)
class Attention:
    """One row of attention.csv; the fields are its columns, in order. Empty: no value.

    `position` is whose attention it is, in block `layer`: the mean over the tokens of the statement, or the last token
    of the prompt. `metric`: picture_mass, the share that lies on picture tokens; object_mass, the share of that part
    which lies on the object that a true statement is about, by what of each token's cell its mask covers; object_area,
    the share of the picture's cells that it covers, where attention that looks nowhere lies; object_above_area, their
    difference; sink_mass, the share on the tokens of sinks.csv. `kind`: own attention, that of the neutral question
    about the same picture, or relative: the one divided by the other, token by token (Zhang et al. 2025, arXiv
    2502.17422). `head`: empty for the mean over heads. `control` random_weights: an untrained model. `n` statements of
    `n_groups` groups of pictures.
    """

    run: str
    cache: str
    model: str
    revision: str
    quantization: str
    dataset: str
    task: str
    site: str
    tower: str
    layer: int | None
    part: str
    depth: float | None
    position: str
    control: str = ""
    metric: str = ""
    kind: str = ""
    head: int | None = None
    n: int = 0
    n_groups: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    ci_level: float | None = None


@dataclass(frozen=True)
class Sink:
    """One row of sinks.csv: a token that attracts much attention of a span `position` in many prompts.

    `sink` is where it stands: before:2 (the third token before the picture), image:17 (its eighteenth), within:0 (a
    mark between picture tokens), behind:0 (behind them and before the statement), statement:0, end:-1 (the last).
    `token` is what it writes, where that is the same in all prompts. `prompts` is the share of prompts in which it
    attracts more than attention.sink_mass, `mass` its mean share of the attention of all `n` prompts.
    """

    model: str
    site: str
    position: str
    control: str
    sink: str
    token: str
    prompts: float
    mass: float
    n: int


def save_attention(path: Path, rows: Iterable[Attention]) -> None:
    save_rows(path, Attention, list(rows))


def save_sinks(path: Path, rows: Iterable[Sink]) -> None:
    """Four digits a share."""
    save_rows(path, Sink, list(rows), digits=4)


def load_attention(path: Path) -> "pd.DataFrame":
    """Texts are "" and numbers nan where empty. Raises DataError where the file is missing, damaged or without rows."""
    return load_filled(path, Attention, "run of mllm-probe lens lens=[attention]")


def save_maps(path: Path, arrays: Mapping[str, np.ndarray], told: Mapping[str, Any]) -> None:
    """In one move; `told` stands in the header as JSON."""
    from safetensors.numpy import save_file

    with replacing(path) as part:
        whole = {name: np.ascontiguousarray(one) for name, one in arrays.items()}
        save_file(whole, part, {name: json.dumps(one) for name, one in told.items()})
