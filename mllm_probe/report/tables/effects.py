"""Which rows of effects.csv are a line, what it is called, and what stands beside it. Reads tables only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mllm_probe.records import units
from mllm_probe.records.score import ALPHA
from mllm_probe.results.effects import ERASURE, HEADLINES, KNOCKOUT, RANDOM, STEERING

if TYPE_CHECKING:
    import pandas as pd

CONTROLS = {KNOCKOUT: "as many random edges", ERASURE: "random erasures", STEERING: "random directions"}
ENDS = ["value", "low", "high", "control_value"]


@dataclass(frozen=True)
class Line:
    """What is changed, at all its layers: `label` tells it from the others, `way` and `part` how it is drawn.

    `control` are the rows of a control of its own, empty where all lines share theirs.
    """

    label: str
    what: str
    way: str
    part: str
    rows: "pd.DataFrame"
    control: "pd.DataFrame"


def metrics(table: "pd.DataFrame") -> list[str]:
    """In the order of the table, the headline of the kind first where it was measured."""
    main = HEADLINES.get(str(table.kind.iloc[0]), "")
    return sorted(dict.fromkeys(table.metric), key=lambda metric: metric != main)


def lines(table: "pd.DataFrame", metric: str) -> list[Line]:
    """The effects of a metric; of several strengths the largest, which `headed` tells."""
    rows, drawn = (at_strength(table[(table.metric == metric) & (table.control == name)]) for name in ("", RANDOM))
    several = {name: rows[name].nunique() > 1 for name in ("direction", "part")}
    found = []
    for (what, way, part), own in rows.groupby(["what", "direction", "part"], sort=False):
        more = [one for name, one in (("direction", way), ("part", part)) if several[name]]
        control = drawn[(drawn.what == what) & (drawn.kind == KNOCKOUT)]
        rows_of = (one.sort_values(["layer", "first"]) for one in (own, control))
        found.append(Line(", ".join([what, *more]), what, way, part, *rows_of))
    return found


def at_strength(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Those of the largest strength; all, where there is none."""
    return rows if rows.strength.isna().all() else rows[rows.strength == rows.strength.max()]


def band(table: "pd.DataFrame", metric: str) -> "pd.DataFrame":
    """The controls of all lines of a metric at each layer: layer, depth, and the lowest and highest end. None of a
    knockout, where as many edges are others for each line."""
    rows = at_strength(table[(table.metric == metric) & (table.control == RANDOM) & (table.kind != KNOCKOUT)])
    return rows.groupby("layer", as_index=False).agg({"depth": "first", "low": "min", "high": "max"})


def scaled(rows: "pd.DataFrame", metric: str) -> "pd.DataFrame":
    """In the unit that people read."""
    return rows.assign(**{name: units.unit(metric).scale * rows[name] for name in ENDS if name in rows})


def headed(table: "pd.DataFrame", metric: str) -> str:
    """What an axis of a metric is called, with the strength of its lines: `answers that change in %, strength 2`."""
    strength = at_strength(table[table.metric == metric]).strength.iloc[0]
    return units.headed(metric) + (f", strength {strength:g}" if strength == strength else "")


def of_window(table: "pd.DataFrame") -> str:
    """What is said behind the name of an axis, where a layer stands for several blocks."""
    return " (of the window)" if (table["last"] > table["first"]).any() else ""


def place(row: Any) -> str:
    """What is changed: a site without its part, which the label has, or the blocks of a window."""
    if row.site:
        return f"lm.{row.layer:02d}"
    return f"{row.first} to {row.last}" if row.last > row.first else str(row.first)


def caption(table: "pd.DataFrame", metric: str) -> str:
    """What a star says."""
    if table[table.metric == metric].p_max_t.isna().all():
        return "not tested"
    against = CONTROLS.get(str(table.kind.iloc[0]), "no change")
    return f"*: p <= {ALPHA} against {against}, corrected over the whole sweep (max-T)"


def sentences(summary: Any) -> Iterator[str]:
    """What was shown, what was not, and what became of H4."""
    yield from summary.get("shown", ())
    yield from summary.get("not_shown", ())
    for one in summary.get("statements", ()):
        yield f"{one['name']}, {one['claim']}: {one['sentence']}"
