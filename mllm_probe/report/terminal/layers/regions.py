"""What `run task=regions` ends with: a table, and in words where local turns global. Fits nothing."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mllm_probe.report.tables.regions import HEADS, by_site
from mllm_probe.report.terminal.printing import escaped, framed, say
from mllm_probe.results.regions import AUROC, AVERAGE_PRECISION, LOCALITY

if TYPE_CHECKING:
    import pandas as pd


SHORT = {AVERAGE_PRECISION: "AP"}
BOUNDED = (LOCALITY,)  # whose intervals stand in the table; those of all are in regions.csv


def print_regions(table: "pd.DataFrame", summary: Mapping[str, Any], console: Console | None = None) -> None:
    """A row a site, then the sentences of summary.json."""
    say(console, regions_view(table), *summary.get("said", ()))


def regions_view(table: "pd.DataFrame") -> Table:
    safe = escaped(table)
    first = safe.iloc[0]
    shown = {metric: SHORT.get(metric, name) for metric, name in HEADS.items() if metric != AUROC}
    view = framed(
        f"{first.model}, {first.dataset}: what single picture tokens know",
        ["site"],
        list(shown.values()),
        caption="AP (average precision), mIoU: what covers the token; A_in, A_out: is the object in the picture, from "
        "a token on it and from 3 tokens away or more; locality: 1 only there, 0 everywhere",
        collapse_padding=True,
    )
    for site, rows in by_site(safe).items():
        view.add_row(site, *(_cell(rows.get(metric), metric in BOUNDED) for metric in shown))
    return view


def _cell(row: Any, bounded: bool) -> str:
    if row is None or row.value != row.value:
        return ""
    bounds = "" if not bounded or row.low != row.low else f" [{row.low:.2f}, {row.high:.2f}]"
    return f"{row.value:.2f}{bounds}"
