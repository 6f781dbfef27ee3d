"""What `lens` ends with: a table, and in words where each lens is local most often."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mllm_probe.report.terminal.printing import escaped, framed, say
from mllm_probe.results.lenses.lens import ELSEWHERE, EXCHANGED, LOCAL, OBJECTS, PRESENCE

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (  # (its head, metric, tokens, nearest words, control)
    ("local", LOCAL, OBJECTS, 1, ""),
    ("chance", LOCAL, OBJECTS, 1, EXCHANGED),
    ("elsewhere", ELSEWHERE, OBJECTS, 1, ""),
    ("of five", LOCAL, OBJECTS, 5, ""),
    ("chance", LOCAL, OBJECTS, 5, EXCHANGED),
)


def print_lens(table: "pd.DataFrame", summary: Mapping[str, Any], console: Console | None = None) -> None:
    """A table a lens with a row a site, then the sentences of summary.json."""
    say(console, *lens_views(table), *summary.get("said", ()))


def lens_views(table: "pd.DataFrame") -> list[Table]:
    """One a lens."""
    safe = escaped(table)
    return [_view(lens, rows) for lens, rows in safe[safe.site != ""].groupby("lens", sort=False)]


def _view(lens: str, table: "pd.DataFrame") -> Table:
    first, confident = table.iloc[0], (table.metric == PRESENCE).any()
    more = "; presence: AUROC of what is in the picture, by confidence" if confident else ""
    view = framed(
        f"{first.model}, {first.dataset}, {lens} lens: the words that picture tokens stand for",
        ["site"],
        [*(head for head, *_ in COLUMNS), *(["presence"] if confident else [])],
        caption="of tokens on objects, %: local, the nearest word (or one of five) names the object; elsewhere, it "
        f"names another in the picture; chance, local with another picture's masks{more}",
        collapse_padding=True,
    )
    for site, rows in table.groupby("site", sort=False):
        view.add_row(site, *(_share(rows, *what[1:]) for what in COLUMNS), *([_presence(rows)] if confident else []))
    return view


def _share(rows: "pd.DataFrame", metric: str, tokens: str, top: int, control: str) -> str:
    own = rows[(rows.metric == metric) & (rows.tokens == tokens) & (rows.top == top) & (rows.control == control)]
    return f"{100 * own.value.iloc[0]:.1f}" if len(own) else ""


def _presence(rows: "pd.DataFrame") -> str:
    own = rows[(rows.metric == PRESENCE) & (rows.control == "")]
    return f"{own.value.iloc[0]:.3f}" if len(own) else ""
