"""The table `align` ends with: for each question the layer that validation prefers, and what it scores on test pictures.

Reads the rows of alignment.csv only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mllm_probe.settings import RANDOM
from mllm_probe.stats.peak import preferred

if TYPE_CHECKING:
    import pandas as pd


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
    Question("picture to caption, R@1", "retrieval", "image_to_text", "recall_at_1"),
    Question("caption to picture, R@1", "retrieval", "text_to_image", "recall_at_1"),
    Question("true or false caption, AUROC", "entailment", "caption", "auroc"),
    Question("quadruples, group score", "quadruples", "caption", "group_score"),
    Question("pictures to captions in sequence, R@1", "sequence_retrieval", "image_to_text", "recall_at_1"),
    Question("captions to pictures in sequence, R@1", "sequence_retrieval", "text_to_image", "recall_at_1"),
)


def curves(rows: "pd.DataFrame", control: str = "") -> Iterator[tuple[tuple[str, str], "pd.DataFrame"]]:
    """((position, similarity), its rows by layer)."""
    yield from rows[(rows.site != "") & (rows.control == control)].groupby(["position", "probe"], sort=False)


def best_layers(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """For each question, position and similarity the layer that validation prefers, with its test row."""
    found = []
    for question in QUESTIONS:
        tests = question.rows(table)
        val = {name: rows for name, rows in curves(question.rows(table, "val"))}
        twins = {name: rows for name, rows in curves(tests, RANDOM)}
        chance = tests[tests.probe == "chance"].value.iloc[0]
        for name, rows in curves(tests):
            site = val[name].site.iloc[preferred(val[name].value.to_numpy())]
            row = rows[rows.site == site].iloc[0]
            entry = {"question": question.name, "position": name[0], "similarity": name[1], "site": site}
            entry |= {column: float(row[column]) for column in ("value", "low", "high", "p_holm")}
            entry |= {"top": float(rows.value.iloc[-1]), "chance": float(chance)}
            entry["random_weights"] = float(twins[name].value.max()) if name in twins else None
            found.append({column: None if value != value else value for column, value in entry.items()})
    return found


def print_alignment(table: "pd.DataFrame", console: Console | None = None) -> None:
    """One row per question, position and similarity, in percent."""
    first = table.iloc[0]
    view = Table(
        title=f"{first.model} ({first.quantization}) on {first.dataset}: where pictures and captions meet, in %",
        caption="layer: chosen on validation; random: the best layer of random weights; *: p < 0.05, Holm",
        collapse_padding=True,
    )
    for name in ("question", "picture x text", "similarity", "layer"):
        view.add_column(name, no_wrap=name == "layer")
    for name in ("test", "top", "random", "chance"):
        view.add_column(name, justify="right", no_wrap=True)
    last = ""
    for entry in best_layers(table):
        if last and entry["question"] != last:
            view.add_section()
        view.add_row("" if entry["question"] == last else entry["question"], *_cells(entry))
        last = entry["question"]
    (console or Console()).print(view)


def _cells(entry: dict[str, Any]) -> Iterator[str]:
    yield from (entry["position"], entry["similarity"], entry["site"])
    star = "*" if entry["p_holm"] is not None and entry["p_holm"] < 0.05 else ""
    yield f"{100 * entry['value']:.1f}{star} [dim]\\[{100 * entry['low']:.1f}, {100 * entry['high']:.1f}][/dim]"
    for name in ("top", "random_weights", "chance"):
        yield "" if entry[name] is None else f"{100 * entry[name]:.1f}"
