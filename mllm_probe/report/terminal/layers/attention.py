"""What `lens lens=[attention]` ends with: a table for each span, and the sentences of its summary."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mllm_probe.report.tables.attention import SPAN_CALLED
from mllm_probe.report.terminal.printing import escaped, framed, say
from mllm_probe.results.lenses.attention import ABOVE, NEUTRAL, OBJECT, OWN, PICTURE, RELATIVE, SINK, SPANS

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (  # (its head, metric, map)
    ("picture", PICTURE, OWN),
    ("sinks", SINK, ""),
    ("object", OBJECT, OWN),
    ("above area", ABOVE, OWN),
    ("neutral", OBJECT, NEUTRAL),
    ("relative", OBJECT, RELATIVE),
)


def print_attention(table: "pd.DataFrame", summary: Mapping[str, Any], console: Console | None = None) -> None:
    """A table a span with a row a block, then the sentences of summary.json."""
    say(console, *attention_views(table), *summary.get("said", ()))


def attention_views(table: "pd.DataFrame") -> list[Table]:
    """One a span."""
    safe = escaped(table)
    own = safe[(safe.site != "") & (safe.control == "") & safe["head"].isna()]
    return [_view(span, own[own.position == span]) for span in SPANS if (own.position == span).any()]


def _view(span: str, table: "pd.DataFrame") -> Table:
    first = table.iloc[0]
    view = framed(
        f"{first.model}, {first.dataset}: what {SPAN_CALLED[span]} attend{'s' if span == SPANS[1] else ''} to",
        ["block"],
        [head for head, *_ in COLUMNS],
        caption="of attention, %: on the picture, on sinks (sinks.csv); of what lies on the picture: on the "
        "statement's object, that less the object's share of the picture (with its interval), the same of a neutral "
        "question, and of the ratio of both",
        collapse_padding=True,
    )
    for site, rows in table.groupby("site", sort=False):
        view.add_row(site, *(_cell(rows, metric, name) for _, metric, name in COLUMNS))
    return view


def _cell(rows: "pd.DataFrame", metric: str, name: str) -> str:
    own = rows[(rows.metric == metric) & (rows.kind == name)]
    if not len(own):
        return ""
    row = own.iloc[0]
    if metric != ABOVE or row.low != row.low:
        return f"{100 * row.value:.1f}"
    return f"{100 * row.value:+.1f} \\[{100 * row.low:.1f}, {100 * row.high:.1f}]"
