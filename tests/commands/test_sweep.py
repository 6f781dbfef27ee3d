"""A sweep from the command line: controls, analyses, tests over layers, and what a killed one leaves."""

import itertools
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from sklearn.metrics import accuracy_score, log_loss

from mllm_probe.cache.plan import ShardWriter
from mllm_probe.commands import run
from mllm_probe.config.run import RunConfig, run_digest
from mllm_probe.errors import CacheError, DataError, ProbeError
from mllm_probe.files.store_paths import PartPaths
from mllm_probe.fitting.resume import FITS, LOGITS, Parts
from mllm_probe.fitting.trials import Probing, Trial
from mllm_probe.records.samples import Decision, Examples
from mllm_probe.records.sites import Key
from mllm_probe.results.predictions import load_scored
from mllm_probe.results.score_file import load_scores
from mllm_probe.scoring.analyses import erasing
from mllm_probe.stats.coding import blocks
from mllm_probe.tasks.splits import Folds
from tests.support.killed import DATA
from tests.support.runs import QUICK, Run, Silent, folder, stored, tiny
from tests.support.score_words import check_words

LM = ("layers.towers=[lm]", "extract.positions=[last,mean_text]")


@pytest.fixture
def swept(called: Callable[..., Path], checkpoint: Path) -> Path:
    args = (
        "controls=[control_task,permuted]",
        "sweep.analyses=[mdl,v_information,erasure]",
        "sweep.baseline=lm.00@mean_text",
        "sweep.seeds=[0,1]",
    )
    return folder(called("run", *tiny(checkpoint), *QUICK, *LM, *args))


def test_scores_follow_from_the_predictions(swept: Path) -> None:
    """Accuracy, log loss and selectivity computed again by scikit-learn from the files of the run alone."""
    table, logits = load_scores(swept / "scores.csv"), load_file(swept / "predictions.safetensors")
    rows = table[(table.site == "lm.04") & (table.position == "mean_text") & (table.split == "test")]
    rows = rows[rows.features == "single"]
    own = rows[(rows.control == "") & (rows.seed == "0")].set_index("metric").value
    names = {name for name in logits if name.startswith("lm.04@mean_text/logistic/")}
    assert {"lm.04@mean_text/logistic/seed0", "lm.04@mean_text/logistic/control_task/seed1"} <= names
    truth = labels(swept)
    test = held_out(swept, "0")
    z = logits["lm.04@mean_text/logistic/seed0"][test]
    assert own["accuracy"] == pytest.approx(accuracy_score(truth[test], z > 0))
    assert own["nll"] == pytest.approx(log_loss(truth[test], 1 / (1 + np.exp(-z.astype(float)))))
    control = rows[(rows.control == "control_task") & (rows.seed == "0")].set_index("metric").value
    assert own["selectivity"] == pytest.approx(own["accuracy"] - control["accuracy"])


def test_erased_layers_are_read_on_pictures_that_the_eraser_never_saw(swept: Path) -> None:
    """By a fresh probe and by the old one, both recomputed here from the arrays of the run; nothing is so by design."""
    table = load_scores(swept / "scores.csv")
    whole = table[(table.metric == "nll") & (table.split == "test") & (table.seed == "all") & (table.control == "")]
    erased, again, plain = (
        whole[whole.features == name].set_index(["site", "position"]).value
        for name in ("leace", "leace_reread", "single")
    )
    assert len(erased) == len(again) == 6 and erased.std() > 1e-6
    arrays, logits = load_file(swept / "probes.safetensors"), load_file(swept / "predictions.safetensors")
    name = "lm.04@mean_text/logistic"
    eraser = {part: arrays[f"{name}/leace/seed0/eraser.{part}"] for part in ("mean", "right", "left")}
    x = read(swept, "lm.04@mean_text")
    clean = x - (x - eraser["mean"]) @ eraser["right"].T @ eraser["left"]
    for probe, said in (("leace/seed0", "leace/seed0"), ("seed0", "leace_reread/seed0")):
        mean, scale, weights, b = (
            arrays[f"{name}/{probe}/{part}"] for part in ("mean", "scale", "weights", "intercept")
        )
        told = (clean - mean) / scale @ weights + b
        assert logits[f"{name}/{said}"] == pytest.approx(told, rel=1e-4, abs=1e-4)
    ratios = table[table.metric == "edit_ratio"]
    assert len(ratios) == 6 and (ratios.value > 1 - 1e-6).all() and set(ratios.split) == {"train"}
    fresh = table[(table.features == "leace") & (table.split == "test") & (table.site == "lm.04")].n_train.iloc[0]
    trained = int(table[(table.features == "single") & (table.site == "lm.04")].n_train.iloc[0])
    assert fresh + ratios[ratios.site == "lm.04"].n_train.iloc[0] == trained
    assert plain.index.equals(erased.index)
    best = json.loads((swept / "summary.json").read_text())["chosen"]["mean_text"]
    accuracy = table[
        (table.metric == "accuracy") & (table.split == "test") & (table.seed == "all") & (table.control == "")
    ]
    shown = accuracy[(accuracy.features == "single") & (accuracy.position == "mean_text")].set_index("site").value
    assert best["value"] == pytest.approx(shown[best["site"]])


