"""Which measure a run is told by, the floors it must beat, and that one setting drives selection, tests and tables."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors import safe_open
from scipy.stats import entropy
from sklearn.metrics import average_precision_score, balanced_accuracy_score

from mllm_probe.records.units import named
from mllm_probe.results.score_file import load_scores, load_tests
from mllm_probe.results.selection import headline_metric
from tests.support.runs import Run, tiny

RARE = 10  # one picture in so many is red
READ = ("layers.towers=[vision,lm]", "extract.positions=[mean_image,last]", "layers.range=[0,2]", "controls=none")
ASKED = (
    "task=custom",
    "dataset.file=rows.csv",
    "data.n=160",
    "sweep.permutations=499",
    "sweep.draws=200",
    "guards=note",
)


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 noisy pictures of which one in ten is reddish, asked about once each."""
    root, rng = tmp_path_factory.mktemp("rare"), np.random.default_rng(0)
    (root / "images").mkdir()
    rows = []
    for number in range(160):
        red = number % RARE == 0
        pixels = rng.integers(60, 190, (24, 24, 3)) + (np.array([45, -10, -10]) if red else 0)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{number}.png")
        rows.append({"picture": f"images/{number}.png", "text": "Is it reddish?", "label": ("no", "yes")[red]})
    with (root / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def _run(probe: Run, checkpoint: Path, rare: Path, *more: str) -> tuple[Path, str]:
    code, out, err = probe("run", *tiny(checkpoint), *READ, *ASKED, f"dataset.root={rare}", *more)
    assert code == 0, err
    return sorted(Path("outputs/run").glob("*/*"))[-1], out + err


def _decisions(run: Path) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Labels, test mask and the training rows by seed, from the files of the run alone."""
    with safe_open(run / "predictions.safetensors", "np") as file:
        told = file.metadata()
    splits = pd.read_csv(run / "splits.csv", dtype=str).pivot(index="group", columns="seed", values="split")
    return (
        np.asarray(json.loads(told["labels"])),
        np.asarray(json.loads(told["test"])),
        splits.loc[json.loads(told["groups"])],
    )


def _logits(run: Path, key: str, seed: int) -> np.ndarray:
    with safe_open(run / "predictions.safetensors", "np") as file:
        return file.get_tensor(f"{key}/logistic/seed{seed}").astype(float)


def test_rare_labels_are_told_by_balanced_accuracy(probe: Run, checkpoint: Path, rare: Path) -> None:
    """Every plain answer may be no; what lies above its share in training counts, computed here by scikit-learn."""
    run, out = _run(probe, checkpoint, rare)
    table, tests = load_scores(run / "scores.csv"), load_tests(run / "tests.csv")
    assert headline_metric(table) == json.loads((run / "summary.json").read_text())["metric"] == "balanced_accuracy"
    assert set(table[table.headline].metric) == {"balanced_accuracy"} and "balanced" in out
    y, test, split = _decisions(run)
    for seed in (0, 1, 2):
        z = _logits(run, "vision.02@mean_image", seed)
        share = (y[split[str(seed)].to_numpy() == "train"].sum() + 0.5) / ((split[str(seed)] == "train").sum() + 1)
        said = z[test] > np.log(share / (1 - share))
        row = table[(table.site == "vision.02") & (table.seed == str(seed)) & (table.split == "test") & table.headline]
        assert row.value.item() == pytest.approx(balanced_accuracy_score(y[test], said))
    above = tests[(tests.test == "above_chance") & (tests.verdict == "above chance")]
    assert "vision.02" in set(above.site), "colour is there to be read"
    assert (tests[tests.test == "floor"].set_index("site").value > 0).any()


def test_the_floor_is_the_best_constant_answer_to_the_test_questions(probe: Run, checkpoint: Path, rare: Path) -> None:
    """By every measure, the same for all seeds; the commonest training label stands beside it."""
    run, _ = _run(probe, checkpoint, rare, "sweep.metric=accuracy")
    table, tests = load_scores(run / "scores.csv"), load_tests(run / "tests.csv")
    floor = table[table.probe == "constant"].set_index("metric").value
    y, test, _ = _decisions(run)
    share = y[test].mean()
    expected = {"accuracy": max(share, 1 - share), "balanced_accuracy": 0.5, "auroc": 0.5}
    expected |= {"average_precision": average_precision_score(y[test], np.zeros(test.sum()))}
    expected |= {"nll": entropy([share, 1 - share])}
    assert floor.to_dict() == pytest.approx(expected) and expected["average_precision"] == pytest.approx(share)
    assert (table[table.probe == "constant"].seed == "all").all() and "majority" in set(table.probe)
    for row in tests[tests.test == "floor"].itertuples():
        own = table[
            (table.site == row.site) & (table.position == row.position) & (table.seed == "all") & table.headline
        ]
        assert row.other == "constant" and row.value == pytest.approx(own.value.item() - expected["accuracy"])


@pytest.mark.parametrize("metric", ("auroc", "average_precision", "nll"))
def test_one_setting_drives_selection_tests_and_tables(probe: Run, checkpoint: Path, rare: Path, metric: str) -> None:
    run, out = _run(probe, checkpoint, rare, f"sweep.metric={metric}")
    table, tests = load_scores(run / "scores.csv"), load_tests(run / "tests.csv")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["metric"] == metric == headline_metric(table) and f"custom on table: {named(metric)}" in " ".join(
        out.split()
    )
    val = table[(table.split == "val") & table.headline & (table.tower == "lm") & (table.part == "block")]
    means = val[val.control == ""].groupby(["position", "site"]).value.mean()
    for position, chosen in summary["chosen"].items():
        best = means[position].min() if metric == "nll" else means[position].max()
        assert chosen["validation"] == pytest.approx(best) == means[position][chosen["site"]]
    final = table[(table.seed == "all") & (table.split == "test") & table.headline & (table.control == "")]
    for row in tests[tests.test == "above_chance"].itertuples():
        own = final[(final.site == row.site) & (final.position == row.position) & (final.features == "single")]
        assert row.value == pytest.approx(own.value.item(), abs=1e-9)
    compared = tests[tests.test.isin(["difference", "drop", "rise", "contender"])]
    if metric == "nll":
        assert not any("not compared" in said for said in summary["intervals"]) and compared.p_value.notna().all()
        return
    y, test, _ = _decisions(run)
    held = f"label yes is in {y[test].sum()} test pictures, and 30 are needed"
    few = f"layers are not compared by {named(metric)}: {held}"
    assert summary["intervals"].count(few) == 1 == " ".join(out.split()).count(few)
    assert compared.value.notna().all()
    assert compared[["low", "high", "p_value", "p_adjusted", "detectable"]].isna().all(axis=None)
    assert set(compared[compared.test == "contender"].verdict) == {"may be the best"}
    assert set(compared[compared.test != "contender"].verdict) == {""}
    assert set(tests[tests.test == "shape"].verdict) <= {"nothing above chance", "undecided"}
    assert tests[(tests.test == "above_chance") & (tests.verdict != "by design")].p_value.notna().all()
    assert tests[tests.test == "floor"][["low", "p_value", "detectable"]].isna().all(axis=None)
    assert not re.search(r"\bnan\b", out, re.IGNORECASE) and "nan" not in (run / "tests.csv").read_text().lower()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("sweep.metric=acuracy",), "sweep.metric=acuracy is unknown; did you mean 'accuracy'"),
        (("task=count", "probe=ridge", "sweep.metric=auroc"), "sweep.metric=auroc does not measure task=count"),
        (("task=entailment", "probe=mean_difference", "sweep.metric=nll"), "sweep.metric=nll needs log-odds"),
    ],
)
def test_a_measure_that_cannot_be_is_refused_before_weights(
    probe: Run, checkpoint: Path, args: tuple[str, ...], message: str
) -> None:
    code, _, err = probe("run", *tiny(checkpoint), "dataset.pictures=12", *args)
    assert code == 1 and message in err and "loading" not in err


def test_the_level_of_intervals_moves_no_test(probe: Run, tmp_path: Path) -> None:
    """Only what `low` and `high` say; the words, p values and the set of what may be the best stand at 0.05."""
    quick = ("experiment=smoke", "sweep.draws=50", "sweep.permutations=100", "layers.towers=[lm]", "controls=none")
    found = {}
    for level in (0.95, 0.5):
        code, _, err = probe("run", *quick, f"sweep.ci_level={level}", f"hydra.run.dir={tmp_path / str(level)}")
        assert code == 0, err
        tests = pd.read_csv(tmp_path / str(level) / "tests.csv")
        moved = ["run", "low", "high", "detectable"]
        found[level] = (tests.drop(columns=moved), (tests.high - tests.low)[tests.test == "difference"].mean())
    pd.testing.assert_frame_equal(found[0.95][0], found[0.5][0])
    assert found[0.5][1] < 0.6 * found[0.95][1]
