"""Quantised against not quantised: states by hand from the shards, probes by hand from their saved weights, and the
command from two extractions to its figure."""

from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file
from sklearn.metrics.pairwise import paired_cosine_distances

from mllm_probe.data.coco import Selection
from mllm_probe.data.scenes import Scenes
from mllm_probe.errors import ProbeError
from mllm_probe.files.digests import Digests
from mllm_probe.geometry import deviation as measured
from mllm_probe.geometry.deviation import deviation
from mllm_probe.geometry.fidelity import corrected
from mllm_probe.report.terminal.layers.fidelity import lost, print_agreements
from mllm_probe.results.fidelity import Agreement, load_agreements
from mllm_probe.results.score_file import load_scores
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.tasks.splits import Folds
from tests.support.runs import QUICK, Run, stored, tiny

RNG = np.random.default_rng(0)
TEXTS = ("run", "model", "revision", "quantization", "reference", "cache", "reference_cache", "dataset", "task")
LAYERS = ("layers.range=[1,3]", "layers.stride=1", "layers.towers=[vision,lm]", "controls=none", "sweep.seeds=[0,1]")


def test_deviations_equal_the_naive_formulas_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = RNG.normal(size=(2, 23, 5)) + 3
    monkeypatch.setattr(measured, "STEP", 7)
    found = deviation(torch.from_numpy(x), torch.from_numpy(y), "x")
    np.testing.assert_allclose(
        found.relative, [np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in zip(x, y, strict=True)]
    )
    np.testing.assert_allclose(found.cosine, 1 - paired_cosine_distances(x, y))
    residual, spread = ((y - x) ** 2).sum(), ((x - x.mean(axis=0)) ** 2).sum()
    assert found.squared.sum() / found.spread.sum() == pytest.approx(residual / spread)


def test_a_large_common_part_hides_an_error_from_the_cosine_and_not_from_the_variance() -> None:
    """Two directions in which prompts differ, exchanged; beside one in which they do not."""
    x = np.concatenate([RNG.normal(size=(50, 2)), np.full((50, 1), 1000.0)], axis=1)
    found = deviation(torch.from_numpy(x), torch.from_numpy(x[:, [1, 0, 2]]), "x")
    assert found.cosine.min() > 0.9999 and found.relative.max() < 0.01
    assert found.squared.sum() / found.spread.sum() > 1
    plain = deviation(torch.from_numpy(x), torch.from_numpy(x[:, [1, 0, 2]]), "x", standardise=True)
    mean, scale = x[:, :2].mean(axis=0), x[:, :2].std(axis=0)
    one, other = (x[:, :2] - mean) / scale, (x[:, [1, 0]] - mean) / scale
    np.testing.assert_allclose(plain.cosine, 1 - paired_cosine_distances(one, other))
    np.testing.assert_allclose(plain.relative, np.linalg.norm(other - one, axis=1) / np.linalg.norm(one, axis=1))
    assert np.array_equal(plain.squared, found.squared) and plain.cosine.mean() < 0.5


def test_zero_rows_have_neither_an_error_nor_an_angle() -> None:
    x, y = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [3.0, 9.0]])
    found = deviation(x, y, "x")
    assert np.isnan(found.relative[0]) and np.isnan(found.cosine[0])
    assert found.relative[1] == 1.0


def test_states_that_cannot_be_compared_are_errors() -> None:
    with pytest.raises(ProbeError, match=r"lm.01: rows \(3, 2\) cannot be compared with \(4, 2\)"):
        deviation(torch.zeros(4, 2), torch.zeros(3, 2), "lm.01")
    with pytest.raises(ProbeError, match=r"lm.01 holds 1 values that are not finite"):
        deviation(torch.ones(2, 2), torch.tensor([[1.0, float("inf")], [1.0, 1.0]]), "lm.01")


