"""The table `align` ends with: for each question the layer that validation prefers and its score on test pictures.

Reads the rows of alignment.csv only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mllm_probe.config.sweep import PERMUTED, RANDOM
from mllm_probe.records.score import ALPHA
from mllm_probe.report.markup import screen
from mllm_probe.stats.peak import preferred

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("features", "similarity", "position")
SHORT = {"recall_at_1": "R@1", "auroc": "AUROC", "group_score": "group"}


@dataclass(frozen=True)
class Question:
    """One panel of the figure and one part of the table: rows of a task and target, by one metric."""

    name: str
    task: str
    target: str
    metric: str

    def rows(self, table: "pd.DataFrame", split: str = "test") -> "pd.DataFrame":
        """Those of all layers, controls and baselines."""
        asked = (table.task == self.task) & (table.target == self.target) & (table.metric == self.metric)
        return table[asked & (table.split == split)]


QUESTIONS = (
    Question("pictures to captions", "retrieval", "image_to_text", "recall_at_1"),
    Question("captions to pictures", "retrieval", "text_to_image", "recall_at_1"),
    Question("true or false", "entailment", "caption", "auroc"),
    Question("quadruples", "quadruples", "caption", "group_score"),
    Question("document to captions", "sequence_retrieval", "image_to_text", "recall_at_1"),
    Question("document to pictures", "sequence_retrieval", "text_to_image", "recall_at_1"),
)


def curves(rows: "pd.DataFrame", control: str = "") -> Iterator[tuple[tuple[str, str, str], "pd.DataFrame"]]:
    """((features, similarity, position), its rows by layer)."""
    named = rows[(rows.site != "") & (rows.control == control)]
    yield from named.groupby(["features", "probe", "position"], sort=False)


def best_layers(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """For each question, kind of similarity and position the layer that validation prefers, with its test row.

    `null` is the layer's mean with pictures exchanged, `random_weights` the highest layer of the untrained twin, `top`
    the last layer; None where there is none.
    """
    found = []
    for question in QUESTIONS:
        tests = question.rows(table)
        val, twins = dict(curves(question.rows(table, "val"))), dict(curves(tests, RANDOM))
        nulls = dict(curves(tests, PERMUTED))
        for name, rows in curves(tests):
            chosen = val[name].iloc[preferred(val[name].value.to_numpy())]
            row = rows[rows.site == chosen.site].iloc[0]
            entry = {"question": question.name, **dict(zip(NAMES, name, strict=True)), "site": chosen.site}
            entry |= {"val": chosen.value, "top": rows.value.iloc[-1], "chance": chance(tests)}
            entry |= {column: row[column] for column in ("value", "low", "high", "p_holm")}
            entry["null"] = nulls[name].set_index("site").value[chosen.site] if name in nulls else None
            entry["random_weights"] = twins[name].value.max() if name in twins else None
            found.append({column: _plain(value) for column, value in entry.items()})
    return found


def chance(rows: "pd.DataFrame") -> float:
    """What a question's rows say of it."""
    return float(rows[rows.probe == "chance"].value.iloc[0])


def _plain(value: Any) -> Any:
    """As JSON has it: nan is None."""
    return value if isinstance(value, str) else None if value is None or value != value else float(value)


def print_alignment(table: "pd.DataFrame", console: Console | None = None) -> None:
    """The table of alignment_view."""
    (console or screen()).print(alignment_view(table))


def alignment_view(table: "pd.DataFrame") -> Table:
    """One row per question and kind of similarity, where validation prefers it, in percent."""
    first = table.iloc[0]
    what = escape(f"{first.model} ({first.quantization}) on {first.dataset}")
    view = Table(
        title=f"{what}: pictures and captions read alone, in %",
        caption="layer and position: chosen on validation; null: pictures exchanged; * above it, ↓ below it: two-sided "
        "p < 0.05, Holm over layers; random: the best layer of random weights",
        collapse_padding=True,
    )
    view.add_column("similarity", no_wrap=True)
    view.add_column("layer", no_wrap=True)
    view.add_column("read at", min_width=12, max_width=12)
    view.add_column("test", justify="right", no_wrap=True)
    view.add_column("null", justify="right", no_wrap=True)
    view.add_column("random", justify="right", no_wrap=True)
    best = best_layers(table)
    for question in QUESTIONS:
        here = [entry for entry in best if entry["question"] == question.name]
        by_kind: dict[str, dict[str, Any]] = {}
        for entry in sorted(here, key=lambda entry: entry["val"]):  # the last one stays
            by_kind[f"{entry['features']} {entry['similarity']}"] = entry
        view.add_section()
        view.add_row(
            f"[bold]{question.name}[/bold]",
            SHORT[question.metric],
            "",
            f"chance {100 * chance(question.rows(table)):.1f}",
        )
        for kind in sorted(by_kind):
            view.add_row(kind, *_cells(by_kind[kind]))
    return view


def _cells(entry: dict[str, Any]) -> Iterator[str]:
    yield from (entry["site"], entry["position"])
    far = entry["p_holm"] is not None and entry["p_holm"] < ALPHA
    mark = ("*" if entry["value"] > entry["null"] else "↓") if far else ""
    bounds = "" if entry["low"] is None else f" [dim]\\[{100 * entry['low']:.0f}, {100 * entry['high']:.0f}][/dim]"
    yield f"{100 * entry['value']:.1f}{mark}{bounds}"
    for name in ("null", "random_weights"):
        yield "" if entry[name] is None else f"{100 * entry[name]:.1f}"
