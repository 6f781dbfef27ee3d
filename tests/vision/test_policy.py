"""The AC policy against a walk through it step by step, against published recalls, and as a user meets it."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mllm_probe.vision.encoder_table import BUNDLED, Benchmark
from mllm_probe.vision.policy import cells, chances, draw, lattices, predict, ranked_by, shortlisted, simulate
from tests.support.encoder_tables import A_COS, A_LOGLIK, NAMES, ROWS, results, written
from tests.support.runs import Run

TRIALS = 2000
SIX = [name for name in NAMES if name not in ("mme", "mmmu")]  # those the paper reports
# ever in the shortlist by 3 and by 4 runs, in %, of 20,000 trials
A_COS_HITS = {
    "mmbench": (67.5, 91.1),
    "mme": (89.7, 97.2),
    "mmmu": (5.2, 45.0),
    "okvqa": (88.6, 96.8),
    "textvqa": (68.6, 76.6),
    "vizwiz": (80.8, 85.9),
    "scienceqa": (97.2, 99.1),
    "seed": (86.0, 88.9),
}
A_LOGLIK_HITS = {
    "mmbench": (71.3, 90.5),
    "mme": (3.1, 6.4),
    "mmmu": (3.5, 7.0),
    "okvqa": (77.1, 94.2),
    "textvqa": (67.1, 92.0),
    "vizwiz": (59.0, 84.2),
    "scienceqa": (43.0, 59.3),
    "seed": (70.3, 88.2),
}


def names(of: np.ndarray) -> set[str]:
    table = pd.read_csv(BUNDLED).dropna().representation.to_numpy()
    return set(table[of])


def test_the_first_cells_of_the_published_table() -> None:
    cell = cells(A_COS["mmbench"].unit, 1)
    assert names((cell == [1, 1]).all(axis=1)) == {"CLIP@336", "CLIP@224"}
    assert names((cell == [0, 0]).all(axis=1)) == {"DiT", "SD3", "SD2.1", "SigLIP-B"}
    assert ((cell == [0, 1]).all(axis=1)).sum() == 7
    cell = cells(A_LOGLIK["mmbench"].unit, 1)
    assert [int((cell == at).all(axis=1).sum()) for at in ([0, 0], [1, 0], [0, 1], [1, 1])] == [2, 3, 0, 10]


def test_one_belongs_to_the_last_cell_and_cells_are_nested() -> None:
    assert cells(np.array([[0.0, 1.0], [0.5, 0.49]]), 1).tolist() == [[0, 1], [1, 0]]
    assert cells(np.array([[0.75, 0.7499]]), 2).tolist() == [[3, 2]]
    lattice = lattices(np.random.default_rng(0).uniform(size=(40, 2)))
    assert all((fine <= coarse).all() for coarse, fine in pairwise(lattice))
    assert (lattice[-1] == np.eye(40)).all() and len(lattices(np.array([[0, 0], [1, 1]]))) == 1


def test_cells_are_alike_and_so_are_the_candidates_of_one() -> None:
    unit = np.array([[0.1, 0.1], [0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.7], [0.4, 0.6]])
    nobody = np.zeros((1, 6), dtype=bool)
    chance, level = chances(lattices(unit), nobody)
    np.testing.assert_allclose(chance[0], [1 / 3, 1 / 6, 1 / 6, 1 / 9, 1 / 9, 1 / 9])
    assert level.tolist() == [1]
    chance, _ = chances(lattices(unit), np.array([[True, False, True, False, False, False]]))
    np.testing.assert_allclose(chance[0], [0, 0, 0, 1 / 3, 1 / 3, 1 / 3])
    chance, level = chances(lattices(unit), np.array([[True, False, True, False, True, False]]))
    assert level.tolist() == [2], "every occupied quarter was drawn from: the lattice is refined"
    np.testing.assert_allclose(chance[0], [0, 0, 0, 1 / 2, 0, 1 / 2])  # the second shares a sixteenth with the third
    assert chances(lattices(unit), ~nobody)[1].tolist() == [0]


def walk(unit: np.ndarray, order: list[int]) -> list[int]:
    """The policy as the paper tells it, along one order of picks: the level of each; fails where a pick is not free."""
    level, levels, taken = 1, [], []
    for pick in order:
        while True:
            at = [tuple(min(int(value * 2**level), 2**level - 1) for value in point) for point in unit]
            free = set(at) - {at[i] for i in taken}
            if free:
                break
            level += 1
        assert at[pick] in free
        taken.append(pick)
        levels.append(level)
    return levels


def test_every_draw_is_a_walk_through_the_policy() -> None:
    rng = np.random.default_rng(1)
    unit = np.concatenate([rng.uniform(size=(12, 2)), [[1, 1], [0, 0], [1, 0]]])
    order, levels = draw(unit, np.zeros((200, 15), dtype=bool), 15, rng)
    for picks, found in zip(order.tolist(), levels.tolist(), strict=True):
        assert sorted(picks) == list(range(15)) and walk(unit, picks) == found
    first = np.bincount(order[:, 0], minlength=15) / 200
    expected, _ = chances(lattices(unit), np.zeros((1, 15), dtype=bool))
    np.testing.assert_allclose(first, expected[0], atol=0.1)


def test_the_very_same_points_are_drawn_last_and_those_trained_never() -> None:
    unit = np.array([[0, 0], [0, 0], [1, 1], [0.6, 0.8]])
    order, levels = draw(unit, np.zeros((50, 4), dtype=bool), 4, np.random.default_rng(0))
    assert (np.sort(order, axis=1) == np.arange(4)).all()
    assert set(order[:, -1]) == {0, 1} and (levels[:, :2] == 1).all() and (levels[:, 3] > levels[:, 2]).all()
    trained = np.array([[False, False, True, False]])
    order, levels = draw(unit, trained, 2, np.random.default_rng(0))
    assert order[0, 0] in (0, 1) and levels[0, 0] == 1 and order[0, 1] == 3, "the quarter of [0, 0] is free, no other"


def test_a_shortlist_counts_ties_against_those_not_trained() -> None:
    predicted = np.array([[3.0, 1, 2, 5], [1, 1, 1, 1], [1, 1, 1, 1]])
    trained = np.array([[False] * 4, [False, False, True, False], [True, False, True, False]])
    assert shortlisted(predicted, trained, 2).tolist() == [
        [True, False, False, True],
        [False, False, True, False],
        [True, False, True, False],
    ]


def curve(benchmark: Benchmark) -> tuple[np.ndarray, np.ndarray]:
    """Recall at 3 in percent: at any time up to k runs, and after k runs."""
    rng = np.random.default_rng([0, *benchmark.name.encode()])
    hits = simulate(benchmark.unit, benchmark.y, TRIALS, 3, rng)
    assert (hits[:, -1] == hits[0, -1]).all(), "with all trained there is one fit"
    return 100 * np.logical_or.accumulate(hits, axis=1).mean(axis=0), 100 * hits.mean(axis=0)


@pytest.mark.parametrize(
    ("of", "hits", "first", "exactly", "whole"),
    [
        (A_COS, A_COS_HITS, (8.9, 59.7, 81.4, 89.7, 92.5, 93.3), (8.9, 59.3, 67.0, 68.5, 59.4, 57.5), 6),
        (A_LOGLIK, A_LOGLIK_HITS, (4.7, 39.2, 64.6, 84.7, 93.6, 94.5), (4.7, 37.1, 46.7, 73.1, 84.3, 73.5), 5),
    ],
    ids=["a_cos", "a_loglik"],
)
def test_recall(of: dict[str, Benchmark], hits: object, first: object, exactly: object, whole: int) -> None:
    """Tolerances: three standard errors of 2,000 trials, 1.5 points for means of six."""
    curves = {name: curve(each) for name, each in of.items()}
    for name, expected in hits.items():  # type: ignore[attr-defined]
        np.testing.assert_allclose(curves[name][0][2:4], expected, atol=3.4, err_msg=name)
    ever, at = (np.mean([curves[name][i] for name in SIX], axis=0) for i in (0, 1))
    np.testing.assert_allclose(ever[:6], first, atol=1.5)
    np.testing.assert_allclose(at[:6], exactly, atol=1.5)
    assert sum(each[1][-1] == 100 for each in curves.values()) == whole


def test_scores_that_need_no_run() -> None:
    for of, alone, both in ((A_COS, 4, 6), (A_LOGLIK, 6, 0)):
        assert sum(ranked_by(each.unit[:, 0], each.y, 3) for each in of.values()) == alone
        assert sum(ranked_by(each.unit.sum(axis=1), each.y, 3) for each in of.values()) == both


def test_predictions_are_the_law_on_those_trained() -> None:
    okvqa = A_COS["okvqa"]
    order = np.array([[0, 7, 6], [3, 1, 12]])
    batch = predict(okvqa.unit, okvqa.y, order)
    np.testing.assert_allclose(batch[1], predict(okvqa.unit, okvqa.y, order[1:])[0])
    np.testing.assert_allclose(batch[0, [0, 7, 6]], okvqa.y[[0, 7, 6]])


def plan_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "policy.csv").set_index("representation")


def test_a_dry_run_on_the_published_table(probe: Run, tmp_path: Path) -> None:
    args = ("fit.benchmarks=[okvqa,mme]", "policy.trials=100", "policy.seed=3")
    code, out, err = probe("vision", "policy", *args)
    assert code == 0, err
    assert "policy.budget=4: 6 runs or fewer do not determine the law's 6 coefficients" in err
    words = " ".join(out.split())
    assert "okvqa, mme: a dry run trains" in words and "okvqa: shortlist" in words
    assert "without runs: A alone 50.0 %, A + C 0.0 %" in words
    (folder,) = results(tmp_path, "vision_policy")
    wanted = {"policy.csv", "recall.csv", "policy.png", "policy.pdf", "recall.png", "recall.pdf", "config.yaml"}
    assert wanted <= {path.name for path in folder.iterdir()}
    plan, recall = plan_of(folder), pd.read_csv(folder / "recall.csv")
    okvqa = plan[plan.benchmark == "okvqa"]
    assert okvqa.seen.sum() == 4 and okvqa.turn.dropna().sort_values().tolist() == [1, 2, 3, 4]
    assert okvqa.shortlisted.sum() == 3 and okvqa.level.max() == 2, "three quarters are occupied"
    np.testing.assert_allclose(okvqa.predicted[okvqa.seen], okvqa.value[okvqa.seen], rtol=1e-6)
    random = recall[(recall.benchmark == "mme") & (recall.reading == "random")].recall
    np.testing.assert_allclose(random, np.minimum(1, (np.arange(15) + 4) / 15))
    for _, rows in recall.groupby("benchmark"):
        ever, at = (rows[rows.reading == name].recall.to_numpy() for name in ("first_hit", "fixed_budget"))
        assert (
            len(at) == 15 and (ever == np.maximum.accumulate(ever)).all() and (ever >= at).all() and (ever > at).any()
        )
    code, again, _ = probe("report", f"run={folder}")
    assert code == 0 and again == out
    assert probe("vision", "policy", *args)[0] == 0
    one, two = results(tmp_path, "vision_policy")
    for name in wanted - {"config.yaml"}:
        assert (one / name).read_bytes() == (two / name).read_bytes(), f"{name} differs between equal runs"


def test_those_trained_may_be_named(probe: Run, tmp_path: Path) -> None:
    args = ("fit.a=a_cos", "fit.on_bad_row=skip", "fit.benchmarks=[okvqa]", "policy.trials=20", "policy.budget=5")
    code, out, err = probe("vision", "policy", *args, "policy.trained=[CLIP@336,DiT,DINOv2]")
    assert code == 0, err
    (folder,) = results(tmp_path, "vision_policy")
    plan = plan_of(folder)
    low, high = plan.value.min(), plan.value.max()
    scaled = ((plan.predicted - low) / (high - low)).round(4)
    assert scaled["C+D@336"] == 1.0365 and scaled["C+D@224"] == 0.9258 and scaled["SD2.1"] == 0.1109
    assert set(plan.index[plan.shortlisted]) == {"C+D@336", "C+D@224", "DINOv2"}
    drawn = plan[plan.turn.notna()]
    assert len(drawn) == 2 and not drawn.seen.any() and plan.seen.sum() == 3 and (drawn.level > 1).all()
    assert "okvqa: 3 of 13 trained, next" in " ".join(out.split()) and "the best, C+D@336, is in it" in " ".join(
        out.split()
    )


def test_a_table_with_empty_cells_is_a_plan_in_progress(probe: Run, tmp_path: Path) -> None:
    open_rows = [f"s{i},{-1 - 0.2 * i},{(3 * i) % 10},,\n" for i in range(6)]
    file = written(tmp_path, *ROWS, *open_rows)
    code, out, err = probe("vision", "policy", f"fit.table={file}", "policy.budget=10")
    assert code == 0, err
    assert "one: 6 of 14 are not trained yet, so nothing is simulated" in err and "do not determine" not in err
    assert "one: 8 of 14 trained, next s" in " ".join(out.split()) and "%" not in out
    (folder,) = results(tmp_path, "vision_policy")
    plan = plan_of(folder)
    assert set(plan.index[plan.seen]) == {f"r{i}" for i in range(8)} and plan.turn.count() == 2
    assert plan.index[plan.turn.notna()].str.startswith("s").all() and plan.predicted.notna().all()
    assert not (folder / "recall.png").exists()
    code, out, _ = probe("vision", "policy", f"fit.table={file}", "policy.budget=8")
    assert code == 0 and "8 of 14 trained, policy.budget is used up" in " ".join(out.split())
    untrained = written(tmp_path, *(row.rsplit(",", 2)[0] + ",,\n" for row in ROWS))
    code, out, err = probe("vision", "policy", f"fit.table={untrained}")
    assert code == 0 and "one: 0 of 8 trained, next" in " ".join(out.split()) and "shortlist" not in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("policy.budget=16",), "policy.budget=16 is more than the 15 representations of the table"),
        (("policy.budget=0",), "policy.budget=0 must be 1 or more"),
        (("policy.shortlist=16",), "policy.shortlist=16 is more than the 15"),
        (("policy.trials=0",), "policy.trials=0 must be 1 to 1,000,000"),
        (("policy.trained=[CLIP]",), "policy.trained names 'CLIP', which is no row; did you mean"),
        (("fit.c=c_pck",), "has no column 'c_pck' (fit.c); did you mean 'c_pck010'"),
        (("policy.bugdet=3",), "'policy.bugdet' is no setting of `vision policy`; did you mean 'budget'"),
    ],
)
def test_wrong_settings_are_one_sentence(probe: Run, tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    code, _, err = probe("vision", "policy", *args)
    (line,) = [line for line in err.splitlines() if line.startswith("mllm-probe: ")]
    assert code == 1 and message in line and "Traceback" not in err
    assert not list(tmp_path.rglob("policy.csv"))


def test_values_that_name_no_best_are_refused(probe: Run, tmp_path: Path) -> None:
    flat = written(tmp_path, *(row.rsplit(",", 2)[0] + ",5,1\n" for row in ROWS))
    code, _, err = probe("vision", "policy", f"fit.table={flat}")
    assert code == 1 and "column 'perf_one' is constant (5 in every row), so no row is the best" in err
    open_one = written(tmp_path, *ROWS, "late,-1,3,,\n")
    code, _, err = probe("vision", "policy", f"fit.table={open_one}", "policy.trained=[r1,late]")
    assert code == 1 and "policy.trained names 'late', but its 'perf_one' is empty" in err
