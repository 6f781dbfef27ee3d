"""The answer of a study in words and as a figure, and the controls that every report shows beside the layers."""

import io
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from mllm_probe.records.score import BY_DESIGN, NOT_APPLICABLE
from mllm_probe.report.figures.layers import spread
from mllm_probe.report.html.charts import layer_charts
from mllm_probe.report.terminal.run import print_table
from mllm_probe.report.terminal.study import QUESTION, answered, print_answers, print_study
from mllm_probe.results.score_file import load_scores, load_tests
from mllm_probe.results.selection import controls, headline, real
from tests.support.score_tables import H1, HALF, LAYERS, PEAKED, PLATEAU, draw_layers, draw_study, lines, write
from tests.support.score_words import reading, table

H2 = {**H1, "name": "H2", "verdict": "does not hold", "numbers": {}}
H3 = {**H1, "name": "H3", "verdict": "undecided", "numbers": {}}


@pytest.fixture
def whole(tmp_path: Path) -> pd.DataFrame:
    return load_scores(write(tmp_path / "global", "entailment", PEAKED))


@pytest.fixture
def local(tmp_path: Path) -> pd.DataFrame:
    return load_scores(write(tmp_path / "local", "objects", PLATEAU, majority=0.53))


def test_what_is_a_curve_and_what_is_not(whole: pd.DataFrame) -> None:
    rows = headline(whole)
    assert real(rows)[real(rows).position == "last"].value.tolist() == PEAKED
    assert set(controls(rows, "last").control) == set(HALF) and len(controls(rows, "last")) == 4 * LAYERS
    assert rows.value.notna().all() and not (rows.metric == NOT_APPLICABLE).any()


def test_the_layers_are_drawn_with_controls_floors_and_lens(
    whole: pd.DataFrame, tmp_path: Path, drawn: list[Figure]
) -> None:
    draw_layers(whole, [tmp_path / "layers.png"])
    found = lines(drawn[0])
    assert found["last"] == PEAKED and len(found["last, text only"]) == LAYERS
    assert found["last, random weights"][0] == pytest.approx(0.56) and found["logit lens"][-1] == pytest.approx(0.8)
    for name, value in (("copy ceiling", 0.985), ("vision only", 0.505), ("zero shot", 0.78), ("question only", 0.507)):
        assert found[name] == [value, value]
    assert found["majority"] == [0.5, 0.5] and "mean_text, text only" not in found
    said = {text.get_text(): text for text in drawn[0].axes[-1].texts}
    assert set(said) == {"copy ceiling", "vision only", "zero shot", "question only", "majority of training"}
    with Image.open(tmp_path / "layers.png") as image:
        assert image.width >= 1200


