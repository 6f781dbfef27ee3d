"""study.json of a run of two tasks, read back."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mllm_probe.files.readback import read_entries
from mllm_probe.results.score_file import BOUND
from mllm_probe.results.selection import headline_metric

if TYPE_CHECKING:
    import pandas as pd


STUDY = {
    "position": str | None,
    "statements": [dict.fromkeys(("name", "verdict", "claim", "sentence"), str) | {"numbers": dict}],
    "headlines": [{**dict.fromkeys(("task", "position", "site", "metric"), str), "pooled": {str: BOUND}}],
}


def load_study(path: Path) -> dict[str, Any]:
    """study.json. Raises DataError."""
    return read_entries(path, STUDY, ("headlines",))


def study_headline(scores: "pd.DataFrame", summary: Mapping[str, Any], position: str) -> dict[str, Any] | None:
    """A task's score at the block that validation chose, over all decisions and, where it has them, over categories."""
    chosen = (summary.get("chosen") or {}).get(position)
    if chosen is None:
        return None
    site, metric = chosen["site"], headline_metric(scores)
    rows = scores[scores.headline & (scores.seed == "all") & (scores.split == "test") & (scores.control == "")]
    rows = rows[(rows.site == site) & (rows.position == position) & (rows.features == "single")]
    rows = rows[rows.train_template == rows.test_template]
    found = {"task": scores.task.iloc[0], "position": position, "site": site, "metric": metric}
    for name, subset in (("pooled", ""), ("macro", "macro")):
        for row in rows[rows.subset == subset].itertuples():
            found[name] = {end: float(getattr(row, end)) for end in ("value", "low", "high")}
    return found
