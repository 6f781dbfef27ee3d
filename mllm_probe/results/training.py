"""losses.csv of a training, and the rows of arms.csv, which sets several side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.files.readback import read_table, save_table

if TYPE_CHECKING:
    import pandas as pd
from dataclasses import dataclass
from math import nan

DRAWN = {"loss": "whole loss", "lg": "caption loss (lg)", "ld": "structure loss (ld)"}  # columns of losses.csv


def save_losses(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """A row a step, columns by the first: what is written down depends on the target."""
    save_table(path, rows[0], ([row[name] for name in rows[0]] for row in rows))


def load_losses(path: Path) -> "pd.DataFrame":
    """A row a step. Raises DataError where the file is damaged."""
    return read_table(path, {}, dict.fromkeys(("step", "lr", *DRAWN), float), optional=DRAWN)


BASE, PLAIN, FULL, PERMUTED = "base", "lg", "lg_ld", "permuted"  # the model itself, and the arms that a claim needs
NAMES = {"captions": "caption loss", "refitted": "probe refitted", "reused": "base probe reused"}


@dataclass(frozen=True)
class Effect:
    """One row of arms.csv: what is measured of `arm` minus the same of `against`, on the same test rows.

    `measure`: captions (nats of a caption), refitted (a probe fitted on the arm's own states) and reused (the base
    model's probe on the arm's states), both in points of accuracy; a measure of `align` otherwise. `layers`: all, the
    mean over the language model's blocks, or the best block of the base on validation. `value` is the mean over
    seeds of training, `seeds` the value of each; `low`, `high` and `p_value` are over test pictures, given these
    trainings, and nan where only one number a training is known. `p_holm` goes over the measures of a pair of arms.
    """

    measure: str
    task: str
    position: str
    layers: str
    arm: str
    against: str
    unit: str
    n: int
    n_groups: int
    value: float
    seeds: str
    low: float = nan
    high: float = nan
    ci_level: float = nan
    p_value: float = nan
    p_holm: float = nan

    @property
    def agreed(self) -> bool:
        """Whether every seed of training moved it the same way."""
        values = [float(one) for one in self.seeds.split()]
        return all(one > 0 for one in values) or all(one < 0 for one in values)
