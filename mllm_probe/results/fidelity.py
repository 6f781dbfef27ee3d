"""fidelity.csv: its rows, written and read back."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.config.sweep import METRICS
from mllm_probe.files.readback import columns, lines_of, read_table, save_table

if TYPE_CHECKING:
    import pandas as pd

SIDES = REFERENCE, MODEL = "reference", "model"
CHANGED, MOVED = "difference", "transfer"
HOME = (REFERENCE, REFERENCE)
HEADLINES = METRICS[1:]  # of `sweep.metric`, without auto


@dataclass(frozen=True)
class Agreement:
    """One row of fidelity.csv; the fields are its columns, in order.

    `measure`: relative_error, cosine, fvu and cka compare the states; answer_agreement the model's own answers;
    the headline, such as accuracy, is the probe's, fitted on the states of one side and read on those of a side;
    `difference` is the curve of the model minus that of the reference; `transfer` is a probe of the reference read on
    the model's states minus the same probe at home. `split` is test but for the scores that choose a layer. Empty: no
    value.
    """

    run: str
    model: str
    revision: str
    quantization: str
    reference: str
    cache: str
    reference_cache: str
    dataset: str
    task: str
    site: str
    tower: str
    layer: int
    part: str
    depth: float
    position: str
    measure: str
    n: int
    n_groups: int
    value: float | None = None
    fitted_on: str = ""
    read_on: str = ""
    probe: str = ""
    split: str = "test"
    low: float | None = None
    high: float | None = None
    ci_level: float | None = None
    p_value: float | None = None
    p_holm: float | None = None


COLUMNS = columns(Agreement)
NUMBERS = ("layer", "depth", "n", "n_groups", "value", "low", "high", "ci_level", "p_value", "p_holm")


def save_agreements(path: Path, rows: Iterable[Agreement]) -> None:
    save_table(path, COLUMNS, lines_of(rows))


def load_agreements(path: Path) -> "pd.DataFrame":
    """Raises DataError where the file is damaged."""
    texts = {name: str for name in COLUMNS if name not in NUMBERS}
    return read_table(path, texts, dict.fromkeys(NUMBERS, float))


def curve(here: "pd.DataFrame", fitted_on: str, read_on: str, split: str = "test") -> "pd.DataFrame":
    """The probe's scores among the rows of a position."""
    scores = here[here.measure.isin(HEADLINES) & (here.split == split)]
    return scores[(scores.fitted_on == fitted_on) & (scores.read_on == read_on)]


def headline(table: "pd.DataFrame") -> str:
    """The measure of the probe, in which its changes are, too."""
    return str(table[table.measure.isin(HEADLINES)].measure.iloc[0])
