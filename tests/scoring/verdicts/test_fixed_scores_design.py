"""Scores that no state can change are found in the data: rows that are alike hold every label in equal shares."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from mllm_probe.results.score_file import load_scores
from mllm_probe.scoring.summary import _chosen
from mllm_probe.scoring.verdicts.fixed_scores import ALIKE, CONSTANT, PICTURE, nothing_to_know
from tests.support.runs import Run
from tests.support.score_tables import at, score


@pytest.mark.parametrize(
    ("inputs", "y", "why"),
    [
        ([0, 0, 1, 1, 2, 2], [0, 1, 1, 0, 1, 0], PICTURE),
        ([0, 0, 1, 1, 2, 2], [2.5, 7.0, 7.0, 2.5, 7.0, 2.5], PICTURE),
        ([0, 1, 1, 2, 2, 0], [0, 1, 0, 1, 0, 1], ALIKE),
        ([0, 0, 1, 0, 1, 1], [0, 1, 0, 2, 1, 2], ALIKE),
        ([5, 5, 5, 5, 5, 5], [0, 0, 0, 0, 0, 1], CONSTANT),
        ([0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1], None),
        ([0, 1, 2, 3, 4, 5], [0, 1, 0, 1, 0, 1], None),
        ([0, 0, 1, 1, 2, 2], [1, 1, 1, 1, 1, 1], None),
    ],
)
def test_equal_rows_with_the_labels_in_equal_shares_know_nothing(inputs: list, y: list, why: str | None) -> None:
    assert nothing_to_know(np.asarray(inputs), np.asarray(y), np.array([0, 0, 1, 1, 2, 2])) == why


@pytest.mark.parametrize("seed", range(20))
def test_then_every_function_of_the_rows_scores_a_half(seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = np.repeat(np.arange(6), [2, 2, 4, 4, 6, 2])
    y = np.arange(20) % 2
    said = rng.normal(size=6)[inputs]
    assert nothing_to_know(inputs, y, inputs) == PICTURE
    assert balanced_accuracy_score(y, said > 0) == 0.5 == np.mean((said > 0) == y)
    assert roc_auc_score(y, said) == 0.5


def test_a_run_says_it_once_and_offers_it_nowhere(probe: Run, tmp_path: Path) -> None:
    quick = ("experiment=smoke", "sweep.draws=50", "sweep.permutations=100", "layers.range=[4,8]", "layers.towers=[lm]")
    controls = "controls=[text_only,shuffled_picture,vision_only]"
    code, _, err = probe("run", *quick, controls, "extract.positions=[last,mean_image]")
    assert code == 0, err
    folder = next((tmp_path / "outputs" / "run").rglob("scores.csv")).parent
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["by_design"] == {
        "question_only": ALIKE,
        "text_only": ALIKE,
        "mean_image": PICTURE,
        "vision_only": PICTURE,
    }
    assert set(summary["verdicts"]) == set(summary["chosen"]) == {"last"}
    scores, tests = load_scores(folder / "scores.csv"), pd.read_csv(folder / "tests.csv", keep_default_na=False)
    marked = scores[scores.family == "by design"]
    assert (marked.value == 0.5).all() and marked.p_value.isna().all()
    assert set(zip(marked.control, marked.position, strict=True)) == {
        ("", "mean_image"),
        ("text_only", "last"),
        ("shuffled_picture", "mean_image"),
        ("vision_only", "mean_image"),
        ("question_only", ""),
    }
    known = tests[tests.verdict == "by design"]
    assert (known.p_adjusted == "").all() and set(known.test) == {"above_chance", "control"}
    here = tests[tests.position == "mean_image"]
    assert set(here.test) == {"above_chance", "control"} and set(here.verdict) == {"by design"}
    other = tests[(tests.test == "control") & (tests.position == "last")]
    assert set(other[other.verdict == "by design"].other) == {"text_only", "vision_only"}
    assert set(other[other.verdict == "above"].other) == {"shuffled_picture"}


def test_a_block_that_is_by_design_is_neither_chosen_nor_compared(probe: Run, tmp_path: Path) -> None:
    """The state of the last token before the first layer is the same for all questions; blocks above it differ."""
    quick = ("experiment=smoke", "sweep.draws=50", "sweep.permutations=100", "layers.towers=[lm]", "layers.stride=4")
    code, _, err = probe("run", *quick, "controls=none", "extract.positions=[last]")
    assert code == 0, err
    folder = next((tmp_path / "outputs" / "run").rglob("scores.csv")).parent
    summary, tests = json.loads((folder / "summary.json").read_text()), pd.read_csv(folder / "tests.csv")
    assert set(summary["by_design"]) == {"question_only", "lm.00@last"}
    assert (
        summary["verdicts"]["last"]["blocks"] == ["lm.04", "lm.08", "lm.12"]
        and summary["chosen"]["last"]["site"] != "lm.00"
    )
    here = tests[(tests.site == "lm.00") | (tests.other == "lm.00")]
    assert list(here.test) == ["above_chance"] and list(here.verdict) == ["by design"]


def test_no_validation_score_makes_it_the_chosen_one() -> None:
    rows = []
    for layer, (family, value) in enumerate((("by design", 0.9), ("3 keys", 0.6), ("3 keys", 0.5))):
        place = at("lm", layer, "last", layer / 8)
        rows += [score(value, **{**place, "split": "val", "seed": "0"}), score(value, **place, family=family)]
    chosen = _chosen(rows, "last")
    assert chosen is not None and (chosen["site"], chosen["top_site"]) == ("lm.01", "lm.02")
    assert _chosen(rows[:2], "last") is None


def test_the_only_block_that_may_know_something_is_held_against_the_answer(probe: Run, tmp_path: Path) -> None:
    quick = ("experiment=smoke", "sweep.draws=50", "sweep.permutations=100", "layers.towers=[lm]", "layers.stride=12")
    code, _, err = probe("run", *quick, "controls=none", "extract.positions=[last]")
    assert code == 0, err
    folder = next((tmp_path / "outputs" / "run").rglob("scores.csv")).parent
    tests = pd.read_csv(folder / "tests.csv")
    gap = tests[tests.test == "gap"]
    assert list(gap.site) == ["lm.12"] and list(gap.other) == ["zero_shot"]
    assert json.loads((folder / "summary.json").read_text())["verdicts"] == {}
