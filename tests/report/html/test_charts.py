"""What a page draws: every band stands where its line does."""

from pathlib import Path

import numpy as np

from mllm_probe.report.html.charts import depth_chart
from mllm_probe.results.score_file import load_scores
from mllm_probe.results.selection import blocks, headline, real
from tests.support.score_tables import PEAKED, write


def test_bands_against_depth_stand_where_their_intervals_are(tmp_path: Path) -> None:
    """The lowest layer has none, as one that is at chance by design, and its neighbour's stays the neighbour's."""
    write(tmp_path / "run", "entailment", PEAKED)
    table = load_scores(tmp_path / "run" / "scores.csv")
    rows = blocks(real(headline(table)))
    table.loc[rows.index[rows.layer == 0], ["low", "high"]] = np.nan
    _, band = depth_chart("one", [("one", table, "last", "#000000")])["data"]
    own = rows[(rows.layer > 0) & (rows.position == "last")]
    edges = [*zip(own.depth, own.high, strict=True), *reversed([*zip(own.depth, own.low, strict=True)])]
    assert [*zip(band["x"], band["y"], strict=True)] == edges
