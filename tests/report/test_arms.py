"""Arms side by side: planted effects are found, with the right sign, and claimed only beyond permuted labels."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from mllm_probe.errors import DataError
from mllm_probe.files.paths import RunPaths
from mllm_probe.files.readback import load_rows, save_rows
from mllm_probe.report.figures.training import draw_arms
from mllm_probe.report.terminal.arms import said
from mllm_probe.results.fidelity import HOME, MODEL, REFERENCE, Agreement, curve, load_agreements, save_agreements
from mllm_probe.results.predictions import Scored, load_scored
from mllm_probe.results.score_file import load_scores
from mllm_probe.results.training import BASE, FULL, PERMUTED, PLAIN, Effect
from mllm_probe.sugar.arms import effects
from mllm_probe.train.material import HeldOut
from tests.support.runs import Run

N, BLOCKS, SEEDS = 400, 3, (0, 1, 2)
LABELS = np.arange(N) % 2
TESTED = np.arange(N) >= 100
SCORED = Scored(
    tuple(f"d{i}" for i in range(N)),
    tuple(LABELS.tolist()),
    tuple(f"p{i // 2}" for i in range(N)),
    tuple(TESTED.tolist()),
    "binary",
)


def training(root: Path, arm: str, seed: int, right: float, nats: float) -> None:
    """A finished training: captions cost `nats` more, its probes are right with chance `right`, the base's with 0.7."""
    folder = root / f"{arm}-{seed}"
    (folder / "task").mkdir(parents=True)
    paths, rng = RunPaths(folder), np.random.default_rng([seed, *arm.encode()])
    paths.summary.write_text(json.dumps({"arm": arm, "seed": seed}))
    cost = np.random.default_rng(0).normal(4, 1, 60) + nats + rng.normal(0, 0.01, 60)
    save_rows(paths.held_out, HeldOut, [HeldOut(f"p{i // 3}", i % 3, 7, float(one)) for i, one in enumerate(cost)])
    save_agreements(paths.side("task").fidelity, agreements())
    drawn = {HOME: (np.random.default_rng(1), 0.7), (REFERENCE, MODEL): (rng, 0.6), (MODEL, MODEL): (rng, right)}
    save_file(
        {
            f"lm.{layer:02d}@last/logistic/{' on '.join(pair)}/seed{s}": logits(*drawn[pair])
            for pair in drawn
            for layer in range(1, BLOCKS + 1)
            for s in (0, 1)
        },
        paths.side("task").predictions,
        metadata=SCORED.metadata(),
    )


def logits(rng: np.random.Generator, right: float) -> np.ndarray:
    return np.where((rng.random(N) < right) == (LABELS == 1), 1.0, -1.0).astype(np.float32)


def agreements() -> list[Agreement]:
    """What a reader of the curves needs: on validation the base is best at lm.02."""
    texts = ("run", "model", "revision", "quantization", "reference", "cache", "reference_cache", "dataset")
    blank = Agreement(
        **dict.fromkeys(texts, "x"), task="entailment", site="", tower="lm", layer=0, part="block", depth=0.5,
        position="last", measure="accuracy", n=N, n_groups=N // 2, fitted_on=REFERENCE, read_on=REFERENCE,
        probe="logistic", split="val",
    )  # fmt: skip
    values = {1: 0.6, 2: 0.8, 3: 0.7}
    return [replace(blank, site=f"lm.{i:02d}", layer=i, value=value) for i, value in values.items()]


def trained(root: Path, full: float, permuted: float | None = 0.7) -> list[Effect]:
    for seed in SEEDS:
        training(root, PLAIN, seed, 0.7, nats=0)
        training(root, FULL, seed, full, nats=0.5)
        if permuted is not None:
            training(root, PERMUTED, seed, permuted, nats=0)
    return effects(root)


def one(rows: list[Effect], measure: str, arm: str, against: str, layers: str) -> Effect:
    (found,) = [r for r in rows if (r.measure, r.arm, r.against, r.layers) == (measure, arm, against, layers)]
    return found


def test_planted_effects_are_found_by_hand_and_claimed(tmp_path: Path) -> None:
    rows = trained(tmp_path, full=0.9)
    found = one(rows, "refitted", FULL, PLAIN, "all")
    assert found.n == TESTED.sum() and found.n_groups == TESTED.sum() / 2 and found.p_holm < 0.01
    assert found.value == pytest.approx(_by_hand(tmp_path), abs=1e-9) and found.low < 20 < found.high and found.agreed
    assert one(rows, "captions", FULL, PLAIN, "").value == pytest.approx(0.5, abs=0.02)
    assert one(rows, "refitted", FULL, BASE, "lm.02").value == pytest.approx(20, abs=6)
    assert one(rows, "reused", FULL, BASE, "all").value == pytest.approx(-10, abs=5)
    lines = list(said(rows))
    assert lines[0].startswith("lg_ld minus lg: 3 of 5 measures differ")
    assert "probe refitted, entailment at last, mean over blocks" in lines[2]
    assert "all seeds agree; larger than with permuted labels" in lines[2]


