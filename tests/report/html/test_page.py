"""report.html says what the tables say, shows what strangers wrote as text, and does without what is missing."""

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mllm_probe.config.report import ReportSettings
from mllm_probe.errors import DataError
from mllm_probe.files.paths import RunPaths
from mllm_probe.report.figures.layers import layers_figure
from mllm_probe.report.html.page import write_page
from mllm_probe.report.html.skeleton import MISSING, Library
from mllm_probe.report.run import show
from mllm_probe.report.tables.findings import Reading
from mllm_probe.results.examples import RIGHT, SHOWN, UNSURE, WRONG, Verdicts, load_examples
from mllm_probe.results.geometry import Relation, save_relations
from mllm_probe.results.predictions import load_logits, load_scored
from mllm_probe.results.score_file import load_scores, load_summary, load_tests
from mllm_probe.results.selection import blocks, headline, leading, real
from tests.support.pages import EVIL, Markup, shown_run
from tests.support.runs import Run, Silent
from tests.support.score_tables import H1, PEAKED, PLATEAU, write
from tests.support.score_words import check_words


@pytest.fixture(scope="module")
def made(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shown_run(tmp_path_factory.mktemp("page"), checkpoint)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunPaths:
    """Its files may be edited."""
    paths = RunPaths(shutil.copytree(made, tmp_path / "run"))
    paths.summary.write_text(json.dumps(json.loads(paths.summary.read_text()) | {"digests": {}}))
    return paths


def test_the_page_has_the_numbers_of_the_csv(made: Path) -> None:
    page, rows = Markup(made / "report.html"), headline(load_scores(made / "scores.csv"))
    sites, charts = real(rows), page.charts
    told = sites.groupby(["tower", "position"]).family.transform(lambda of: (of != "by design").any())
    assert "mean_image" in set(sites[~told].position) and "mean_image" not in charts, "it could be no other"
    for position in dict.fromkeys(sites[told].position):
        own = sites[told & (sites.position == position)]
        for name in ("all positions", position):
            lines = [t for t in charts[name]["data"] if t["mode"] == "lines+markers" and t["name"] == position]
            assert [y for line in lines for y in line["y"]] == own.value.tolist()
            bounds = [numbers[:2] for line in lines for numbers in line["customdata"]]
            assert bounds == [[None if end != end else end for end in ends] for ends in own[["low", "high"]].values]
            assert {tuple(n[2:]) for line in lines for n in line["customdata"]} == {
                (own.n.iloc[0], own.n_groups.iloc[0])
            }
    for row in sites.itertuples():
        between = "" if row.family == "by design" else f" [{100 * row.low:.1f}, {100 * row.high:.1f}]"
        assert f"{100 * row.value:.1f}{between}" in page.words
    assert re.search(r"selectivity\s*[+-]\d+\.\d points", page.words) and "nan" not in page.words.split()
    shown = {trace["name"]: trace for trace in charts["last"]["data"] if "name" in trace}
    for control in ("text_only", "random_weights", "control_task"):
        own = rows[(rows.control == control) & (rows.position == "last")]
        assert shown[control.replace("_", " ")]["y"] == own.value.tolist()
    assert shown["question only"]["y"] == [rows[rows.control == "question_only"].value.iloc[0]] * len(
        set(sites[sites.position == "last"].site)
    )
    cells = {
        (y, x): z
        for trace in charts["map"]["data"]
        for y, line in zip(trace["y"], trace["z"], strict=True)
        for x, z in zip(trace["x"], line, strict=True)
    }
    assert {(r.position, r.site): r.value for r in sites.itertuples()} == {
        k: v for k, v in cells.items() if v is not None
    }


def test_the_page_answers_the_questions(made: Path) -> None:
    page, summary, tests = (
        Markup(made / "report.html"),
        load_summary(made / "summary.json"),
        load_tests(made / "tests.csv"),
    )
    position = leading(summary)
    assert position is not None
    chosen, words = summary["chosen"][position], page.words.replace("\xa0", " ")
    one = Reading(load_scores(made / "scores.csv"), summary, tests, position)
    assert one.sentence.replace("\xa0", " ") in words
    value = f"{100 * chosen['value']:.1f} % [{100 * chosen['low']:.1f}, {100 * chosen['high']:.1f}]"
    assert f"Which layer did validation choose? {chosen['site']}: accuracy {value}" in words
    rivals = tests[(tests.test == "difference") & (tests.position == position)].sort_values("value")
    nearest = rivals.iloc[0]
    assert f"points [{100 * nearest.low:z.1f}, {100 * nearest.high:z.1f}] compared with {nearest.other}" in words
    assert f"What is the shape of the curve? {one.shape}" in words and "How do the controls score?" in words
    assert "mllm-probe run model=custom" in words and "pictures in two splits of one seed0 of 24" in words


def test_the_words_of_a_run_follow_from_its_rows(made: Path) -> None:
    check_words(made)


def test_nothing_a_stranger_wrote_runs(made: Path) -> None:
    page = Markup(made / "report.html")
    assert f"This image contains: {EVIL}" in page.words
    assert page.tags.count("script") == len(page.scripts) and not any(
        name.startswith("on") for _, name, _ in page.attributes
    )
    assert not [v for tag, name, v in page.attributes if name in ("src", "href") and not v.startswith("data:")]
    policy = next(value for _, name, value in page.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'sha256-")
    own = [text for kind, text in page.scripts if not kind]
    packed = [base64.b64decode(text) for kind, text in page.scripts if kind == "text/plain"]
    for content in (own[0].encode(), gzip.decompress(packed[0])):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'" in policy
    assert len(own) == len(packed) == 1 and policy.count("sha256-") == 2
    assert (
        "Attribution <b>License</b> (http://creativecommons.org/licenses/by/2.0/), from http://farm.example/"
        in page.words
    )


def test_layers_are_drawn_once_for_their_files_and_the_page(run: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def counted(scores: pd.DataFrame, settings: ReportSettings) -> Figure:
        drawn.append(settings.style)
        return layers_figure(scores, settings)

    monkeypatch.setattr("mllm_probe.report.html.run_view.layers_figure", counted)
    show(run, Silent(), ReportSettings())
    assert drawn == ["screen"] and "image/svg+xml" in run.page.read_text()
    show(run, Silent(), ReportSettings(style="paper"))
    assert drawn == ["screen", "paper", "screen"], "pages are read on a screen"


def test_pictures_are_found_again_or_said_to_be_gone(run: RunPaths) -> None:
    examples = load_examples(run.examples)
    assert examples is not None and len(examples.shown) >= SHOWN
    shown = len([seen for one in examples.shown for seen in one.pictures])
    sizes = {}
    for pictures in ("thumbs", "full", "none"):
        write_page(run, ReportSettings(pictures=pictures))
        found = Markup(run.page)
        uris = [*found.sources("png"), *found.sources("jpeg")]
        assert len(uris) == (0 if pictures == "none" else shown)
        sizes[pictures] = {Image.open(BytesIO(base64.b64decode(uri.partition(",")[2]))).size for uri in uris}
    assert sizes == {"thumbs": {(320, 320)}, "full": {(400, 400)}, "none": set()}
    assert "left out (report.pictures=none)" in found.words and "Licences" not in found.words
    kept = json.loads(run.examples.read_text())
    kept["shown"][0]["pictures"][0]["path"] = "/no/such/<i>picture<i>.png"
    kept["shown"][1]["pictures"][0]["digest"] = "0" * 32
    run.examples.write_text(json.dumps(kept))
    write_page(run, ReportSettings())
    page = Markup(run.page)
    assert "<i>picture<i>.png is gone" in page.words
    assert "has changed since the run" in page.words and len(page.sources("png") + page.sources("jpeg")) == shown - 2
    run.examples.unlink()
    write_page(run, ReportSettings())
    assert "This run saved no examples." in Markup(run.page).words


def test_examples_are_what_the_predictions_say(made: Path) -> None:
    paths = RunPaths(made)
    examples, scored = load_examples(paths.examples), load_scored(paths.predictions)
    assert examples is not None
    chances = (1 / (1 + np.exp(-load_logits(paths.predictions, examples.key, examples.probe).astype(float)))).mean(
        axis=0
    )
    said = dict(zip(scored.decisions, chances, strict=True))
    label = dict(zip(scored.decisions, scored.labels, strict=True))
    tested = [uid for uid, test in zip(scored.decisions, scored.test, strict=True) if test]
    wrong = [uid for uid in tested if (said[uid] > 0.5) != label[uid]]
    assert examples.tested == len(tested) and examples.wrong == len(wrong)
    for one in examples.shown:
        assert one.label == label[one.uid] and one.said == (said[one.uid] > 0.5) and one.uid in tested
        assert one.sure == pytest.approx(max(said[one.uid], 1 - said[one.uid]))
        assert one.kind == UNSURE or (one.uid in wrong) == (one.kind == WRONG)
    least = min(tested, key=lambda uid: abs(said[uid] - 0.5))
    assert examples.of(UNSURE)[0].uid == least
    surest = max((uid for uid in tested if uid not in wrong), key=lambda uid: abs(said[uid] - 0.5))
    assert examples.of(RIGHT)[0].sure == pytest.approx(max(said[surest], 1 - said[surest]))


def test_classes_and_numbers_have_examples_too() -> None:
    logits = np.asarray([[[2.0, 0, 0], [0, 1, 0], [0, 0, 5]], [[2.0, 0, 0], [0, 1, 3], [0, 0, 5]]])
    found = Verdicts.of(logits, np.asarray([0, 1, 0]), "classes")
    shares = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).mean(0)
    assert found.said.tolist() == shares.argmax(-1).tolist() and found.sure == pytest.approx(shares.max(-1))
    groups = np.asarray(["a", "b", "a"])
    assert [pair for pair in found.chosen(groups) if pair[0] == UNSURE] == [(UNSURE, 1), (UNSURE, 0)]
    assert next(pair for pair in found.chosen(groups) if pair[0] == WRONG) == (WRONG, 2)
    numbers = Verdicts.of(np.asarray([[1.0, 5.0, 2.0]]), np.asarray([1.5, 1.0, 2.0]), "number")
    assert list(numbers.chosen(np.asarray(["a", "b", "c"])))[:1] == [(WRONG, 1)]
    assert [i for kind, i in numbers.chosen(np.asarray(["a", "b", "c"])) if kind == RIGHT] == [2, 0, 1]


def test_without_the_plot_library_curves_stand_still(run: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllm_probe.report.html.skeleton.find_spec", lambda name: None)
    assert Library.find() is None
    write_page(run, ReportSettings())
    page = Markup(run.page)
    assert MISSING.replace("`", "") in page.words.replace("`", "") and "text/plain" not in [
        kind for kind, _ in page.scripts
    ]
    (still,) = page.sources("svg+xml")
    assert base64.b64decode(still.partition(",")[2]).startswith(b"<?xml")
    assert ("img", "class", "still") in page.attributes and "image contains" in page.words
    assert run.page.stat().st_size < 1_500_000


def test_the_page_is_written_whole_or_not_at_all(run: RunPaths) -> None:
    write_page(run, ReportSettings())
    first = run.page.read_bytes()
    write_page(run, ReportSettings())
    assert run.page.read_bytes() == first
    run.scores.write_text("{")
    with pytest.raises(DataError, match=r"scores.csv is damaged"):
        write_page(run, ReportSettings())
    assert run.page.read_bytes() == first
    assert not [path for path in run.root.iterdir() if path.name.startswith(".report")]


def test_the_plot_library_is_never_imported(made: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mllm_probe.files.paths import RunPaths\n"
        "from mllm_probe.report.html.page import write_page; from mllm_probe.config.report import ReportSettings\n"
        f"write_page(RunPaths(Path({str(made)!r})), ReportSettings())\n"
        "assert not {'plotly', 'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert find_spec("plotly") is not None


def test_wrong_settings_are_one_sentence(probe: Run, made: Path) -> None:
    for command in ("run", "report"):
        code, _, err = probe(command, "report.pictures=thumb")
        assert code == 1
        assert (
            err.strip()
            == "mllm-probe: report.pictures=thumb is unknown; did you mean 'thumbs'? choose one of: full, none, thumbs"
        )
        code, _, err = probe(command, "report.style=papers")
        assert code == 1 and "report.style=papers is unknown; did you mean 'paper'?" in err
    code, out, err = probe("report", str(made), "report.pictures=none")
    assert code == 0 and "open report.html there" in err + out


def test_what_geometry_found_below_the_run_is_on_its_page(tmp_path: Path) -> None:
    write(tmp_path / "run", "entailment", PEAKED)
    (tmp_path / "run" / "geometry").mkdir()
    cells = {
        ("lm.00", "lm.00"): float("nan"),
        ("lm.00", "lm.01"): 0.25,
        ("lm.01", "lm.00"): 0.25,
        ("lm.01", "lm.01"): 1.0,
    }
    found = [Relation("r", "c", "mini", "cka", "last", a, b, value, 0.0, 0.1, 9) for (a, b), value in cells.items()]
    save_relations(tmp_path / "run" / "geometry" / "geometry.csv", found)
    write_page(RunPaths(tmp_path / "run"), ReportSettings())
    (trace,) = Markup(tmp_path / "run" / "report.html").charts["CKA (unbiased) at last"]["data"]
    assert (trace["x"], trace["y"]) == (["lm.00", "lm.01"],) * 2 and trace["z"] == [[None, 0.25], [0.25, 1.0]]
    assert trace["customdata"][0][1] == "(shuffled: 0.10)"


def test_a_study_is_one_page(tmp_path: Path) -> None:
    root = tmp_path / "study"
    root.mkdir()
    curves = {"global": ("entailment", PEAKED), "local": ("objects", PLATEAU)}
    for side, (task, curve) in curves.items():
        write(root / side, task, curve)
    nasty = {**H1, "claim": "a <i>claim</i>"}
    (root / "study.json").write_text(json.dumps({"position": "last", "statements": [nasty]}))
    write_page(RunPaths(root), ReportSettings())
    page = Markup(root / "report.html")
    assert "H1 holds a <i>claim</i>" in page.words and page.tags.count("article") == 2
    assert "No layer was chosen" in page.words  # neither has a summary
    both = page.charts["both tasks"]["data"]
    assert [t["y"] for t in both if "customdata" in t] == [PEAKED, PLATEAU]
    depths = blocks(real(headline(load_scores(root / "global" / "scores.csv")))).depth.unique().tolist()
    assert all(t["x"] == depths for t in both if "customdata" in t)
