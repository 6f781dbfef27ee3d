"""What several layers as one feature gained: the lines below the table. Reads scores and summary only."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from mllm_probe.config.sweep import CONTROL_TASK, PERMUTED
from mllm_probe.features.controls import BEST, FINAL
from mllm_probe.records import units
from mllm_probe.report.tables.curve_shapes import p_said

if TYPE_CHECKING:
    import pandas as pd


OTHER_LABELS = (CONTROL_TASK, PERMUTED, "copy_ceiling")


def gains(summary: Mapping[str, Any]) -> Iterator[str]:
    """A sentence on each integration, its intervals, and what became of the paper's order."""
    metric = str(summary.get("metric", "accuracy"))
    for entry in summary.get("integrations", ()):
        score = units.value(entry["value"], None, None, metric)
        what = escape(f"{entry['features']} at {entry['position']} ({entry['layers']})")
        yield f"{what}: {score}, [bold]{entry['verdict']}[/bold]"
        against = (f"{_named(name, entry)} {_gap(numbers, metric)}" for name, numbers in entry["against"].items())
        if entry["edge"]:
            yield "  one seed chose the strongest penalty in probe.lambdas; stronger ones may change this result"
        yield f"  compared with: {'; '.join(against)}"
    for order in summary.get("orders", ()):
        yield (
            f"the paper's order, dci >= sci > final layer, {_said(order['verdict'])} at {order['position']}: "
            f"dci minus sci {_gap(order['dci_over_sci'], metric)}; sci minus final layer "
            f"{_gap(order['sci_over_final'], metric)}"
        )


def _named(control: str, entry: Mapping[str, Any]) -> str:
    name = control.replace("_", " ")
    more = {FINAL: "", BEST: f", {entry['best_layer']},"}.get(
        control, ", best on validation of equal width without other layers,"
    )
    return escape(f"{name}{more}")


def _gap(found: Mapping[str, float], metric: str) -> str:
    gap = escape(units.gap(found["value"], found["low"], found["high"], metric))
    return f"{gap}, {p_said(found['p_adjusted'])}"


def _said(verdict: str) -> str:
    return f"is {verdict}" if verdict == "undecided" else verdict


def integrations(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Headline rows of integrations and of their controls."""
    names = rows[rows.control == FINAL].features.unique()
    return rows[rows.features.isin(names) & ~rows.control.isin(OTHER_LABELS)]
