"""What a run says in words, held against rows of tests.csv written by hand, and against the rows of a run."""

import io
import re
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from mllm_probe.report.tables.controls import beside, beyond_covariates
from mllm_probe.report.tables.findings import Reading
from mllm_probe.report.terminal.run import print_table
from mllm_probe.results.score_file import ScoreFile, load_scores
from mllm_probe.results.selection import floors
from tests.support.score_tables import LAYERS, at, score, write
from tests.support.score_words import COMMON, CURVE, SITES, reading, said, summary, table


def test_a_chosen_layer_outside_the_set_is_not_called_the_best(scores: pd.DataFrame) -> None:
    """Chosen lm.08 with 85.0, and lm.03 with 95.0, which is better by 10 points [3.3, 15]."""
    one = reading(scores, table({"lm.03": 1.0}))
    words = said(one)
    assert words.startswith(
        "lm.08 at last, chosen on validation, reads entailment with accuracy 85.0 % [83.0, 87.0]; the best block is "
        "another, lm.03 (95 %)"
    )
    assert "-10.0 points [-15.0, -3.3] compared with lm.03" in words and "below 1 (lm.03)" in words
    assert "lm.08 is not among them" in words
    assert not re.search(r"\bwins?\b|lm\.08 [^;.\n]*(?<!not the )best", words)


@pytest.mark.parametrize(
    ("among", "more", "shape"),
    [
        ({"lm.03": 1.0}, {}, "A peak at lm.03"),
        ({"lm.03": 1.0, "lm.04": 0.2, "lm.06": 0.06}, {}, "A peak at one of lm.03, lm.04, lm.06"),
        ({"lm.03": 1.0, "lm.04": 0.2, "lm.06": 0.06}, {"plateau": 0.01}, "A plateau from lm.03 to lm.06"),
        ({"lm.06": 0.3, "lm.07": 1.0, "lm.08": 0.8}, {"plateau": 0.01}, "A plateau from lm.06 to lm.08"),
        ({"lm.06": 0.3, "lm.07": 1.0, "lm.08": 0.8}, {}, "Undecided"),
        ({"lm.08": 1.0}, {}, "Rising to the top block compared, lm.08"),
        ({"lm.00": 1.0}, {}, "Falling from the bottom block compared, lm.00"),
        ({"lm.01": 1.0}, {"below": True}, "A peak at lm.01"),
        ({"lm.08": 1.0}, {"below": True}, "Rising to the top block compared, lm.08"),
        (
            dict.fromkeys(SITES[1:], 0.5),
            {"below": True, "flat": 0.001, "plateau": 0.002},
            "A plateau from lm.01 to lm.08",
        ),
        (dict.fromkeys(SITES[1:], 0.5), {"below": True}, "Undecided"),
        (dict.fromkeys(SITES, 0.5), {"flat": 0.02}, "Flat within 1 point"),
        (dict.fromkeys(SITES, 0.5), {}, "Undecided"),
        ({"lm.03": 1.0}, {"chance": 0.3}, "Nothing above chance"),
        ({"lm.03": 1.0}, {"chance": None}, "Undecided"),
    ],
)
def test_the_shape_is_said_with_its_tests(
    scores: pd.DataFrame, among: dict[str, float], more: dict[str, float | None], shape: str
) -> None:
    tests = table(among, **more)  # type: ignore[arg-type]
    card = reading(scores, tests).answers()[2]
    assert card.answer == shape
    assert ("the bottom block read, lm.00, is at chance by design" in card.detail) == (
        "below" in more and shape != "Rising to the top block compared, lm.08"
    )
    numbers = {f"{p:.2g}" for p in [*tests.p_value.dropna(), *tests.p_adjusted.dropna()]}
    told = set(re.findall(r"p\s=\s([\d.e-]+)", "; ".join(card.detail).replace("\xa0", " ")))
    assert told and told <= numbers, "each p is that of a row"


def test_what_is_so_by_design_for_one_reason_is_one_line(scores: pd.DataFrame) -> None:
    why = "decisions with the same input have the labels in equal shares"
    designed = {f"blank_picture at vision.{layer:02d}@mean_image": why for layer in range(13)}
    written = io.StringIO()
    told = {**summary(0.85), "by_design": {"lm.00@last": "every decision has the same input", **designed}}
    print_table(scores, told, table({"lm.08": 1.0}), Console(file=written, width=400))
    assert [line.strip() for line in written.getvalue().splitlines() if " by design: " in line] == [
        "lm.00@last by design: every decision has the same input",
        "blank_picture at vision.00@mean_image, blank_picture at vision.01@mean_image, blank_picture at "
        f"vision.02@mean_image and 10 more by design: {why}",
    ]


