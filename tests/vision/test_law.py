"""The Law of Vision Representation against scikit-learn, against what is published and against what was recomputed from
the authors' table; and `vision fit` as a user meets it."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures

from mllm_probe.config.vision import FitSettings
from mllm_probe.errors import ConfigError, DataError
from mllm_probe.vision.encoder_table import BUNDLED, Benchmark, read_table
from mllm_probe.vision.law import (
    A_ALONE,
    C_ALONE,
    LAW,
    LINEAR,
    MODELS,
    assess,
    explained,
    fit,
    left_out,
    min_max,
    random_quality,
    rank_correlation,
    terms,
)
from tests.support.encoder_tables import A_COS, A_LOGLIK, NAMES, ROWS, results, written
from tests.support.runs import Run

VISION, OCR = ("mmbench", "mme", "okvqa", "seed"), ("mmmu", "textvqa", "vizwiz", "scienceqa")
# in sample, on the 13 representations that have a_cos, in the order of MODELS
A_COS_R2 = {
    "mmbench": (0.963397, 0.749361, 0.540763, 0.830051, 0.494446, 0.460210),
    "mme": (0.973597, 0.725422, 0.647938, 0.852660, 0.513923, 0.478989),
    "mmmu": (0.835214, 0.706974, 0.359145, 0.545258, 0.404589, 0.219747),
    "okvqa": (0.954173, 0.841064, 0.518843, 0.801945, 0.490327, 0.450075),
    "textvqa": (0.902803, 0.868371, 0.211732, 0.734989, 0.678518, 0.131843),
    "vizwiz": (0.803760, 0.786990, 0.164849, 0.575300, 0.484614, 0.156011),
    "scienceqa": (0.866743, 0.735704, 0.427416, 0.791493, 0.634869, 0.270440),
    "seed": (0.937513, 0.746380, 0.568659, 0.844846, 0.533195, 0.455597),
}
CROSS = {  # the coefficient of AC that v3 of the paper prints
    "mmbench": 1.1301,
    "mme": 1.5819,
    "mmmu": -0.4872,
    "okvqa": -0.0364,
    "textvqa": 4.9804,
    "vizwiz": 2.9964,
    "scienceqa": 4.4644,
    "seed": 0.5772,
}
# {size: training subsets of the 13 whose law puts the best first among those not trained}, in the order of NAMES
FOUND = {
    2: (3, 15, 0, 25, 23, 12, 18, 22),
    3: (9, 34, 0, 72, 45, 24, 34, 66),
    4: (76, 113, 32, 141, 53, 54, 124, 144),
    5: (180, 241, 125, 193, 49, 122, 284, 209),
    6: (247, 235, 176, 199, 71, 116, 284, 244),
    7: (307, 331, 222, 235, 39, 134, 403, 219),
    8: (247, 279, 209, 174, 33, 110, 327, 155),
    9: (134, 153, 128, 94, 32, 63, 166, 83),
    10: (50, 54, 50, 36, 20, 25, 55, 33),
    11: (11, 11, 11, 9, 7, 7, 11, 8),
    12: (1, 1, 1, 1, 1, 1, 1, 1),
}


def scaled(benchmark: Benchmark, model: str = LAW) -> tuple[np.ndarray, np.ndarray]:
    return terms(benchmark.unit, MODELS[model]), min_max(benchmark.y, benchmark.column)


def means(of: dict[str, Benchmark], model: str, measure: str) -> tuple[float, float]:
    """In percent, over the vision benchmarks and over those of text in pictures."""
    found = {name: 100 * float(getattr(assess(*scaled(each, model)), measure)) for name, each in of.items()}
    return float(np.mean([found[name] for name in VISION])), float(np.mean([found[name] for name in OCR]))


def test_the_published_table() -> None:
    assert tuple(A_COS) == tuple(A_LOGLIK) == NAMES
    assert {len(each.y) for each in A_COS.values()} == {13} and {len(each.y) for each in A_LOGLIK.values()} == {15}
    raw = pd.read_csv(BUNDLED)
    assert raw.perf_okvqa.tolist() == A_LOGLIK["okvqa"].y.tolist()
    np.testing.assert_allclose(A_LOGLIK["mme"].unit[[0, 9, 6], 1], [0.56888705, 0, 1], atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_r2_of_every_model_with_cosine_alignment(name: str) -> None:
    for model, expected in zip(MODELS, A_COS_R2[name], strict=True):
        assert assess(*scaled(A_COS[name], model)).r2 == pytest.approx(expected, abs=1e-6), model


def test_group_means_of_both_alignment_scores() -> None:
    assert means(A_COS, LAW, "r2") == pytest.approx((95.72, 85.21), abs=0.005)
    assert means(A_COS, LAW, "adjusted") == pytest.approx((92.7, 74.7), abs=0.05)
    published = {LAW: (94.06, 83.85), A_ALONE: (91.48, 79.67), C_ALONE: (56.56, 30.11), LINEAR: (80.55, 62.06)}
    for model, expected in published.items():
        assert means(A_LOGLIK, model, "r2") == pytest.approx(expected, abs=0.2), model


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (A_COS, {LAW: (84.9, 53.6), A_ALONE: (65.4, 63.3), C_ALONE: (33.6, -13.3), LINEAR: (74.3, 44.4)}),
        (A_LOGLIK, {LAW: (70.3, 45.7), A_ALONE: (86.5, 59.7), C_ALONE: (35.8, -5.2), LINEAR: (65.6, 39.2)}),
    ],
    ids=["a_cos", "a_loglik"],
)
def test_group_means_left_out(of: dict[str, Benchmark], expected: dict[str, tuple[float, float]]) -> None:
    for model, both in expected.items():
        assert means(of, model, "left_out") == pytest.approx(both, abs=0.06), model


def test_coefficients() -> None:
    for name, cross in CROSS.items():
        assert fit(*scaled(A_LOGLIK[name])).weights[3] == pytest.approx(cross, abs=0.15), name
    okvqa = fit(*scaled(A_COS["okvqa"]))
    np.testing.assert_allclose(okvqa.weights, [2.3667, 0.9332, -1.8042, 0.1559, -0.5029], atol=1e-4)
    assert okvqa.intercept == pytest.approx(-0.1215, abs=1e-4) and okvqa.rank == 5


def test_three_points_take_the_weights_of_least_norm() -> None:
    x, y = scaled(A_COS["okvqa"])
    trained = [0, 7, 6]  # CLIP@336, DiT, DINOv2
    surface = fit(x[trained], y[trained])
    np.testing.assert_allclose(surface.weights, [0.221940, 0.474518, 0.151968, 0.175886, 0.414817], atol=1e-6)
    assert surface.intercept == pytest.approx(-0.007145, abs=1e-6) and surface.rank == 2
    #         CLIP336 CLIP224 OpenCLIP SigLIP C+D224 C+D336 DINOv2 DiT SDXL   SD3     SD2.1   SD1.5   SDim
    wanted = [0.8397, 0.8092, 0.5761, 0.4382, 0.9258, 1.0365, 0.9078, 0, 0.4325, 0.0369, 0.1109, 0.6935, 0.6431]
    np.testing.assert_allclose(surface.at(x), wanted, atol=1e-4)


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("n", [4, 6, 9, 30])
def test_scikit_learn_fits_the_same(n: int, degree: int) -> None:
    rng = np.random.default_rng(n)
    unit, y = rng.uniform(size=(n, 2)), rng.normal(size=n)
    x = terms(unit, MODELS[LAW if degree == 2 else LINEAR])
    oracle = make_pipeline(PolynomialFeatures(degree), LinearRegression()).fit(unit, y)
    np.testing.assert_allclose(fit(x, y).at(x), oracle.predict(unit), atol=1e-9)
    elsewhere = rng.uniform(size=(20, 2))
    there = terms(elsewhere, MODELS[LAW if degree == 2 else LINEAR])
    np.testing.assert_allclose(fit(x, y).at(there), oracle.predict(elsewhere), atol=1e-8)
    alone = cross_val_predict(oracle, unit, y, cv=LeaveOneOut())
    np.testing.assert_allclose(left_out(x, y), alone, atol=1e-7)
    quality = assess(x, y)
    assert quality.r2 == pytest.approx(r2_score(y, oracle.predict(unit)), abs=1e-10)
    assert quality.left_out == pytest.approx(r2_score(y, alone), abs=1e-6)


def test_scaling_changes_no_fit_of_full_rank() -> None:
    for benchmark in A_COS.values():
        raw = assess(terms(benchmark.scores, MODELS[LAW]), benchmark.y)
        unit = assess(*scaled(benchmark))
        assert raw.r2 == pytest.approx(float(unit.r2), abs=1e-9)
        assert raw.left_out == pytest.approx(float(unit.left_out), abs=1e-8)


def test_a_batch_is_its_fits_one_by_one_and_rounding_carries_no_weight() -> None:
    rng = np.random.default_rng(0)
    unit, y = rng.uniform(size=(7, 9, 2)), rng.normal(size=(7, 9))
    x = terms(unit, MODELS[LAW])
    np.testing.assert_allclose(
        fit(x, y).at(x), [fit(one, of).at(one) for one, of in zip(x, y, strict=True)], atol=1e-12
    )
    line = np.stack([np.linspace(0, 1, 8), np.linspace(0, 1, 8) + 1e-15], axis=-1)
    surface = fit(line, np.arange(8.0))
    assert surface.rank == 1 and np.abs(surface.weights).max() < 4
    point = fit(np.ones((3, 5)), np.array([1.0, 2.0, 6.0]))
    assert point.rank == 0 and not point.weights.any() and point.intercept == 3


def test_a_planted_surface_is_found() -> None:
    rng = np.random.default_rng(0)
    x = terms(rng.uniform(size=(20, 2)), MODELS[LAW])
    surface = fit(x, 3 + x @ [1.0, -2.0, 0.5, 4.0, -1.0])
    np.testing.assert_allclose(surface.weights, [1, -2, 0.5, 4, -1], atol=1e-9)
    assert surface.intercept == pytest.approx(3)


@pytest.mark.parametrize("n", [9, 13, 15])
def test_random_scores_explain_what_is_expected(n: int) -> None:
    chance = random_quality(np.random.default_rng(n).normal(size=n), 4000, 0)
    assert chance.noise == pytest.approx(5 / (n - 1))
    assert chance.r2 == pytest.approx(5 / (n - 1), abs=0.012)
    assert chance.adjusted == pytest.approx(0, abs=0.03) and chance.left_out < 0


def test_six_points_are_fitted_exactly() -> None:
    rng = np.random.default_rng(0)
    quality = assess(terms(rng.uniform(size=(6, 2)), MODELS[LAW]), rng.normal(size=6))
    assert quality.r2 == pytest.approx(1) and np.isnan(quality.adjusted) and quality.noise == 1


@pytest.mark.parametrize("size", FOUND)
def test_how_many_training_subsets_find_the_best(size: int) -> None:
    subsets = np.array(list(combinations(range(13), size)))
    counts = []
    for benchmark in A_COS.values():
        x, y = scaled(benchmark)
        predicted = fit(x[subsets], y[subsets]).at(x)
        np.put_along_axis(predicted, subsets, -np.inf, axis=1)
        counts.append(int((predicted.argmax(axis=1) == y.argmax()).sum()))
    # the published counts of five points and fewer hold singular values that are rounding
    np.testing.assert_allclose(counts, FOUND[size], atol=0 if size > 5 else 1)


def test_rank_correlation_and_r2_below_the_mean() -> None:
    assert rank_correlation(np.array([1.0, 2, 3, 9]), np.array([0.1, 0.2, 0.3, 0.4])) == pytest.approx(1)
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0)))
    assert explained(np.array([0.0, 1, 2]), np.array([2.0, 1, 0])) == pytest.approx(-3)


def read(file: Path, **settings: object) -> list[Benchmark]:
    return list(read_table(FitSettings(table=str(file), **settings)).benchmarks)  # type: ignore[arg-type]


def test_columns_are_chosen_by_name(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert [each.name for each in read(file)] == ["one"]
    assert [each.column for each in read(file, benchmarks=["two", "one"])] == ["two", "perf_one"]
    (other,) = read(file, a="perf_one", c="two")
    assert other.scores[2].tolist() == [44, 2] and other.unit[-1].tolist() == [1, 1]
    own = written(
        tmp_path, "x,1,5,1,3,0\n", "y,2,6,2,5,1\n", "z,4,9,3,6,\n", header="name,a_p,a_q,c_pck010,perf_p,perf_q\n"
    )
    p, q = read(own, a="a", representation="name")
    assert p.scores[:, 0].tolist() == [1, 2, 4] and q.scores[:, 0].tolist() == [5, 6, 9] and np.isnan(q.y[2])


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (
            (),
            {"c": "c_pkc"},
            r"mine.csv has no column 'c_pkc' \(fit.c\); did you mean 'c_pck010'\? choose one of: a_log",
        ),
        ((), {"a": "a_cos"}, r"no column 'a_cos' \(fit.a\); .*choose one of: "),
        ((), {"benchmarks": ["three"]}, r"no column 'perf_three' \(fit.benchmarks\)"),
        ((), {"benchmarks": []}, "must name at least one column"),
        ((), {"representation": "name"}, r"no column 'name' \(fit.representation\)"),
        ((), {"on_bad_row": "drop"}, "fit.on_bad_row=drop is unknown"),
        (("x,1,1,1,1\n", "y,2,2,2,2\n"), {}, "mine.csv holds 2 representations, but the law needs 3 or more"),
        (("x,1,1,many,1\n", *ROWS), {}, "mine.csv, row 2: 'perf_one' is 'many', but must be a finite number"),
        ((*ROWS, "x,inf,1,1,1\n"), {}, "mine.csv, row 10: 'a_loglik' is 'inf', but must be a finite number"),
        ((*ROWS, "x,1,,1,1\n"), {}, "row 10: 'c_pck010' of x is empty, but A and C are needed.*fit.on_bad_row=skip"),
        ((*ROWS, "r3,1,1,1,1\n"), {}, "row 10: 'r3' is there twice"),
        ((*ROWS, ",1,1,1,1\n"), {}, "row 10: 'representation' is empty"),
        ((*ROWS, "x,1,1\n"), {}, "row 10 has 3 cells where the header has 5"),
        (tuple(f"x{i},1,{i},{i},{i}\n" for i in range(4)), {}, r"column 'a_loglik' is constant \(1 in every row\)"),
    ],
)
def test_bad_tables_are_one_sentence(
    tmp_path: Path, rows: tuple[str, ...], settings: dict[str, object], message: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        read(written(tmp_path, *rows), **settings)


def test_bad_rows_may_be_left_out(tmp_path: Path) -> None:
    table = read_table(FitSettings(table=str(written(tmp_path, *ROWS, "x,1,,1,1\n", "y,1\n")), on_bad_row="skip"))
    assert table.names == tuple(f"r{i}" for i in range(8)) and len(table.skipped) == 2
    assert "'c_pck010' of x is empty" in table.skipped[0] and "mine.csv, row 11 has 2 cells" in table.skipped[1]


def test_vision_fit_writes_tables_figure_and_words(probe: Run, tmp_path: Path) -> None:
    code, out, err = probe("vision", "fit", "fit.benchmarks=[mmbench,mme,okvqa,seed]")
    assert code == 0, err
    words = " ".join(out.split())
    said = "vision: R² of A and C: 0.941 in sample, 0.703 left out; of A alone: 0.865 left out; C adds nothing"
    assert said in words and "%" not in words, "R² is a plain number"
    (folder,) = results(tmp_path, "vision_fit")
    assert {"fit.csv", "groups.csv", "points.csv", "fit.png", "fit.pdf", "config.yaml"} <= {
        path.name for path in folder.iterdir()
    }
    laws, points = pd.read_csv(folder / "fit.csv"), pd.read_csv(folder / "points.csv")
    assert len(laws) == 4 * 7 and (laws.n == 15).all() and laws.run.nunique() == 1
    okvqa = laws[(laws.benchmark == "okvqa") & (laws.model == LAW)].iloc[0]
    assert okvqa.r2 == pytest.approx(0.9332, abs=1e-4) and okvqa.r2_noise == pytest.approx(5 / 14)
    assert okvqa.coefficients == 6 and okvqa.rank_left_out == pytest.approx(0.85, abs=0.01)
    here = points[points.benchmark == "okvqa"]
    assert r2_score(here.value, here.predicted) == pytest.approx(okvqa.r2, abs=1e-6)
    assert r2_score(here.value, here.left_out) == pytest.approx(okvqa.r2_left_out, abs=1e-6)
    groups = pd.read_csv(folder / "groups.csv").set_index(["group", "model"])
    assert groups.loc[("vision", LAW), "r2"] == pytest.approx(0.9408, abs=1e-4)
    assert groups.loc[("all", LAW), "benchmarks"] == 4
    code, again, _ = probe("report", f"run={folder}")
    assert code == 0 and again == out


def test_vision_fit_with_the_released_alignment_score(probe: Run) -> None:
    code, _, err = probe("vision", "fit", "fit.a=a_cos")
    assert code == 1 and "'a_cos_mmbench' of SigLIP-L is empty" in err
    code, out, err = probe(
        "vision", "fit", "fit.a=a_cos", "fit.on_bad_row=skip", "fit.benchmarks=[mmbench,mme,okvqa,seed]"
    )
    assert code == 0 and "left out: representations.csv, row 6" in err
    words = " ".join(out.split())
    assert ": 0.957 in sample, 0.849 left out" in words and "C adds 0.195 out of sample (a_cos)" in words
    assert "ocr" not in words


def test_vision_fit_of_few_rows_and_of_wrong_ones(probe: Run, tmp_path: Path) -> None:
    file = written(tmp_path, *ROWS[:5], "late,-1,3,,\n")
    code, out, err = probe("vision", "fit", f"fit.table={file}")
    assert code == 0, err
    assert "one: 5 representations are too few: the law fits any 6 points exactly" in " ".join(out.split())
    (folder,) = results(tmp_path, "vision_fit")
    points = pd.read_csv(folder / "points.csv").set_index("representation")
    late = points.loc["late"]
    assert np.isnan(late.value) and np.isfinite(late.predicted) and np.isnan(late.left_out)
    assert probe("vision", "fit", f"fit.table={file}")[0] == 0
    one, two = results(tmp_path, "vision_fit")
    for name in ("fit.csv", "groups.csv", "points.csv", "fit.png", "fit.pdf"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), f"{name} differs between equal runs"
    short = written(tmp_path, *ROWS[:2], "x,1,1,,1\n")
    bad = {
        f"fit.table={short}": "'perf_one' has a value in 2 rows, but the law needs 3 or more",
        "fit.table=nowhere.csv": "fit.table=nowhere.csv is missing; name a CSV",
        "fit.draws=0": "fit.draws=0 must be 1 to 1,000,000",
        "fit.d=0": "'fit.d' is no setting of `vision fit`",
        "fit.groups.vision=3": "fit.groups",
    }
    for arg, message in bad.items():
        code, _, err = probe("vision", "fit", arg)
        (line,) = [line for line in err.splitlines() if line.startswith("mllm-probe: ")]
        assert code == 1 and message in line and "Traceback" not in err
    flat = "".join(f"x{i},{i},{i * i},5,1\n" for i in range(8))
    code, _, err = probe("vision", "fit", f"fit.table={written(tmp_path, flat)}")
    assert code == 1 and "column 'perf_one' is constant (5 in every row)" in err
    assert len(list(tmp_path.rglob("fit.csv"))) == 2, "errors leave nothing half-written"