def test_labels_of_one_height_are_pushed_apart_and_keep_their_order() -> None:
    assert spread([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    assert spread([0.38, 0.5, 0.52], 0.1) == pytest.approx([0.3667, 0.4667, 0.5667], abs=1e-3)


def test_the_table_says_what_controls_and_the_model_itself_score(whole: pd.DataFrame, tmp_path: Path) -> None:
    written = io.StringIO()
    tests = load_tests(tmp_path / "none")
    gap = {"test": "gap", "position": "last", "site": "lm.05", "value": 0.15, "low": 0.11, "high": 0.19}
    tests.loc[0] = gap | {"p_value": 0.01}
    print_table(whole, {}, tests, Console(file=written, width=300))
    text = written.getvalue()
    assert "controls at last, each at its best layer on validation: text only 50.0 [" in text
    assert "random weights 55.7 [53.7, 57.7] (lm.04)" in text
    assert "zero-shot: the model's own answer scores 78.0 % [76.0, 80.0]; it answers 'yes' in 61.3 %" in text
    assert "the probe at lm.05 minus that answer: +15.0 points [11.0, 19.0], p = 0.01" in text
    assert "question_only" in text and "copy_ceiling" in text and "nan" not in text and "99.0" not in text


def test_the_answer_is_said_in_words() -> None:
    written = io.StringIO()
    interval = {"value": 0.95, "low": 0.9, "high": 0.98}
    both = {"pooled": interval, "macro": interval | {"value": 0.932}}
    told = {"task": "objects", "position": "last", "site": "lm.07", "metric": "accuracy", **both}
    print_study({"statements": [H1, H2, H3], "headlines": [told]}, Console(file=written, width=200))
    said = [line.rstrip() for line in written.getvalue().splitlines()]
    assert said.pop(1) == (
        "  objects at last, lm.07 (chosen on validation): accuracy 95.0 % [90.0, 98.0] over all decisions together, "
        "93.2 % [90.0, 98.0] as the mean over categories"
    )
    assert said[0] == QUESTION and said[1] == "  H1 ✓ holds: entailment at last rises, peaks and falls"
    assert "peak at lm.05 [lm.04, lm.06]; the top layer lm.08 is 5.2 points lower [4.3, 6.1]" in said[2]
    assert said[3].startswith("  H2 ✗ does not hold: ") and said[5].startswith("  H3 ? undecided: ")


def test_the_answers_are_said_first_and_plainly(whole: pd.DataFrame, local: pd.DataFrame) -> None:
    seen, unseen = reading(whole, table({"lm.03": 0.3, "lm.08": 1.0})), reading(local, table({"lm.08": 1.0}, 0.8))
    written = io.StringIO()
    print_answers([seen, unseen], Console(file=written, width=300))
    assert written.getvalue().splitlines() == [
        "Global meaning (does this caption describe this picture?) is read best in one of lm.03, lm.08: accuracy "
        "85.0 % [83.0, 87.0] at lm.08, which validation chose",
        "Local meaning (is this object there?) is read in no layer significantly above chance",
    ]
    assert list(answered([None, reading(local.assign(task="count"), table({"lm.08": 1.0}))])) == [
        "Local meaning (count) is read best in lm.08: accuracy 85.0\xa0%\xa0[83.0,\xa087.0] at lm.08, which "
        "validation chose"
    ]


def test_what_is_not_compared_is_not_called_the_best(whole: pd.DataFrame) -> None:
    rare = table({"lm.08": 1.0})
    rare.loc[rare.test == "contender", "p_value"] = float("nan")
    assert reading(whole, rare).plain.startswith("is read with accuracy 85.0")
    low = table({"lm.03": 1.0, "lm.08": 1.0})
    low.loc[(low.test == "above_chance") & (low.site == "lm.08"), ["p_adjusted", "verdict"]] = 0.4, ""
    assert reading(whole, low).plain.endswith("which validation chose and which is not significantly above chance")


def test_curves_that_can_be_no_other_are_not_drawn(whole: pd.DataFrame, tmp_path: Path, drawn: list[Figure]) -> None:
    """Neither in a panel of their own nor beside others, unless there are only such."""
    whole.loc[whole.position == "mean_image", "family"] = BY_DESIGN
    draw_layers(whole, [tmp_path / "layers.png"])
    assert [panel.get_title() for panel in drawn[0].axes] == ["language model"]
    assert {chart["name"] for chart in layer_charts(whole)} == {"all positions", "last", "mean_text", "map"}
    whole.loc[whole.position == "mean_text", "family"] = BY_DESIGN
    draw_layers(whole, [tmp_path / "layers.png"])
    assert "mean_text" not in lines(drawn[1])
    whole.family = BY_DESIGN
    draw_layers(whole, [tmp_path / "layers.png"])
    assert len(drawn[2].axes) == 2


def test_both_tasks_are_drawn_against_depth(
    whole: pd.DataFrame, local: pd.DataFrame, tmp_path: Path, drawn: list[Figure]
) -> None:
    paths = [tmp_path / "study.png", tmp_path / "study.pdf"]
    seen = table({"lm.04": 0.4, "lm.05": 1.0, "lm.06": 0.2})
    best = [reading(whole, seen, site="lm.05"), reading(local, table({"lm.07": 1.0}), site="lm.07")]
    draw_study(whole, local, best, paths)
    found = lines(drawn[0])
    assert found["entailment (global)"] == PEAKED and found["objects (local)"] == PLATEAU
    assert len(found["entailment, text_only"]) == len(found["objects, random_weights"]) == LAYERS
    assert found["chance, entailment"] == [0.5, 0.5] and found["chance, objects"] == [0.53, 0.53]
    bars = {
        line.get_gid(): line for line in drawn[0].axes[0].lines if str(line.get_gid()).startswith("may be the best")
    }
    ends = {name: list(line.get_xdata()) for name, line in bars.items()}  # type: ignore[call-overload]
    assert ends == {"may be the best, entailment": [0.5, 0.75], "may be the best, objects": [0.875, 0.875]}
    for name, curve in (("entailment", "entailment (global)"), ("objects", "objects (local)")):
        line = next(line for line in drawn[0].axes[0].lines if line.get_gid() == curve)
        assert bars[f"may be the best, {name}"].get_color() == line.get_color()
    assert max(drawn[0].axes[0].get_yticks()) <= 1.0 < drawn[0].axes[0].get_ylim()[1]
    said = [text.get_text() for text in drawn[0].axes[0].texts]
    assert "chosen lm.05; the best from lm.04 to lm.06" in said and "chosen lm.07; the best from lm.07 to lm.07" in said
    with Image.open(paths[0]) as image:
        assert image.width >= 1200
    first = [path.read_bytes() for path in paths]
    draw_study(whole, local, best, paths)
    assert [path.read_bytes() for path in paths] == first


def test_tasks_that_share_another_position_are_drawn_there(
    whole: pd.DataFrame, local: pd.DataFrame, tmp_path: Path, drawn: list[Figure]
) -> None:
    draw_study(whole, local[local.position != "last"], [None, None], [tmp_path / "study.png"])
    found = lines(drawn[0])
    assert found["objects (local)"] == pytest.approx([v - 0.04 for v in PLATEAU])
    assert found["entailment (global)"] == pytest.approx([v - 0.04 for v in PEAKED])
