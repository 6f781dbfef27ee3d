"""predictions.csv and linear probes read back: against scikit-learn, the cache's own rows and the run's other files."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from scipy.special import softmax
from sklearn.metrics import accuracy_score

from mllm_probe import load_cache
from mllm_probe.api import Result
from mllm_probe.errors import ConfigError, DataError
from mllm_probe.files.paths import RunPaths
from mllm_probe.results import predictions as decided
from mllm_probe.results.directions import load_probe
from mllm_probe.results.predictions import (
    Scored,
    load_logits,
    load_predictions,
    prediction_table,
    save_predictions,
    told,
)
from tests.support.runs import Run, tiny

LABELS = ("benign", "=1+1", "<b>não</b>")


def written(folder: Path, labels: Sequence[Any], n: int = 48) -> None:
    """A table with an id, a note and a patient, of drawn pictures whose colour is the label."""
    rng = np.random.default_rng(0)
    with (folder / "mine.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("name", "picture", "text", "label", "note"))
        for i in range(n):
            shades = rng.integers(0, 90, (8, 8, 3)) + 150 * (np.arange(3) == i % 3)
            Image.fromarray(shades.astype(np.uint8)).resize((32, 32), 0).save(folder / f"p{i}.png")
            table.writerow((f"case {i}", f"p{i}.png", "What is it?", labels[i % len(labels)], f"-note {i}"))


def settings(folder: Path, *more: str) -> tuple[str, ...]:
    own = ("task=custom", f"dataset.root={folder}", "dataset.file=mine.csv", "dataset.id_column=name")
    return (*own, "sweep.draws=50", "sweep.seeds=[0,1]", "layers.stride=2", "hydra.run.dir=run", *more)


@pytest.fixture(scope="module")
def run(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A finished run of three classes."""
    from mllm_probe import run

    folder = tmp_path_factory.mktemp("decided")
    written(folder, LABELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = [word for word in settings(folder, "dataset.columns=[note]") if not word.startswith("hydra")]
        return run(*tiny(checkpoint), *words, out=folder / "run", quiet=True)


def test_each_decision_stands_beside_its_row_and_what_was_said(run: Result) -> None:
    table = run.predictions
    chosen = run.summary["chosen"]
    assert len(table) == 48 * 2 * len(chosen) and set(table.position) == set(chosen)
    assert set(table.label) == set(table.said) | set(table.label) == set(LABELS)
    number = table.id.str.removeprefix("case ").astype(int)
    assert (table.picture == "p" + number.astype(str) + ".png").all() and (table.row == number + 2).all()
    assert (table.note == "-note " + number.astype(str)).all() and (
        table.label == number.map(lambda i: LABELS[i % 3])
    ).all()
    raw = (run.folder / "predictions.csv").read_text(encoding="utf-8")
    assert ",'=1+1," in raw and ",'-note 5," in raw  # no formula for a spreadsheet
    splits = pd.read_csv(run.folder / "splits.csv", dtype=str)
    known = {(seed, group): split for seed, group, split in splits.itertuples(index=False)}
    assert all(known[str(row.seed), row.group] == row.split for row in table.itertuples())


def test_right_and_probabilities_are_those_of_the_scores(run: Result) -> None:
    names = ("<b>não</b>", "=1+1", "benign")
    for position, entry in run.summary["chosen"].items():
        key = f"{entry['site']}@{position}"
        logits = load_logits(run.folder / "predictions.safetensors", key, "logistic")
        for seed, z in enumerate(logits):
            own = run.predictions.query("position == @position and seed == @seed").set_index("decision")
            own = own.loc[run.decisions.decision]
            assert own.said.tolist() == [names[k] for k in z.argmax(1)]
            shares = softmax(z.astype(float), axis=1)
            assert np.allclose(own.probability, shares.max(1))
            assert np.allclose(own.probability_of_label, shares[np.arange(48), run.decisions.label.to_numpy()])
            rows = run.scores.query("position == @position and metric == 'accuracy' and control == '' and subset == ''")
            rows = rows[(rows.site == entry["site"]) & (rows.seed == str(seed)) & (rows.split == "test")]
            tested = own[own.split == "test"]
            assert rows.value.iloc[0] == pytest.approx(accuracy_score(tested.label, tested.said)) == tested.right.mean()


def test_a_direction_gives_the_logits_of_the_run(run: Result, tmp_path: Path) -> None:
    position, entry = next(iter(run.summary["chosen"].items()))
    key = f"{entry['site']}@{position}"
    cache = load_cache(run.folder, outputs=run.folder.parent / "outputs")
    rows, _ = cache.rows(key, run.decisions["sample"].tolist())
    for seed in (0, 1):
        probe = run.probe(key, seed)
        logits = load_logits(run.folder / "predictions.safetensors", key, "logistic")[seed]
        assert probe.names == ("<b>não</b>", "=1+1", "benign") and probe.direction.shape == (3, rows.shape[1])
        np.testing.assert_allclose(probe.score(rows), logits, atol=1e-4)
    assert run.probe(key).seed == 0
    assert np.array_equal(np.load(probe.save(tmp_path / "d.npy")), probe.direction)
    kept = load_file(probe.save(tmp_path / "d.safetensors"))
    assert np.array_equal(kept["direction"], probe.direction) and np.array_equal(kept["offset"], probe.offset)
    with pytest.raises(ConfigError, match=r"d.pt must end in .npy or .safetensors"):
        probe.save(tmp_path / "d.pt")
    with pytest.raises(ConfigError, match=r"rows have the shape \[2\], and .* needs \[N, "):
        probe.score([1.0, 2.0])
    with pytest.raises(ConfigError, match="holds no probe of lm.99@last, seed 0; .*choose one of: "):
        run.probe("lm.99@last")
    with pytest.raises(ConfigError, match=f"holds no probe of {key}, seed 7"):
        run.probe(key, 7)


def test_numbers_are_numbers_and_a_file_that_was_cut_is_named(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    written(tmp_path, [0.5, 1.25, 3.0, 7.5])
    code, _, err = probe("run", *tiny(checkpoint), *settings(tmp_path), "probe=ridge", "controls=none")
    assert code == 0, err
    table = Result(tmp_path / "run").predictions
    assert table.said.dtype == table.label.dtype == np.float64 and set(table.label) == {0.5, 1.25, 3.0, 7.5}
    assert table.right.isna().all() and table.probability.isna().all()
    path = tmp_path / "run" / "predictions.csv"
    path.write_text("decision,seed\na,1\n")
    with pytest.raises(DataError, match=r"predictions.csv is damaged"):
        load_predictions(RunPaths(tmp_path / "run"))
    path.unlink()
    with pytest.raises(DataError, match="does not exist; repeat the run with this release"):
        load_predictions(RunPaths(tmp_path / "run"))


def test_outputs_are_named_where_they_are_labels(tmp_path: Path) -> None:
    """One output says the second of two labels; outputs of categories are no labels, however many there are."""
    shape = {"mean": (4,), "scale": (4,)}
    for probe, outputs in (("one", ()), ("two", (2,))):
        sizes = shape | {"weights": (*outputs, 4), "intercept": outputs}
        held = {f"lm.01@last/{probe}/seed0/{name}": np.ones(size) for name, size in sizes.items()}
        save_file(held, tmp_path / f"{probe}.safetensors")
    pair = ("no", "yes")
    found = {
        (probe, kind): load_probe(tmp_path / f"{probe}.safetensors", "lm.01@last", probe, 0, pair, kind).names
        for probe, kind in (("one", "binary"), ("two", "binary"), ("two", "classes"))
    }
    assert found == {("one", "binary"): pair, ("two", "binary"): (), ("two", "classes"): pair}


def test_a_label_called_nan_stays_one(tmp_path: Path) -> None:
    """In Python and in the file, whatever pandas takes it for."""
    words = ("nan", "null", "x")
    scored = Scored(("a", "b", "c"), (0, 1, 2), ("g", "h", "i"), (True,) * 3, "classes", names=words)
    asked = {name: list(words) for name in ("id", "picture", "text", "category", "target", "label", "group")}
    logits = {("last", "lm.01"): np.eye(3)[None]}
    table = {**asked, "decision": ["a", "b", "c"], "row": [1, 2, 3]}
    paths = RunPaths(tmp_path)
    save_predictions(paths, prediction_table(table, scored, logits, {0: np.asarray(["test"] * 3)}, "accuracy"))
    save_file({"x": np.zeros(1)}, paths.predictions, scored.metadata())
    found = load_predictions(paths)
    assert found.label.tolist() == found.said.tolist() == list(words)


def test_ties_have_no_label_and_count_their_share() -> None:
    scored = Scored(("a", "b", "c"), (1, 0, 1), (), (), "binary", names=("no", "yes"), log_shares={0: (-0.7, -0.7)})
    z = np.asarray([0.0, -2.0, np.nan])
    found = told(scored, z, z)
    assert found["said"].tolist() == ["", "no", ""] and found["right"].tolist()[:2] == [0.5, 1.0]
    assert np.isnan(found["right"][2]) and found["probability_of_label"][0] == 0.5
    assert np.isnan(told(Scored((), (1,), (), (), "binary"), z[:1], z[:1])["probability"]).all()


def test_a_large_table_is_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decided, "LARGE", 1)
    scored = Scored(("a", "b"), (1, 0), ("g", "h"), (True, True), "binary", names=("no", "yes"))
    asked = {name: ["x", "y"] for name in ("decision", "id", "picture", "text", "category", "target", "label", "group")}
    logits = {("last", "lm.01"): np.asarray([[1.0, -1.0]])}
    table = prediction_table({**asked, "row": [1, 2]}, scored, logits, {0: np.asarray(["test", "train"])}, "accuracy")
    paths = RunPaths(tmp_path)
    paths.decided("csv").write_text("old")
    assert save_predictions(paths, table) == "2 predictions are in predictions.parquet"
    assert not paths.decided("csv").exists()
    assert load_predictions(paths).said.tolist() == ["yes", "no"]
    monkeypatch.setattr(decided, "find_spec", lambda name: None)
    assert "with pyarrow it is parquet" in str(save_predictions(paths, table))
    assert not paths.decided("parquet").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("dataset.columns=[label]",), "dataset.columns names 'label', which predictions.csv has already"),
        (("dataset.columns=[nothing]",), "no column 'nothing' (dataset.columns=nothing); choose one of: name, picture"),
        (("dataset.id_column=text",), "row 3: the id 'What is it?' is that of row 2; give each row its own"),
        (("dataset.id_column=nothing",), "no column 'nothing' (dataset.id_column)"),
    ],
)
def test_wrong_columns_are_one_sentence(probe: Run, tmp_path: Path, more: tuple[str, ...], message: str) -> None:
    written(tmp_path, LABELS, n=12)
    code, _, err = probe("inspect", "n=1", *[word for word in settings(tmp_path) if "hydra" not in word], *more)
    assert code == 1 and message in err and err.count("mllm-probe:") == 1
