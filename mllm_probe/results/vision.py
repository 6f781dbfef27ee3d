"""The rows of vision.csv, fit.csv, groups.csv and points.csv."""

from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from mllm_probe.files.readback import save_table

if TYPE_CHECKING:
    import pandas as pd

MEAN = "mean"  # the `reference` of a_cos averaged over its references
PERCENT = ("c_pck",)


@dataclass(frozen=True)
class VisionScore:
    """One row of vision.csv; the fields are its columns, in order.

    `layer`, `size` and `width` of several encoders are joined by a plus sign, as in `representation`; `grid` is patches
    a side. `llm`: the model whose connector or whose language model was read. `reference`: what a_cos compares with
    (`mean`: the mean over all), or where the caption states lie. `over` (image or keypoint), `alpha`, `match` and
    `subset` (a category, empty for all) belong to c_pck. `n` is what the value is a mean over, of `n_images` pictures.
    `chance` is the value of unrelated features, `null_high` the 95 % quantile with shuffled captions. nan: empty.
    """

    run: str
    representation: str
    layer: str
    size: str
    grid: int
    width: str
    geometry: str
    normalisation: str
    dataset: str
    measure: str
    llm: str = ""
    reference: str = ""
    over: str = ""
    alpha: float = nan
    match: str = ""
    subset: str = ""
    n_images: int = 0
    n: int = 0
    value: float = nan
    low: float = nan
    high: float = nan
    ci_level: float = nan
    chance: float = nan
    null_high: float = nan


def headline(table: "pd.DataFrame") -> "pd.DataFrame":
    """One row for each representation and measure: all categories, per image, the first alpha, all references together.

    A is the value of a_loglik or a_cos, C that of c_pck.
    """
    return _whole(table, table.alpha.dropna().iloc[:1])


def _whole(table: "pd.DataFrame", alphas: "pd.Series[float]") -> "pd.DataFrame":
    found = table[(table.subset == "") & table.over.isin(("", "image"))]
    found = found[found.alpha.isna() | found.alpha.isin(alphas)]
    return found[(found.measure != "a_cos") | (found.reference == MEAN)]


def save_representations(path: Path, table: "pd.DataFrame") -> None:
    """One row for each representation, one column for each measure, as `vision fit` takes them and as the published
    table has them: c_pck010 is c_pck at alpha = 0.1 in percent."""
    rows = _whole(table, table.alpha.dropna())
    columns = [f"{m}{100 * a:03.0f}" if a == a else m for m, a in zip(rows.measure, rows.alpha, strict=True)]
    values = [100 * value if m in PERCENT else value for m, value in zip(rows.measure, rows.value, strict=True)]
    wide = rows.assign(measure=columns, value=values).pivot(index="representation", columns="measure", values="value")
    wide = wide.reindex(index=rows.representation.unique(), columns=list(dict.fromkeys(columns)))
    lines = ([name, *row] for name, row in zip(wide.index, wide.to_numpy().tolist(), strict=True))
    save_table(path, ("representation", *wide.columns), lines, digits=8, end="\n")


MEASURES = ("r2", "r2_adjusted", "r2_left_out", "rank_left_out", "r2_noise")  # of a law, in the rows below


@dataclass(frozen=True)
class LawRow:
    """One fit; a row of fit.csv.

    `a` and `c` are the columns of `table` the scores came from. `weight_*` are the coefficients of A, C, A², AC and C²
    on A, C and performance scaled to [0, 1]. R² in sample, adjusted, and with every point predicted by the others;
    `rank_left_out` is Spearman's between these predictions and what was measured, `r2_noise` the R² to expect of as
    many random regressors.
    """

    run: str
    table: str
    a: str
    c: str
    benchmark: str
    model: str
    n: int
    coefficients: int
    intercept: float = nan
    weight_a: float = nan
    weight_c: float = nan
    weight_aa: float = nan
    weight_ac: float = nan
    weight_cc: float = nan
    r2: float = nan
    r2_adjusted: float = nan
    r2_left_out: float = nan
    rank_left_out: float = nan
    r2_noise: float = nan


@dataclass(frozen=True)
class GroupRow:
    """Plain means of fit.csv over the benchmarks of a group; a row of groups.csv."""

    run: str
    group: str
    benchmarks: int
    model: str
    r2: float
    r2_adjusted: float
    r2_left_out: float
    rank_left_out: float
    r2_noise: float


@dataclass(frozen=True)
class PointRow:
    """One representation on one benchmark; a row of points.csv.

    A and C as in the table and scaled; `value` measured, `predicted` by the law fitted to all that were measured,
    `left_out` by the law fitted to all others, in the benchmark's own unit.
    """

    run: str
    benchmark: str
    representation: str
    a: float
    c: float
    unit_a: float
    unit_c: float
    value: float
    predicted: float
    left_out: float