def test_where_nothing_is_above_chance_no_layer_is_praised(scores: pd.DataFrame) -> None:
    one = reading(scores, table({"lm.03": 1.0}, chance=0.3))
    assert one.sentence == "At last, no block reads entailment significantly above chance"


@pytest.mark.parametrize(
    ("verdict", "value", "words"),
    [
        ("above", 0.3, "with accuracy 85.0 % [83.0, 87.0], above random weights 2 by +30.0 points [28.0, 32.0]"),
        ("below", -0.16, "with accuracy 85.0 % [83.0, 87.0], below random weights 2 by -16.0 points [-18.0, -14.0]"),
        ("", 0.01, "not significantly different from random weights 2 (minimum detectable difference: 3.1 points)"),
    ],
)
def test_the_first_words_hold_the_layer_against_random_weights(
    scores: pd.DataFrame, verdict: str, value: float, words: str
) -> None:
    """Of three draws the worst, by name."""
    rows = [
        {"other": f"random_weights{end}", "value": v, "low": v - 0.02, "high": v + 0.02, "verdict": verdict_}
        for end, v, verdict_ in (("", 0.4, "above"), ("_2", value, verdict), ("_3", 0.35, "above"))
    ]
    more = {"test": "control", "site": "lm.08", "detectable": 0.031, "p_adjusted": 0.01}
    tests = pd.concat([table({"lm.08": 1.0}), pd.DataFrame([COMMON | more | row for row in rows])])
    assert words in said(reading(scores, tests)).split("\n")[0]


def test_the_controls_card_counts_in_all_controls(tmp_path: Path) -> None:
    """A control task at 85.6 % is not above the best."""
    place = at("lm", 8, "last", 1.0)
    own = [score(0.856, control="control_task", **place), score(0.5, control="permuted", **place)]
    scores = load_scores(write(tmp_path / "run", "entailment", CURVE, more=own))
    answer = reading(scores, table({"lm.08": 1.0})).answers()[-1]
    assert answer.answer.replace("\xa0", " ").startswith("control task has 85.6 % [83.6, 87.6], the best of ")
    found = {one.name: one for one in beside(scores, table({"lm.08": 1.0}), "last", "lm.08")}
    assert found["zero shot"].counts is found["copy ceiling"].counts is False
    assert max(one.row.value for one in found.values() if one.counts) == 0.856


