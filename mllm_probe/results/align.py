"""alignment.csv: which questions it answers, and the best layer of each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mllm_probe.config.sweep import PERMUTED, RANDOM
from mllm_probe.stats.peak import preferred

if TYPE_CHECKING:
    import pandas as pd


NAMES = ("features", "similarity", "position")


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
    """For each question, kind of similarity and position the best layer on validation, with its test row.

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