def test_holm_goes_over_the_sites_of_a_position_and_kind() -> None:
    blank = Agreement(**dict.fromkeys(TEXTS, ""), site="lm.01", tower="lm", layer=1, part="block", depth=1.0,
                      position="last", measure="difference", n=1, n_groups=1, value=0.0)  # fmt: skip
    rows = [replace(blank, p_value=p) for p in (0.01, 0.04, 0.03)]
    rows += [replace(blank, p_value=0.5, position="mean_text"), replace(blank, p_value=0.2, measure="transfer")]
    found = [row.p_holm for row in corrected([*rows, replace(blank, measure="cosine")])]
    assert found[:5] == pytest.approx([0.03, 0.06, 0.06, 0.5, 0.2]) and found[5] is None
    changes = [replace(row, low=0.0, high=0.1, value=i / 100) for i, row in enumerate(corrected(rows[:3]))]
    said = next(iter(lost(pd.DataFrame(map(vars, [*changes, replace(blank, measure="accuracy")])))))
    assert said.endswith("p = 0.06; 1 of 3 sites differ (Holm)"), "the largest change with its own p, corrected"


def done(here: Path, command: str) -> Path:
    return sorted((here / "outputs" / command).glob("*/*"))[-1]


def test_the_command_against_runs_of_both_models(probe: Run, tmp_path: Path, checkpoint: Path) -> None:
    """States by hand, curves at home as each model's own run has them, curves elsewhere by hand."""
    same = (*QUICK, *tiny(checkpoint), *LAYERS)
    code, out, err = probe("fidelity", *same)
    assert code == 0, err
    folder = done(tmp_path, "fidelity")
    table = load_agreements(folder / "fidelity.csv")
    assert {"fidelity.png", "fidelity.pdf", "fidelity.csv", "config.yaml"} <= {path.name for path in folder.iterdir()}
    assert "nf4 (float32) against none (float32)" in out and "best layer on validation: " in out
    _states_by_hand(table, tmp_path / "outputs")
    _curves_by_hand(table, probe, same, tmp_path)
    again, out, err = probe("fidelity", *same)
    assert again == 0 and "loading" not in err
    assert (done(tmp_path, "fidelity") / "fidelity.csv").read_bytes() == (folder / "fidelity.csv").read_bytes()
    code, redrawn, _ = probe("report", f"run={folder}")
    assert code == 0 and redrawn == out


