"""regions.csv: what is known at single picture tokens, a row a score. Knows no way in which values arose."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.files.readback import load_filled, save_rows

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"  # the seed of rows that carry an interval
WITHIN, BETWEEN, POSITION, COLOUR = "within_picture", "between_pictures", "position", "colour"  # controls
WHOLE, FEW = "all", "few"  # how many pictures trained
AVERAGE_PRECISION, AUROC, MIOU = "average_precision", "auroc", "miou"
A_IN, A_OUT, LOCALITY, A_AT = "a_in", "a_out", "locality", "a_distance"


@dataclass(frozen=True)
class Region:
    """One row of regions.csv; the fields are its columns, in order. Empty: no value.

    `metric`: average_precision and auroc of "the category covers this token", miou of predicted grids of whole
    pictures; a_in and a_out, the AUROC of "the category is in the picture" from a token inside it and from one far
    away; locality = (a_in - a_out) / (a_in - 0.5); a_distance, that AUROC at `distance` tokens from the category. Each
    is a mean over `n_categories`.

    `control` is empty for the real labels; within_picture: labels were exchanged between the tokens of a picture;
    between_pictures: whole grids of labels were; position and colour: the probe reads the token's place or its cell's
    mean colour and no layer. `training` few: five training pictures of each category. `view` is empty where all views
    count. `n` tokens of `n_groups` groups of test pictures; rows of seed `all` carry intervals. `p_value` of a locality
    is that it is 0.5 or more, one-sided; `p_holm` the same corrected over all sites.
    """

    run: str
    cache: str
    model: str
    revision: str
    quantization: str
    dataset: str
    site: str
    tower: str
    layer: int | None
    part: str
    depth: float | None
    position: str
    probe: str
    control: str = ""
    training: str = WHOLE
    view: str = ""
    metric: str = ""
    distance: str = ""
    seed: str = ""
    n: int = 0
    n_groups: int = 0
    n_categories: int = 0
    value: float | None = None
    low: float | None = None
    high: float | None = None
    ci_level: float | None = None
    p_value: float | None = None
    p_holm: float | None = None


def save_regions(path: Path, rows: Iterable[Region]) -> None:
    save_rows(path, Region, list(rows))


def load_regions(path: Path) -> "pd.DataFrame":
    """Texts are "" and numbers nan where empty. Raises DataError where the file is missing, damaged or without rows."""
    return load_filled(path, Region, "run of task=regions")


SUMMARY = {
    "said": [str],
    "pictures": int,
    "cache": str,
    "local_turns_global": str | None,
}  # what is read of summary.json, all of which may lack
