"""The table `align` ends with: for each question the best layer on validation and its score on test pictures.

Reads the rows of alignment.csv only.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from mllm_probe.records.score import ALPHA
from mllm_probe.report.terminal.printing import framed, say
from mllm_probe.results.align import QUESTIONS, best_layers, chance

if TYPE_CHECKING:
    import pandas as pd


SHORT = {"recall_at_1": "R@1", "auroc": "AUROC", "group_score": "group"}


def print_alignment(table: "pd.DataFrame", console: Console | None = None) -> None:
    """The table of alignment_view."""
    say(console, alignment_view(table))


def alignment_view(table: "pd.DataFrame") -> Table:
    """One row per question and kind of similarity, at the best layer on validation, in percent."""
    first = table.iloc[0]
    what = escape(f"{first.model} ({first.quantization}) on {first.dataset}")
    view = framed(
        f"{what}: pictures and captions read separately, in %",
        ("similarity", "layer", Column("read at", min_width=12, max_width=12)),
        ("test", "null", "random"),
        caption="layer and position: chosen on validation; null: pictures exchanged; * above it, ↓ below it: two-sided "
        "p < 0.05, Holm over layers; random: the best layer of random weights",
        collapse_padding=True,
    )
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