def _states_by_hand(table: pd.DataFrame, outputs: Path) -> None:
    first, key = table.iloc[0], "lm.02@last"
    exact, other = (stored(outputs / "cache" / cache, key) for cache in (first.reference_cache, first.cache))
    assert exact.keys() == other.keys() and len(exact) == 118
    x, y = (np.stack([rows[uid] for uid in exact]).astype(np.float64) for rows in (exact, other))
    here = table[(table.site == "lm.02") & (table.position == "last")].set_index("measure")
    relative = np.linalg.norm(y - x, axis=1) / np.linalg.norm(x, axis=1)
    assert here.value["relative_error"] == pytest.approx(relative.mean()) and relative.mean() > 0.01
    assert here.low["relative_error"] < relative.mean() < here.high["relative_error"]
    assert here.value["cosine"] == pytest.approx(1 - paired_cosine_distances(x, y).mean())
    assert here.value["fvu"] == pytest.approx(((y - x) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum())
    assert 0.5 < here.value["cka"] < 1
    eyes = table[(table.tower == "vision") & table.measure.isin(("relative_error", "difference"))]
    assert len(eyes) and (eyes.value == 0).all(), "only the language model is quantised"


def _curves_by_hand(table: pd.DataFrame, probe: Run, same: tuple[str, ...], here: Path) -> None:
    """Each model's own run gives its curve and its probes; these are read on the other's rows with plain numpy."""
    key, runs = ("lm.03", "last"), {}
    for side, quantization in (("reference", "none"), ("model", "nf4")):
        assert probe("run", *same, f"model.quantization={quantization}")[0] == 0
        runs[side] = done(here, "run")
    at = table[(table.site == key[0]) & (table.position == key[1])]
    for side, folder in runs.items():
        scores = load_scores(folder / "scores.csv")
        own = scores[(scores.site == key[0]) & (scores.position == key[1]) & (scores.metric == "accuracy")]
        own = own[(own.seed == "all") & (own.control == "") & (own.subset == "")].iloc[0]
        row = at[
            (at.measure == "accuracy") & (at.fitted_on == side) & (at.read_on == side) & (at.split == "test")
        ].iloc[0]
        assert (row.value, row.low, row.high, row.n) == (own.value, own.low, own.high, own.n)
    right = {pair: _right(runs, table.iloc[0], here, "@".join(key), *pair) for pair in PAIRS}
    found = at[at.split == "test"].set_index(["measure", "fitted_on", "read_on"]).value
    for pair, each in right.items():
        assert found["accuracy", *pair] == pytest.approx(each.mean())
    home = right["reference", "reference"]
    assert found["difference", "model", "model"] == pytest.approx((right["model", "model"] - home).mean())
    assert found["transfer", "reference", "model"] == pytest.approx((right["reference", "model"] - home).mean())


PAIRS = [(a, b) for a in ("reference", "model") for b in ("reference", "model")]


def _right(runs: dict[str, Path], first: pd.Series, here: Path, key: str, fitted_on: str, read_on: str) -> np.ndarray:
    """Which test decisions [seeds, n] the probes of one side are right about on the rows of the other."""
    cache = first.reference_cache if read_on == "reference" else first.cache
    rows = stored(here / "outputs" / "cache" / cache, key)
    y, samples, test = _decisions(here)
    x = np.stack([rows[uid] for uid in samples]).astype(np.float64)[test]
    saved, found = load_file(runs[fitted_on] / "probes.safetensors"), []
    for seed in (0, 1):
        fit = {name: saved[f"{key}/logistic/seed{seed}/{name}"] for name in ("mean", "scale", "weights", "intercept")}
        found.append((((x - fit["mean"]) / fit["scale"]) @ fit["weights"] + fit["intercept"] > 0) == (y[test] > 0))
    return np.stack(found).astype(float)


def _decisions(here: Path) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Labels, sample uids and who is tested, made again from the settings."""
    folds = Folds(blocks=4)
    scenes = Scenes(pictures=30).load(here / "outputs", Selection(n=30), Digests(here / "again.json"))
    examples = Entailment().examples(scenes, folds)
    split = folds.splits(examples.folds, 0)
    found = examples.decisions
    test = np.asarray([split[decision.group] == "test" for decision in found])
    return np.asarray([decision.label for decision in found]), [decision.sample for decision in found], test


def test_another_precision_can_be_the_reference(probe: Run, tmp_path: Path, checkpoint: Path) -> None:
    args = (*QUICK, *LAYERS, "model=custom", f"model.path={checkpoint}", "model.quantization=none")
    code, out, err = probe(
        "fidelity", *args, "model.dtype=bfloat16", "fidelity.dtype=float32", "task=objects", "sweep.metric=nll"
    )
    assert code == 0, err
    assert "none (bfloat16) against none (float32)" in out
    table = load_agreements(done(tmp_path, "fidelity") / "fidelity.csv")
    error = table[(table.measure == "relative_error") & (table.layer > 0)].value
    assert error.min() > 0 and error.max() < 0.05, "bfloat16 has 8 bits"
    _losses_are_not_shares(table[table.split == "test"].set_index(["site", "position"]))


def _losses_are_not_shares(table: pd.DataFrame) -> None:
    """A change of log loss has the sign of the loss, and an interval as short as pictures agree about it."""
    change = table[table.measure == "difference"]
    home = table[(table.measure == "nll") & (table.fitted_on == table.read_on)]
    model, reference = (home[home.read_on == side].value for side in ("model", "reference"))
    assert change.value.to_numpy() == pytest.approx((model - reference).to_numpy())
    assert (change.high - change.low < 0.1).all()


def test_answers_that_never_differ_may_differ_of_other_pictures(probe: Run, tmp_path: Path, checkpoint: Path) -> None:
    """Draws of 30 pictures are then all 1; the exact interval goes down to 0.025^(1 / 30)."""
    args = (
        *QUICK,
        *LAYERS,
        "layers.towers=[lm]",
        "model=custom",
        f"model.path={checkpoint}",
        "extract.answers=[Yes,No]",
    )
    code, _, err = probe("fidelity", *args, "model.quantization=none", "model.dtype=bfloat16", "fidelity.dtype=float32")
    assert code == 0, err
    table = load_agreements(done(tmp_path, "fidelity") / "fidelity.csv")
    answers = table[table.measure == "answer_agreement"]
    assert answers.site.tolist() == ["lm.01", "lm.02", "lm.03"] and (answers.value == 1).all()
    assert (answers.n_groups == 30).all() and (answers.high == 1).all()
    assert answers.low.to_numpy() == pytest.approx(0.025 ** (1 / 30))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("model.quantization=none",),
            "fidelity would compare float32 with itself; set model.quantization=nf4 or int8",
        ),
        (("model.quantize=[]", "fidelity.dtype=float32"), "fidelity would compare float32 with itself"),
        (("fidelity.dtype=float8",), "fidelity.dtype=float8 is unknown; did you mean"),
        (
            ("extract.positions=[tokens:text]",),
            "position tokens:text holds a row for every token, and fidelity compares",
        ),
        (("experiment=tao2024",), "fidelity reads one task; name it, as task=entailment does, or give local=null"),
        (("+fidelity.x=1",), "x"),
    ],
)
def test_bad_settings_are_one_sentence(probe: Run, tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    code, _, err = probe("fidelity", *args)
    assert code == 1 and message in err and "\n" not in err.strip()
    assert not list(tmp_path.glob("outputs/cache/*/groups"))


def changes(metric: str, values: Sequence[float], ends: Sequence[float], error: float = 0.1) -> pd.DataFrame:
    """Rows of `last` on 12 test pictures: the states', the probe's and its change at a site for each value."""
    blank = Agreement(**dict.fromkeys(TEXTS, ""), site="", tower="lm", layer=1, part="block", depth=1.0,
                      position="last", measure=metric, n=12, n_groups=12, low=ends[0], high=ends[1])  # fmt: skip
    rows = []
    for i, value in enumerate(values):
        here = replace(blank, site=f"lm.0{i}", layer=i)
        rows.append(replace(here, measure="relative_error", value=error))
        rows.append(replace(here, value=0.868, fitted_on="reference", read_on="reference"))
        more = {"fitted_on": "model", "read_on": "model", "p_value": 0.5, "p_holm": 1.0}
        rows.append(replace(here, measure="difference", value=value, **more))
    return pd.DataFrame(map(vars, rows))


@pytest.mark.parametrize(
    ("metric", "cell", "said", "head"),
    [
        ("r2", "0.002 [-0.004, 0.007]", "+0.002 [-0.004, 0.007], p", "probe: R2"),
        ("nll", "0.002 [-0.004, 0.007]", "+0.002 nats [-0.004, 0.007], p", "log loss in nats, change in nats"),
        ("accuracy", "0.2 [-0.4, 0.7]", "+0.2 points [-0.4, 0.7], p", "accuracy in %, change in points"),
    ],
)
def test_changes_are_in_the_unit_of_the_measure(metric: str, cell: str, said: str, head: str) -> None:
    table, console = changes(metric, [0.0, 0.002], (-0.004, 0.007)), Console(file=StringIO(), width=160)
    print_agreements(table, console)
    printed = " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]
    assert all(one in printed for one in (cell, said, head, "86.8" if metric == "accuracy" else "0.868"))
    assert "12 test pictures: intervals" in printed and "nan" not in printed


def test_what_was_not_seen_to_change_may_have_changed() -> None:
    """Intervals tell how far; only where no state differs, nothing can have changed."""
    said = next(lost(changes("accuracy", [0.0, 0.0], (-0.168, 0.168))))
    assert said == "last: the probe's score does not change significantly: +0.0 points [-16.8, 16.8] at every site"
    said = next(lost(changes("r2", [0.0, 0.0], (np.nan, np.nan))))
    assert said == "last: the probe's score does not change significantly: +0.000 at every site"
    said = next(lost(changes("r2", [0.0, 0.0], (np.nan, np.nan), error=0.0)))
    assert said == "last: the probe's score does not change: all compared states are equal"