def _by_hand(root: Path) -> float:
    from safetensors.numpy import load_file

    shares = []
    for arm in (FULL, PLAIN):
        files = [load_file(root / f"{arm}-{seed}" / "task" / "predictions.safetensors") for seed in SEEDS]
        own = [value for file in files for name, value in file.items() if "model on model" in name]
        shares.append(np.mean([((value > 0) == (LABELS == 1))[TESTED] for value in own]))
    return 100 * float(shares[0] - shares[1])


def test_what_permuted_labels_do_too_is_not_ascribed_to_the_structure(tmp_path: Path) -> None:
    lines = list(said(trained(tmp_path, full=0.9, permuted=0.9)))
    assert any("not larger than with permuted labels" in line for line in lines[1:] if "refitted" in line)


def test_without_permuted_labels_nothing_is_ascribed(tmp_path: Path) -> None:
    lines = list(said(trained(tmp_path, full=0.9, permuted=None)))
    assert all("no arm with permuted labels was trained" in line for line in lines[1:])


def test_nothing_planted_is_said_to_be_nothing() -> None:
    row = Effect(
        "refitted", "entailment", "last", "all", FULL, PLAIN, "points", 9, 9, 0.1, "0.1", -1, 1, 0.95, 0.8, 0.8
    )
    assert list(said([row])) == [
        "lg_ld minus lg: 0 of 1 measures differ (Holm)",
        "  no significant change",
    ]


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    draw_arms(trained(tmp_path, full=0.9), [tmp_path / "arms.png"])
    assert (tmp_path / "arms.png").stat().st_size > 10_000


def test_missing_trainings_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds trainings of the arms none; lg and another are needed"):
        effects(tmp_path)
    trained(tmp_path, full=0.7)
    training(tmp_path, "ld", 0, 0.7, nats=0)
    with pytest.raises(DataError, match=r"ld has the seeds \[0\] and lg \[0, 1, 2\]; train those missing"):
        effects(tmp_path)


def test_trainings_on_other_data_are_refused(tmp_path: Path) -> None:
    trained(tmp_path, full=0.7)
    path = RunPaths(tmp_path / "lg_ld-1").held_out
    pd.read_csv(path).iloc[1:].to_csv(path, index=False)
    with pytest.raises(DataError, match="tested on different captions"):
        effects(tmp_path)


def test_the_experiment_from_trainings_to_what_they_moved(probe: Run, tmp_path: Path) -> None:
    """Two arms, one seed, ten steps; the test pictures of the followers are those of the training."""
    small = ("dataset.pictures=40", "data.n=40", "target.documents=24", "target.held_out=6", "train.batch=4")
    arms = ("target.arm=lg,lg_ld", "train.seed=0", "train.steps=10")
    code, _, err = probe("tune", "-m", "experiment=sugar_arms", *small, *arms)
    assert code == 0, err
    (folder,) = tmp_path.glob("outputs/multirun/*/*")
    code, out, err = probe("report", f"run={folder}")
    assert code == 0, err
    assert "lg_ld minus lg:" in out
    table = load_rows(folder / "arms.csv", Effect).set_index(["measure", "task", "layers", "arm", "against"])
    captions = [pd.read_csv(folder / job / "held_out.csv") for job in "01"]
    gap = (captions[1].loss - captions[0].loss).mean()
    assert table.value["captions", "", "", FULL, PLAIN] == pytest.approx(gap, abs=1e-6)
    for task in ("entailment", "objects"):
        curves = [load_agreements(folder / job / task / "fidelity.csv") for job in "01"]
        means = [_block_mean(one, (MODEL, MODEL)) for one in curves]
        assert table.value["refitted", task, "all", FULL, PLAIN] == pytest.approx(means[1] - means[0], abs=1e-6)
        home = _block_mean(curves[0], HOME)
        assert table.value["refitted", task, "all", PLAIN, BASE] == pytest.approx(means[0] - home, abs=1e-6)
    files = [load_scores(folder / job / "alignment" / "alignment.csv") for job in "01"]
    found = [one[(one.task == "entailment") & (one.features == "centred") & (one.split == "test")] for one in files]
    found = [one[(one.control == "") & (one.part == "block") & (one.metric == "auroc")].value.mean() for one in found]
    aligned = table.value["true or false", "centred cosine", "all", FULL, PLAIN]
    assert aligned == pytest.approx(100 * (found[1] - found[0]), abs=1e-6)
    scored = load_scored(folder / "0" / "entailment" / "predictions.safetensors")
    tested = {group for group, test in zip(scored.groups, scored.test, strict=True) if test}
    assert set(captions[0].picture) <= tested and len(tested) == 10


def _block_mean(table: pd.DataFrame, pair: tuple[str, str]) -> float:
    rows = curve(table[(table.tower == "lm") & (table.part == "block") & (table.position == "last")], *pair)
    return 100 * float(rows.value.mean())


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ("tune", "after.x begins with 'tune'; choose one of: align, fidelity, geometry, run"),
        ("fidelity task=entailmant", "task=entailmant is unknown; did you mean 'entailment'?"),
        ("fidelity typo=1", "'typo' is no setting of `fidelity`"),
    ],
)
def test_what_cannot_follow_is_one_sentence(probe: Run, tmp_path: Path, after: str, message: str) -> None:
    code, _, err = probe("tune", "target=sugar_mini", f"+after.x='{after}'")
    assert code == 1 and message in err and "\n" not in err.strip()
    assert not list(tmp_path.glob("outputs/labels"))
