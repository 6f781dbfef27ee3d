"""The words of a run on what could not be tested, or is so by design: neither speaks for or against a layer."""

import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from mllm_probe.report.tables.controls import beside
from mllm_probe.report.tables.findings import Reading
from mllm_probe.report.terminal.run import print_table
from mllm_probe.results.score_file import load_scores
from mllm_probe.scoring.verdicts import best_layers as verdicts
from tests.support.score_tables import write
from tests.support.score_words import COMMON, CURVE, reading, said, summary, table


@pytest.fixture
def scores(tmp_path: Path) -> pd.DataFrame:
    return load_scores(write(tmp_path / "run", "entailment", CURVE))


def printed(scores: pd.DataFrame, summary: dict[str, Any], tests: pd.DataFrame) -> str:
    written = io.StringIO()
    print_table(scores, summary, tests, Console(file=written, width=300))
    return written.getvalue()


def test_what_is_so_by_design_speaks_for_nothing(scores: pd.DataFrame) -> None:
    """A control that knows nothing at one layer is shown where it may know something."""
    more = {"test": "control", "site": "lm.04", "other": "random_weights", "value": 0.3, "verdict": "by design"}
    tests = pd.concat([table({"lm.08": 1.0}), pd.DataFrame([COMMON | more])])
    random = (scores.control == "random_weights") & (scores.position == "last") & (scores.seed == "all")
    liked = random & (scores.site == "lm.04")
    for rows, site, counts in ((liked, "lm.00", True), (random, "lm.04", False)):
        scores.loc[rows, "family"] = "by design"
        one = next(one for one in beside(scores, tests, "last", "lm.04") if one.name == "random weights")
        assert (one.row.site, one.counts) == (site, counts) and one.said.endswith(", by design") != counts
        assert one.designed != counts and "not shown" not in one.said


def test_a_control_by_design_leaves_the_marks_of_the_layer_alone(scores: pd.DataFrame) -> None:
    place = (scores.site == "lm.08") & (scores.position == "last") & (scores.seed == "all")
    floor = {"test": "floor", "site": "lm.08", "other": "constant", "verdict": "above the best constant answer"}
    tests = pd.concat([table({"lm.08": 1.0}), pd.DataFrame([COMMON | floor])])
    for control, mark, caption in (("random_weights", "*", False), ("", "d", True)):
        scores.loc[place & (scores.control == control) & (scores.features == "single"), "family"] = "by design"
        written = printed(scores, summary(0.85), tests)
        assert f"85.0 [83.0, 87.0]{mark} " in written and ("d: by design" in written) == caption


def test_what_has_no_interval_is_not_called_nan(scores: pd.DataFrame) -> None:
    """The differences that have no interval have no least detectable one; the floor of one without has no p."""
    nothing = {"low": float("nan"), "high": float("nan"), "detectable": float("nan"), "p_adjusted": float("nan")}
    rows = [
        {"test": "floor", "site": "lm.08", "other": "constant", "value": 0.438, "detectable": 0.272},
        {"test": "drop", "site": "lm.08", "other": "lm.07", "value": 0.0, "p_adjusted": 0.9},
        {"test": "control", "site": "lm.08", "other": "random_weights", "value": 0.0, "p_adjusted": 1.0},
    ]
    tests = pd.concat([table({"lm.08": 1.0}), pd.DataFrame([COMMON | nothing | row for row in rows])])
    scores = pd.concat([scores, scores[scores.probe == "majority"].assign(probe="constant")])
    why = "a label is in 3 test pictures; accuracy needs 8 for an interval"
    told = {**summary(0.85), "intervals": [f"no interval of accuracy: {why}"]}
    words = said(Reading(scores, told, tests, "last"))
    assert "nan" not in words and "nan" not in printed(scores, told, tests)
    assert f"not tested against the best constant answer (+43.8 points): {why}" in words
    assert "lm.08: not tested, +43.8 points" in words and "(minimum detectable difference: 27.2" not in words
    assert "not significantly different from random weights;" in words and "power 80" not in words


def test_a_layer_by_design_is_not_tested(scores: pd.DataFrame) -> None:
    tests = table({"lm.08": 1.0})
    own = (tests.test == "above_chance") & (tests.site == "lm.08")
    tests.loc[own, ["verdict", "p_value", "p_adjusted"]] = ["by design", None, None]
    more = {"test": "control", "site": "lm.08", "other": "random_weights", "value": 0.0, "verdict": "by design"}
    words = said(reading(scores, pd.concat([tests, pd.DataFrame([COMMON | more])])))
    assert "nan" not in words and "not shown" not in words
    assert "not tested against chance: by design" in words
    assert "[83.0, 87.0], by design, not tested against random weights (by design); no other block" in words


def test_what_is_not_known_is_empty_in_the_csv(tmp_path: Path) -> None:
    nan = float("nan")
    row = verdicts.Test(
        "r", "floor", "1 key", "logistic", "last", "lm.00", low=nan, high=nan, p_value=None, detectable=nan
    )
    verdicts.save_tests(tmp_path / "tests.csv", [row])
    assert (tmp_path / "tests.csv").read_text().splitlines()[1] == "r,floor,1 key,logistic,last,lm.00,,,,,,,,"
