"""vision.csv and the table that `vision score` ends with. Computes nothing."""

from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from mllm_probe.files.cells import cell
from mllm_probe.files.paths import replacing
from mllm_probe.report.markup import escaped, screen

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
    wide = wide.reindex(index=rows.representation.unique(), columns=list(dict.fromkeys(columns))).rename(index=cell)
    with replacing(path) as part:
        wide.to_csv(part, float_format="%.8g", lineterminator="\n")


def print_vision(table: "pd.DataFrame", console: Console | None = None) -> None:
    """The headline rows, one section for each measure."""
    table = escaped(table)
    view = Table(title="vision encoders", caption=_caption(table))
    for name in ("measure", "representation"):
        view.add_column(name, no_wrap=True)
    for name in ("value", "interval", "floor", "n"):
        view.add_column(name, justify="right", no_wrap=True)
    for measure, rows in headline(table).groupby("measure", sort=False):
        view.add_section()
        for number, row in enumerate(rows.itertuples()):
            factor = 100 if measure in PERCENT else 1
            between = "" if row.low != row.low else f"\\[{_short(factor * row.low)}, {_short(factor * row.high)}]"
            floor = row.null_high if row.null_high == row.null_high else row.chance
            numbers = (_short(factor * row.value), between, _short(floor), str(row.n))
            view.add_row("" if number else str(measure), row.representation, *numbers)
    (console or screen()).print(view)


def _caption(table: "pd.DataFrame") -> str:
    alphas = headline(table).alpha.dropna()
    within = f"c_pck: % within {alphas.iloc[0]:g} of the object; " if len(alphas) else ""
    return f"{within}interval: other pictures; floor: shuffled captions"


def _short(value: float) -> str:
    return "" if value != value else f"{value:.3g}"
