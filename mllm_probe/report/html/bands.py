"""The edges of shaded bands on the page."""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def outline(x: Sequence[Any], rows: "pd.DataFrame") -> dict[str, list[Any]]:
    """Around the intervals of a line, a stretch of neighbours that have one at a time, for a shape with a gap in its
    edge is closed across the gap; none between stretches."""
    known = (rows.low.notna() & rows.high.notna()).tolist()
    found: dict[str, list[Any]] = {"x": [], "y": []}
    for there, stretch in groupby(range(len(known)), lambda i: known[i]):
        own = list(stretch) if there else []
        if own and found["x"]:
            found = {name: [*values, None] for name, values in found.items()}
        found["x"] += [x[i] for i in (*own, *reversed(own))]
        found["y"] += [*rows.high.iloc[own].tolist(), *reversed(rows.low.iloc[own].tolist())]
    return found