def test_the_eraser_and_the_fresh_probe_share_no_picture() -> None:
    one = probing([None] * 12, [float(i) for i in range(12)], "number")
    taught, unseen = erasing(one, 0)
    whole = one.problem("", 0).train
    assert taught.train.sum() == unseen.train.sum() == 2 and (taught.train ^ unseen.train == whole).all()
    assert (taught.val == unseen.val).all() and not (taught.val & whole).any()
    with pytest.raises(ProbeError, match="sweep.analyses=erasure .* half of the 4 training pictures"):
        labelled = probing([None] * 12, [i // 2 % 2 for i in range(12)])
        for seed in labelled.seeds:
            erasing(labelled, seed)


def test_information_beside_the_baseline_is_the_fall_in_log_loss(swept: Path) -> None:
    table = load_scores(swept / "scores.csv")
    found = table[table.metric == "v_information"]
    assert set(found.features) == {"with lm.00@mean_text"} and len(found) == 5
    told = found[found.site != "lm.00"]
    assert (told.low <= told.value).all() and (told.value <= told.high).all()
    nothing = found[found.site == "lm.00"]  # one row for all decisions: it adds exactly nothing, whatever the pictures
    assert (nothing.value.abs() < 1e-12).all() and nothing.low.isna().all()
    logits, test = load_file(swept / "predictions.safetensors"), held_out(swept, "0")
    truth = labels(swept)[test]
    losses = [
        [log_loss(truth, 1 / (1 + np.exp(-logits[name.format(seed)][test].astype(float)))) for seed in (0, 1)]
        for name in ("lm.00@mean_text/logistic/seed{}", "lm.04@last/logistic/with lm.00@mean_text/seed{}")
    ]
    row = found[(found.site == "lm.04") & (found.position == "last")].iloc[0]
    assert row.value == pytest.approx((np.mean(losses[0]) - np.mean(losses[1])) / np.log(2), abs=1e-6)


def labels(swept: Path) -> np.ndarray:
    """Captions are exchanged inside folds, two true and two false a picture; recovered from the task itself."""
    return decisions(swept).label.to_numpy()


def read(swept: Path, key: str) -> np.ndarray:
    """The row of each decision [N, D] float64."""
    table = load_scores(swept / "scores.csv")
    rows = stored(swept.parents[2] / "cache" / table[(table.features == "leace")].cache.iloc[0], key)
    return np.stack([rows[uid] for uid in load_scored(swept / "predictions.safetensors").samples]).astype(np.float64)


def decisions(swept: Path) -> pd.DataFrame:
    from mllm_probe.data.coco import Selection
    from mllm_probe.data.scenes import Scenes
    from mllm_probe.files.digests import Digests
    from mllm_probe.tasks.entailment import Entailment

    outputs = swept.parents[2]
    collection = Scenes(pictures=30).load(outputs, Selection(n=30), Digests(outputs / "d.json"))
    found = Entailment().examples(collection, Folds(blocks=4)).decisions
    return pd.DataFrame(
        {"uid": [d.uid for d in found], "label": [d.label for d in found], "group": [d.group for d in found]}
    )


def held_out(swept: Path, seed: str) -> np.ndarray:
    splits = pd.read_csv(swept / "splits.csv", dtype=str)
    split = splits[splits.seed == seed].set_index("group").split
    return (decisions(swept).group.map(split) == "test").to_numpy()


def probing(
    types: list[str | None], labels: list[float], kind: str = "binary", controls: tuple[str, ...] = ()
) -> Probing:
    """Twelve pictures and a decision each, without a model."""
    folds = {f"p{i}": i // 4 for i in range(12)}
    rows = enumerate(zip(types, labels, strict=True))
    made = tuple(Decision(str(i), "s", "t", y, f"p{i}", type=kind_) for i, (kind_, y) in rows)
    sweep = SimpleNamespace(seeds=[0, 1])
    examples = Examples((), made, folds, kind)
    return Probing(SimpleNamespace(examples=examples, sweep=sweep, folds=Folds(), controls=controls))  # type: ignore[arg-type]


def test_a_control_task_gives_each_type_one_label() -> None:
    types = ["cat", "dog", "cup", "car"] * 3
    found = probing(types, [0, 1] * 6).control_labels
    assert found is not None
    assert all(len(set(found[np.asarray(types) == name])) == 1 for name in types) and found.sum() == 6
    common = probing(["cat"] * 3 + ["dog"] * 3 + ["cup"] * 3 + ["car"] * 3, [0, 1] * 6).control_labels
    assert common is None or common.sum() == 6
    numbers = probing(types, list(range(12)), "number").control_labels
    assert numbers is not None and len(set(numbers)) == 4 and set(numbers) <= set(range(12))


def test_a_control_task_without_types_does_not_exist() -> None:
    for types in ([None] * 12, ["cat"] * 12, [*["cat", "dog"] * 5, "cat", None]):
        made = probing(types, [0, 1] * 6, controls=("control_task", "permuted"))
        assert made.control_labels is None and made.controls == ("", "permuted")


def test_a_control_task_has_every_class_in_training_or_does_not_exist() -> None:
    types = ["cat", "dog", "cup", "car"] * 3
    few = probing(types, [0, 1, 2, 3] * 3, "classes", ("control_task",))
    assert few.control_labels is not None and set(few.control_labels) == {0, 1, 2, 3}
    many = probing(types, list(range(6)) * 2, "classes", ("control_task",))
    assert many.control_labels is None and many.controls == ("",)


def test_no_probe_sees_a_test_label_and_permutation_moves_the_others_only() -> None:
    made = probing(["cat", "dog"] * 6, [1] * 4 + [0, 1] * 4, controls=("permuted",))
    for control in made.controls:
        problem = made.problem(control, 0)
        assert (problem.y[made.test] == 0).all() and not (problem.train | problem.val)[made.test].any()
        assert (problem.train ^ problem.val)[~made.test].all()
        assert problem.y[~made.test].sum() == 4
    assert (made.problem("permuted", 0).y != made.problem("", 0).y).any()
    assert (made.truth("permuted") == made.y).all()


@pytest.mark.parametrize("sizes", [[8] * 12, [3, 5] * 6])
def test_permuted_training_labels_move_with_their_pictures(sizes: list[int]) -> None:
    """With one label a picture its rows keep one label where all are as large; no label stays because of its size."""
    groups = np.repeat([f"p{i:02}" for i in range(12)], sizes)
    folds = {name: 1 + i % 2 for i, name in enumerate(dict.fromkeys(groups))}
    rows = tuple(Decision(f"{i:03}", "s", "t", int(int(g[1:]) > 5), g) for i, g in enumerate(groups))
    sweep = SimpleNamespace(seeds=[0, 1, 2])
    experiment = SimpleNamespace(examples=Examples((), rows, folds), sweep=sweep, folds=Folds(), controls=("permuted",))
    made, moved = Probing(experiment), []  # type: ignore[arg-type]
    for seed in made.seeds:
        y = made.problem("permuted", seed).y
        assert y.sum() == made.y.sum()
        mixed = sum(len(set(y[groups == name])) > 1 for name in folds)
        assert mixed == 0 if len(set(sizes)) == 1 else mixed < 12
        moved.append((y != made.y).mean())
    assert min(moved) > 0


def test_each_block_is_coded_by_the_probe_fitted_before_it(swept: Path) -> None:
    """The code computed again from the predictions: bits of each block under the probe of the rows before it."""
    table, logits = load_scores(swept / "scores.csv"), load_file(swept / "predictions.safetensors")
    rows = table[(table.site == "lm.04") & (table.position == "mean_text") & (table.control == "")]
    curve, code = rows[rows.metric == "block_bits"], rows[rows.split == "online"].set_index("metric").value
    known = [*curve.n_train.astype(int), int(rows[rows.metric == "codelength"].n.iloc[0])]
    assert known[0] >= 64 and (np.diff(known) == curve.n).all()
    groups = decisions(swept).group.to_numpy()
    free = np.flatnonzero(~held_out(swept, "0"))
    order, truth, bits = free[blocks(groups[free], 0).order], labels(swept), float(known[0])
    for before, after, row in zip(known, known[1:], curve.itertuples(), strict=False):
        sent = order[before:after]
        z = logits[f"lm.04@mean_text/logistic/first {before}/seed0"][sent].astype(float)
        bits += log_loss(truth[sent], 1 / (1 + np.exp(-z)), labels=[0, 1]) / np.log(2) * len(sent)
        assert not set(groups[order[:before]]) & set(groups[sent]) and row.n == len(sent)
    assert code["codelength"] == pytest.approx(bits, rel=1e-5)
    assert code["compression"] == pytest.approx(known[-1] / bits, rel=1e-5)
    beyond = known[0] * 0.5 + (np.maximum(curve.value - 0.5, 0) * curve.n).sum()
    assert code["surplus_bits"] == pytest.approx(beyond, rel=1e-5), "down to half a bit"


def test_tests_of_layers_are_a_file_and_lines_of_the_summary(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    """Of the blocks lm.02 and lm.04; lm.00 is by design."""
    code, _, err = probe("run", *tiny(checkpoint), *QUICK, *LM, "layers.stride=2", "sweep.seeds=[0,1]")
    assert code == 0, err
    swept = folder(tmp_path)
    tests = pd.read_csv(swept / "tests.csv", keep_default_na=False)
    always = {"above_chance", "floor", "contender", "shape", "equivalence", "difference", "gap"}
    assert always <= set(tests.test) <= always | {"drop", "rise", "plateau"}
    assert set(tests[tests.test == "above_chance"].family) == {"6 keys", "by design"}, "layer 0 has seen no picture"
    check_words(swept)
    summary = json.loads((swept / "summary.json").read_text())
    for position in ("last", "mean_text"):
        said, here = summary["verdicts"][position], tests[tests.position == position]
        assert said["verdict"] == here[here.test == "shape"].verdict.item()
        contends = here[here.test == "contender"]
        assert said["may_be_best"] == contends[contends.verdict != ""].site.tolist()
        assert said["blocks"] == contends.site.tolist()
        assert set(here[here.test.isin(["drop", "rise", "difference"])].site) == {said["chosen"]}


def test_a_killed_sweep_goes_on_behind_the_keys_it_fitted(
    probe: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = (*tiny(checkpoint), *QUICK, *LM, "sweep.reuse=false")
    assert probe("run", *args)[0] == 0
    whole = folder(tmp_path)
    assert not list((tmp_path / "outputs").glob("unfinished/*"))
    fitted: list[str] = []
    trials = Probing.trials

    def stop_at_the_fifth(self: Probing, key: Key, *rest: object, **named: object) -> list[Trial]:
        if len(fitted) == 5:
            raise KeyboardInterrupt
        fitted.append(str(key))
        return trials(self, key, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Probing, "trials", stop_at_the_fifth)
    assert probe("sweep", *args)[0] == 1
    assert len(list((tmp_path / "outputs").glob("unfinished/*/*.safetensors"))) == 5
    monkeypatch.setattr(
        Probing, "trials", lambda self, key, *a, **n: (fitted.append(str(key)), trials(self, key, *a, **n))[1]
    )
    assert probe("sweep", *args)[0] == 0
    assert len(fitted) == len(set(fitted)), "no key is fitted twice"
    for name in ("scores.csv", "tests.csv", "predictions.safetensors", "probes.safetensors"):
        assert (folder(tmp_path, "sweep") / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_damaged_part_is_fitted_again(tmp_path: Path) -> None:
    trial = Trial(Key.parse("lm.01@last"), "", "logistic", 0, np.arange(3, dtype=np.float32), {"converged": 1.0}, {})
    parts = Parts(PartPaths(tmp_path))
    assert parts.get("lm.01@last", lambda: [trial])[0].logits.tolist() == [0, 1, 2]
    assert parts.get("lm.01@last", lambda: pytest.fail("it is there"))[0].logits.tolist() == [0, 1, 2]
    next(tmp_path.glob("*.safetensors")).write_bytes(b"\x00" * 20)
    assert parts.get("lm.01@last", lambda: [trial])[0].facts == {"converged": 1.0}


def test_joined_parts_are_what_safetensors_would_write(tmp_path: Path) -> None:
    parts = Parts(PartPaths(tmp_path / "parts"))
    expected = {}
    for layer in range(3):
        key = Key.parse(f"lm.{layer:02d}@mark:object")
        arrays = {"weights": np.random.default_rng(layer).normal(size=(2, 5)), "intercept": np.ones(1)}
        logits = np.arange(4, dtype=np.float32) + layer
        parts.get(str(key), lambda k=key, z=logits, a=arrays: [Trial(k, "", "ridge", 7, z, {"converged": 1.0}, a)])
        expected |= {f"{key}/ridge/seed7/{name}": array for name, array in arrays.items()}
        assert parts.get(str(key), lambda: pytest.fail("it is there"))[0].name == f"{key}/ridge/seed7"
    parts.join(FITS, tmp_path / "fits.safetensors", {"facts": json.dumps(parts.facts())})
    parts.join(LOGITS, tmp_path / "logits.safetensors", {})
    found = load_file(tmp_path / "fits.safetensors")
    assert found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)
    assert load_file(tmp_path / "logits.safetensors")["lm.02@mark:object/ridge/seed7"].tolist() == [2, 3, 4, 5]
    save_file(expected, tmp_path / "again.safetensors")
    assert abs((tmp_path / "again.safetensors").stat().st_size - (tmp_path / "fits.safetensors").stat().st_size) < 400
    parts.clear()
    assert not (tmp_path / "parts").exists()


def examples(labels: list[int], groups: list[str], folds: dict[str, int], kind: str = "binary") -> Examples:
    rows = enumerate(zip(labels, groups, strict=True))
    return Examples((), tuple(Decision(str(i), "s", "t", y, g) for i, (y, g) in rows), folds, kind)


def test_splits_that_cannot_be_learnt_from_are_named() -> None:
    folds = {f"p{i}": i // 4 for i in range(12)}
    groups = [f"p{i}" for i in range(12)]
    with pytest.raises(DataError, match=r"the (train|val|test) split lacks 1 of 3 classes: 2; "):
        Folds().check(examples([0, 1, 2, 0, 1, 2, 0, 1, 1, 0, 1, 0], groups, folds, "classes"), [0])
    crowded = examples([0, 1] * 6 + [0, 1] * 4, groups + ["p0"] * 8, folds)
    with pytest.raises(
        DataError, match=r"test split has 9 of its 12 rows about one picture \(p0\); take more pictures"
    ):
        Folds().check(crowded, [0])
    Folds().check(examples([0, 1] * 6, groups, folds), [0])


def test_a_probe_that_does_not_fit_the_target_is_refused_before_anything_is_read(
    probe: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mllm_probe.probes.ridge.Ridge.kinds", ("number",))
    code, _, err = probe("run", *tiny(checkpoint), *QUICK, "probe=ridge")
    assert (
        code == 1 and "probe=ridge fits targets of kind number, and task=entailment has targets of kind binary" in err
    )
    assert not list(tmp_path.glob("outputs/cache/*/groups"))


def test_numbers_are_swept_too(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    args = (*tiny(checkpoint), *QUICK, "task=count", "probe=ridge", "layers.towers=[lm]")
    code, out, err = probe("run", *args)
    assert code == 0, err
    assert "count on scenes: R2" in out and "no control task: its labels go by type" in err
    table = load_scores(folder(tmp_path) / "scores.csv")
    assert set(table.metric) == {"r2", "mae", "spearman"} and set(table.probe) == {"ridge", "majority", "constant"}
    floor = table[(table.probe == "majority") & (table.metric == "spearman")]
    assert floor.value.isna().all(), "a constant has no rank"
    layers = table[(table.metric == "r2") & (table.seed == "all") & (table.site != "")]
    assert (layers.p_holm.isna() == (layers.family == "by design")).all() and len(layers) == 6
    code, _, err = probe("run", *tiny(checkpoint), *QUICK, "task=count")
    assert code == 1 and "probe=logistic fits targets of kind binary, classes, labels, and task=count has" in err


def test_bits_are_refused_where_outputs_are_no_log_odds(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    code, _, err = probe("run", *tiny(checkpoint), *QUICK, "probe=ridge", "sweep.analyses=[mdl]")
    assert code == 1 and "the output of probe=ridge is no log-odds; choose probe=logistic or mlp" in err
    code, _, err = probe("run", *tiny(checkpoint), *QUICK, "probe=ridge", *LM)
    assert code == 0, err
    metrics = set(load_scores(folder(tmp_path) / "scores.csv").query("probe == 'ridge'").metric)
    assert not metrics & {"nll", "ece"} and {"accuracy", "auroc"} <= metrics


def test_equal_sweeps_at_once_share_their_parts(tmp_path: Path) -> None:
    """The second waits for its turn and fits nothing; the first leaves the parts to it, and it removes them."""
    trial = Trial(Key.parse("lm.01@last"), "", "logistic", 0, np.zeros(3, np.float32), {"converged": 1.0}, {})
    one, two = (Parts(PartPaths(tmp_path / "parts")) for _ in range(2))
    begun, done, said = threading.Event(), threading.Event(), Silent()

    def second() -> None:
        with two.turn(said):
            begun.set()
            two.get("lm.01@last", lambda: pytest.fail("it is there"))
            two.join(LOGITS, tmp_path / "two", {})
            done.wait(60)

    with one.turn(Silent()):
        one.get("lm.01@last", lambda: [trial])
        other = threading.Thread(target=second)
        other.start()
        while not said.notes:
            assert not begun.wait(0.01), "two at once"
        one.join(LOGITS, tmp_path / "one", {})
    one.clear()
    assert begun.wait(60)
    done.set()
    other.join()
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert "fits the same sweep: waiting for it" in said.notes[0]
    two.clear()
    assert not (tmp_path / "parts").exists()


def test_parts_that_are_gone_are_named(tmp_path: Path) -> None:
    parts = Parts(PartPaths(tmp_path / "parts"))
    trial = Trial(Key.parse("lm.01@last"), "", "logistic", 0, np.zeros(3, np.float32), {"converged": 1.0}, {})
    parts.get("lm.01@last", lambda: [trial])
    parts.clear()
    with pytest.raises(CacheError, match="lost the part of lm.01@last: another process removed it"):
        parts.join(LOGITS, tmp_path / "out.safetensors", {})


def test_what_changes_a_label_changes_the_run() -> None:
    """Parts of a killed sweep are found by this digest: other labels, types or splits are another sweep."""
    config = RunConfig(dataset={"root": None}, task={}, probe={})
    one = probing(["cat", "dog"] * 6, [0, 1] * 6).experiment.examples
    flipped = replace(one, decisions=tuple(replace(d, label=1 - d.label) for d in one.decisions))
    retyped = replace(one, decisions=tuple(replace(d, type="cup") for d in one.decisions))
    moved = replace(one, folds={name: 1 - fold for name, fold in one.folds.items()})
    digests = [run_digest(config, "cache", examples) for examples in (one, flipped, retyped, moved)]
    assert len(set(digests)) == 4


def test_a_summary_tells_of_all_attempts(
    probe: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One dies in its third shard, one when all is extracted; the third one's summary is that of a run in peace."""
    args = (
        *tiny(checkpoint),
        *DATA,
        "layers.towers=[lm]",
        "layers.range=[3,4]",
        "sweep.draws=50",
        "guards=note",
        "controls=none",
    )
    write, sweep, shards = ShardWriter.write, run.sweep_cached, itertools.count()

    def dies(*given: Any, **named: Any) -> None:
        raise DataError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "write", lambda writer: write(writer) if next(shards) < 2 else dies())
        assert probe("run", *args)[0] == 1
    with monkeypatch.context() as patch:
        patch.setattr(run, "sweep_cached", dies)
        assert probe("run", *args)[0] == 1
    assert run.sweep_cached is sweep
    for more in (), ("paths.outputs=peace",):
        code, _, err = probe("run", *args, *more)
        assert code == 0, err
    killed, peace = (
        json.loads(next(tmp_path.glob(f"{place}/run/*/*/summary.json")).read_text()) for place in ("outputs", "peace")
    )
    assert killed["extraction"].pop("seconds") > 0 and peace["extraction"].pop("seconds") > 0
    assert killed["extraction"] == peace["extraction"] and not peace["extraction"]["hit"]
    assert not list(tmp_path.glob("outputs/unfinished/*"))