@pytest.mark.parametrize(("metric", "shown"), [("r2", "R2 0.420 [0.400, 0.440]"), ("nll", "log loss 0.420 nats")])
def test_only_shares_are_percentages(tmp_path: Path, metric: str, shown: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    rows = [score(0.42, metric=metric, **at("lm", layer, "last", layer / 8)) for layer in range(LAYERS)]
    rows += [
        score(-1e-9, metric=metric, probe="majority"),
        score(0.4, metric=metric, seed="0", split="val", **at("lm", 8, "last", 1.0)),
    ]
    rows = rows if metric == "r2" else [replace(row, low=None, high=None) for row in rows]
    ScoreFile(folder / "scores.csv").add(rows)
    scores = load_scores(folder / "scores.csv")
    one = Reading(scores, {**summary(0.42), "metric": metric}, table({"lm.08": 1.0}), "last")
    assert shown in said(one) and "%" not in said(one).replace("(95 %)", "").replace("80 %", "")
    written = io.StringIO()
    print_table(scores, {**summary(0.42), "metric": metric}, table({"lm.08": 1.0}), Console(file=written, width=200))
    assert "highest" not in said(one) and ("intervals over pictures" in " ".join(written.getvalue().split())) == (
        metric == "r2"
    )
    assert "42.0" not in written.getvalue() and not re.search(r"-0\.0+\b", written.getvalue())


def test_below_thirty_test_pictures_a_line_says_what_intervals_are_worth(scores: pd.DataFrame) -> None:
    for pictures, line in ((10, True), (30, False)):
        written = io.StringIO()
        scores["n_groups"] = pictures
        print_table(scores, summary(0.85), table({"lm.08": 1.0}), Console(file=written, width=300))
        assert (f"{pictures} test pictures: intervals are valid" in written.getvalue()) == line


def test_the_answer_words_are_the_users_own(scores: pd.DataFrame) -> None:
    written = io.StringIO()
    print_table(
        scores, {**summary(0.85), "answers": ["Ja", "Nein"]}, table({"lm.08": 1.0}), Console(file=written, width=200)
    )
    assert "scores 78.0 % [76.0, 80.0]; it answers 'Ja' in 61.3 %" in written.getvalue()


def test_marks_tell_what_each_layer_is_above(scores: pd.DataFrame) -> None:
    """Above chance and above the best constant answer are two things."""
    floor = {
        "test": "floor",
        "site": "lm.08",
        "other": "constant",
        "value": 0.3,
        "verdict": "above the best constant answer",
    }
    tests = pd.concat(
        [table({"lm.08": 1.0}), pd.DataFrame([COMMON | floor | {"low": 0.2, "high": 0.4, "p_adjusted": 0.01}])]
    )
    written = io.StringIO()
    print_table(scores, summary(0.85), tests, Console(file=written, width=200))
    assert "85.0 [83.0, 87.0]* " in written.getvalue() and "86.0 [84.0, 88.0]c " in written.getvalue()
    caption = " ".join(written.getvalue().split())
    assert "*: above chance (permuted labels) and above the best constant answer" in caption
    words = said(reading(scores, tests))
    assert (
        "above chance, p = 0.001" in words
        and "above the best constant answer (+30.0 points [20.0, 40.0]), p = 0.01" in words
    )
    tests.loc[tests.test == "floor", ["verdict", "p_adjusted"]] = ["", 0.4]
    assert "not significantly above the best constant answer" in said(reading(scores, tests))


def test_what_goes_beyond_a_covariate_is_a_line(scores: pd.DataFrame) -> None:
    beyond = {"test": "beyond", "other": "[b]words", "family": "4 keys, 3 strata of [b]words", "p_adjusted": 0.5}
    found = {"verdict": "beyond the covariate", "p_adjusted": 0.012}
    rows = [{"site": site} for site in SITES[:3]] + [{"position": "mean_text", "site": "lm.00"}]
    tests = pd.DataFrame([COMMON | beyond | row | (found if i == 1 else {}) for i, row in enumerate(rows)])
    line = "layers that predict beyond [b]words: 1 of 3 at last, 0 of 1 at mean_text (smallest p = 0.012, max-T over"
    assert line in next(beyond_covariates(tests)).replace("\xa0", " ")
    written = io.StringIO()
    print_table(scores, summary(0.85), pd.concat([table({"lm.08": 1.0}), tests]), Console(file=written, width=300))
    assert line in written.getvalue()


def test_floors_are_explained_for_labels_and_numbers(scores: pd.DataFrame) -> None:
    shown = scores[scores.probe == "majority"]
    both = pd.concat([scores, shown.assign(control="covariate:words"), shown.assign(probe="constant")])
    meaning = {one.name: one.meaning for one in beside(both, table({"lm.08": 1.0}), "last", "lm.08")}
    assert "mean" in meaning["majority"] and "mean" in meaning["constant"] and "of words" in meaning["covariate:words"]


def test_only_tested_blocks_are_counted(scores: pd.DataFrame) -> None:
    tests = table({"lm.03": 1.0}, chance=0.3)
    tests.loc[(tests.test == "above_chance") & (tests.site == "lm.00"), ["p_value", "p_adjusted"]] = None
    words = said(reading(scores, tests))
    assert "none of the 8 tested blocks is above chance" in words
    assert "above chance: 0 of 8 layers here (max-T over 9 keys)" in words


@pytest.mark.parametrize(("higher", "metric"), [(True, "accuracy"), (False, "nll")])
def test_a_tower_is_shown_at_its_best_layer(higher: bool, metric: str) -> None:
    rows = [score(v, control="vision_only", metric=metric, **at("vision", i, "x", 1)) for i, v in enumerate((0.4, 0.6))]
    (best,) = floors(pd.DataFrame([asdict(row) for row in rows])).itertuples()
    assert best.value == (0.6 if higher else 0.4)
