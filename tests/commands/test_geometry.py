"""Geometry between layers against oracles: naive traces, full loops, scikit-learn, scipy, planted shapes; and the
command, from an extraction to its picture."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import binomtest, ortho_group, spearmanr
from sklearn.cross_decomposition import CCA
from sklearn.neighbors import NearestNeighbors
from transformers import LlavaConfig, LlavaForConditionalGeneration

from mllm_probe.config.geometry import GeometrySettings
from mllm_probe.errors import ConfigError, ProbeError
from mllm_probe.fitting.readout import Readout
from mllm_probe.geometry.dimension import matrix_entropy, two_nn
from mllm_probe.geometry.row_checks import check_finite, clip_outliers, is_constant, prepared, standardised
from mllm_probe.geometry.samples import check_rows, draw_samples
from mllm_probe.geometry.similarity import SIMILARITIES, Comparison, between, compare_layers, similarity
from mllm_probe.geometry.transfer import Decided, transfer
from mllm_probe.probes.logistic import Logistic
from mllm_probe.records.problems import LayerData, Problem
from mllm_probe.records.samples import Picture, Sample
from mllm_probe.records.sites import Key, Site
from mllm_probe.report.figures.geometry import draw_geometry, in_order
from mllm_probe.report.terminal.layers.geometry import print_relations
from mllm_probe.results.geometry import COLUMNS, Relation, load_relations, save_relations
from mllm_probe.results.score_file import load_scores
from tests.support.runs import QUICK, Run, tiny

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)) * np.arange(1, 7) + 3
Y = np.tanh(X @ RNG.normal(size=(6, 9))) + RNG.normal(size=(40, 9))
FLOAT32 = 2e-6  # the matrices of two layers are compared in float32


def naive_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. 2012, equation 5, with traces and ones as printed."""
    n, one = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    sums = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + sums - 2 * (one @ k @ m @ one) / (n - 2)) / (n * (n - 3))


@pytest.mark.parametrize("rows", [4, 5, 40])
def test_unbiased_cka_equals_the_formula_with_traces(rows: int) -> None:
    k, m = X[:rows] @ X[:rows].T, Y[:rows] @ Y[:rows].T
    expected = naive_hsic(k, m) / np.sqrt(naive_hsic(k, k) * naive_hsic(m, m))
    assert between(similarity("cka"), X[:rows], Y[:rows]) == pytest.approx(expected, abs=FLOAT32)


def test_biased_cka_equals_the_formula_on_features() -> None:
    x, y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    expected = np.sum((y.T @ x) ** 2) / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert between(similarity("cka_biased"), X, Y) == pytest.approx(expected, abs=FLOAT32)


def test_the_biased_cka_of_independent_noise_is_high_and_the_unbiased_is_not() -> None:
    """One draw deviates by sqrt(2 / (n (n - 3))) = 0.029 from 0, the mean of 40 by 0.0046."""
    biased, unbiased = (similarity(name) for name in ("cka_biased", "cka"))
    draws = np.random.default_rng(0).normal(size=(40, 2, 50, 1000))
    assert min(between(biased, a, b) for a, b in draws) > 0.9
    assert abs(np.mean([between(unbiased, a, b) for a, b in draws])) < 0.015


def test_svcca_is_cca_where_every_component_is_kept() -> None:
    x, y = (np.linalg.svd(m - m.mean(axis=0), full_matrices=False)[0] for m in (X, Y))  # equal variances: all are kept
    model = CCA(n_components=6, scale=False, max_iter=20_000, tol=1e-12).fit(x, y)
    u, v = model.transform(x, y)
    expected = np.mean([np.corrcoef(u[:, i], v[:, i])[0, 1] for i in range(6)])
    assert between(similarity("svcca"), x, y) == pytest.approx(expected, abs=1e-5)


def test_svcca_keeps_99_percent_of_the_variance_or_the_components_asked_for() -> None:
    basis = np.linalg.svd(RNG.normal(size=(40, 4)) - 0.0, full_matrices=False)[0]
    basis = np.linalg.qr(basis - basis.mean(axis=0))[0]
    values = basis * np.sqrt([0.7, 0.25, 0.045, 0.005])
    piece = similarity("svcca").piece(values)
    assert piece.shape == (40, 3)
    np.testing.assert_allclose(piece @ piece.T, basis[:, :3] @ basis[:, :3].T, atol=1e-9)
    assert similarity("svcca", components=2).piece(values).shape == (40, 2)


def test_rsa_is_spearman_over_all_pairs_of_rows() -> None:
    def dissimilarities(values: np.ndarray) -> list[float]:
        n = len(values)
        return [1 - np.corrcoef(values[i], values[j])[0, 1] for i in range(n) for j in range(i + 1, n)]

    expected = spearmanr(dissimilarities(X), dissimilarities(Y)).statistic
    assert between(similarity("rsa"), X, Y) == pytest.approx(expected, abs=FLOAT32)
    assert spearmanr(pdist(X, "correlation"), pdist(Y, "correlation")).statistic == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 10, 39])
def test_mutual_knn_counts_common_neighbours(k: int) -> None:
    def neighbours(values: np.ndarray) -> list[set[int]]:
        search = NearestNeighbors(n_neighbors=k + 1, metric="cosine").fit(values)
        return [set(row) - {i} for i, row in enumerate(search.kneighbors(values, return_distance=False))]

    expected = np.mean([len(a & b) / k for a, b in zip(neighbours(X), neighbours(Y), strict=True)])
    assert between(similarity("mutual_knn", k=k), X, Y) == pytest.approx(expected, abs=FLOAT32)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities_know_their_invariances(name: str) -> None:
    measure = similarity(name)
    value = between(measure, X, Y)
    assert 0.1 < value < 0.95, "or nothing is tested"
    assert between(measure, X, X) == pytest.approx(1, abs=FLOAT32)
    assert between(measure, Y, X) == pytest.approx(value, abs=FLOAT32)
    assert between(measure, 7 * X, Y / 3) == pytest.approx(value, abs=FLOAT32)
    assert between(measure, X[::-1], Y[::-1]) == pytest.approx(value, abs=FLOAT32)
    assert between(measure, X[::-1], Y) != pytest.approx(value, abs=0.05)
    if name != "rsa":  # Pearson's r between rows depends on the axes
        assert between(measure, X @ ortho_group.rvs(6, random_state=1), Y) == pytest.approx(value, abs=FLOAT32)
    if name not in ("rsa", "mutual_knn"):  # neither angles nor r survive a shift
        assert between(measure, X + np.arange(6), Y) == pytest.approx(value, abs=FLOAT32)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_all_layers_at_once_equal_pairs_and_shuffles(name: str) -> None:
    """250 rows, so that the matrices are compared in several blocks."""
    rng = np.random.default_rng(1)
    layers = [rng.normal(size=(250, width)) for width in (5, 8, 5)]
    layers[2] += layers[0]
    measure = similarity(name)
    pieces = [measure.piece(values) for values in layers]
    order = rng.permutation(250)
    expected = [[[between(measure, a[o], b) for b in layers] for a in layers] for o in (np.arange(250), order)]
    np.testing.assert_allclose(measure.compare(pieces, pieces), expected[0], atol=FLOAT32)
    np.testing.assert_allclose(measure.compare(pieces, pieces, order), expected[1], atol=FLOAT32)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_the_null_covers_independent_layers_and_not_related_ones(name: str) -> None:
    covered, ticks = 0, []
    measure = similarity(name, k=5)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(60, 10)), rng.normal(size=(60, 12))
        pieces = [measure.piece(values) for values in (a, b, a + 0.5 * rng.normal(size=a.shape))]
        found = compare_layers(measure, pieces, pieces, 60, seed, lambda: ticks.append(1))
        covered += found.value[0, 1] <= found.null_high[0, 1]
        assert found.value[0, 2] > found.null_high[0, 2] > found.null_mean[0, 2]
        for table in (found.value, found.null_mean, found.null_high):
            np.testing.assert_allclose(table, table.T, atol=1e-6)
    assert covered >= 16, "19 of 20 are expected"
    assert len(ticks) == 20 * 60


def test_a_null_is_repeated_by_its_seed_and_absent_without_permutations() -> None:
    measure = similarity("cka")
    a, b = [measure.piece(X)], [measure.piece(Y)]
    one, same, other = (compare_layers(measure, a, b, 10, seed) for seed in (1, 1, 2))
    assert one == same and one.null_mean != other.null_mean
    none = compare_layers(measure, a, b, 0)
    assert none.value == one.value and np.isnan(none.null_mean) and np.isnan(none.null_high)


def test_bad_rows_are_refused_in_one_sentence() -> None:
    for name in SIMILARITIES:
        with pytest.raises(ProbeError, match="3 rows are too few .* at least 4"):
            similarity(name).piece(X[:3])
        with pytest.raises(ProbeError, match="all 40 rows are equal"):
            similarity(name).piece(np.ones((40, 3)))
    with pytest.raises(ProbeError, match="40 rows have 1 to 39 neighbours each, not 40"):
        similarity("mutual_knn", k=40).piece(X)
    with pytest.raises(ProbeError, match="40 and 39 rows"):
        between(similarity("cka"), X, Y[1:])
    with pytest.raises(ProbeError, match="equally far"):
        similarity("rsa").piece(X[:, :1])
    with pytest.raises(ConfigError, match="similarity 'ckaa' is unknown; did you mean 'cka'"):
        similarity("ckaa")
    with pytest.raises(ProbeError, match=r"lm.03@last holds 2 values that are not finite"):
        check_finite(np.array([[1, np.nan], [np.inf, 0]]), "lm.03@last")
    check_finite(X, "x")


def test_a_layer_is_constant_up_to_rounding() -> None:
    row = np.array([1e3, 1e-3, 0.0])
    assert is_constant(np.tile(row, (5, 1)))
    assert is_constant(np.tile(row, (5, 1)) * (1 + 1e-7 * np.arange(5)[:, None]))
    assert not is_constant(np.tile(row, (5, 1)) * (1 + 1e-5 * np.arange(5)[:, None]))
    assert not is_constant(np.tile(row, (5, 1)) + 1e-5 * np.eye(5, 3, k=1)), "a small dimension counts for itself"


def test_clipping_lets_no_massive_dimension_decide() -> None:
    """Of 1000 independent dimensions one is shared and massive; cut to c, its share of both norms is c^4."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 400, 1000))
    a[:, 3] = b[:, 7] = 1e5 * rng.normal(size=400)
    assert between(similarity("cka"), a, b) > 0.999
    for c in (5, 2):
        found = between(similarity("cka"), clip_outliers(a, c), clip_outliers(b, c))
        assert found == pytest.approx(c**4 / (c**4 + 999), abs=0.03)
    clipped = clip_outliers(np.array([[0.0, 1, 9], [0, 3, -91]]), 2)
    np.testing.assert_allclose(clipped, [[0, 1, 9], [0, 3, -91]], err_msg="deviations 1 and 50: the middle is 25.5")
    np.testing.assert_allclose(clip_outliers(np.array([[1.0, 0, 9], [3, 2, -91]]), 2), [[1, 0, -39], [3, 2, -43]])
    assert clip_outliers(a, None) is a
    np.testing.assert_array_equal(clip_outliers(np.ones((4, 2)), 1), np.ones((4, 2)))


def test_standardised_dimensions_count_alike() -> None:
    """Three massive dimensions are cut and still decide who is near to whom; standardised, they are 3 of 50."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 200, 50))
    same = a + 0.1 * rng.normal(size=a.shape)
    for rows in (a, b, same):
        rows[:, :3] = 1e4 * (3 + rng.normal(size=(200, 3)))
    nearest = similarity("mutual_knn", k=10)
    cut = between(nearest, *(prepared(rows, 5.0, False) for rows in (a, same)))
    alike = between(nearest, *(prepared(rows, 5.0, True) for rows in (a, same)))
    assert cut < 0.2 < 0.6 < alike
    assert between(nearest, *(prepared(rows, 5.0, True) for rows in (a, b))) < 0.1
    found = standardised(np.column_stack([a, np.full(200, 7e4)]))
    np.testing.assert_allclose(found[:, :-1].std(axis=0), 1)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-9)
    assert not found[:, -1].any(), "what does not vary is 0, and no rounding error over another"
    assert prepared(a, None, False) is a


def embedded(points: np.ndarray, width: int) -> np.ndarray:
    return points @ ortho_group.rvs(width, random_state=0)[: points.shape[1]] + 5


@pytest.mark.parametrize(("d", "tolerance"), [(1, 0.1), (2, 0.2), (5, 0.6)])
def test_two_nn_finds_a_planted_dimension(d: int, tolerance: float) -> None:
    """Its standard error is d / sqrt(n), at n = 1500 some 2.6 % of d; the rest is curvature and borders."""
    rng = np.random.default_rng(d)
    found = two_nn(embedded(rng.normal(size=(1500, d)), 30))
    assert found.value == pytest.approx(d, abs=tolerance)
    assert found.rows + found.repeats == 1500 and found.repeats < 3, "points on a line can touch"
    angles = rng.uniform(0, 2 * np.pi, size=(1500, d))
    torus = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    assert two_nn(embedded(torus, 30)).value == pytest.approx(d, abs=tolerance)


def test_two_nn_equals_the_estimate_by_hand_and_leaves_repeats_out() -> None:
    r = np.sort(NearestNeighbors(n_neighbors=3).fit(X).kneighbors(X)[0], axis=1)
    expected = 39 / np.log(r[:, 2] / r[:, 1]).sum()
    assert two_nn(X).value == pytest.approx(expected)
    again = two_nn(np.concatenate([X, X[:7], X[:3] * (1 + 1e-9)]))
    assert again.value == pytest.approx(expected) and (again.rows, again.repeats) == (40, 10)
    with pytest.raises(ProbeError, match="only 3 of 9 rows differ"):
        two_nn(np.tile(X[:3], (3, 1)))
    with pytest.raises(ProbeError, match="first and second neighbour are equally far"):
        two_nn(np.eye(5))


def test_entropy_of_known_spectra() -> None:
    assert matrix_entropy(3 * np.eye(8, 20)) == pytest.approx(np.log(8))
    assert matrix_entropy(np.outer(np.arange(1, 6), [1.0, 2, 3])) == pytest.approx(0, abs=1e-12)
    lengths = np.sqrt([0.5, 0.25, 0.25])
    rotated = lengths[:, None] * ortho_group.rvs(6, random_state=0)[:3]
    assert matrix_entropy(11 * rotated) == pytest.approx(1.5 * np.log(2))
    with pytest.raises(ProbeError, match="all values are zero"):
        matrix_entropy(np.zeros((4, 2)))


def samples_of(pictures: int, each: int) -> list[Sample]:
    return [Sample(f"{p}.{i}", (), (f"p{p}",), "", {}) for p in range(pictures) for i in range(each)]


def test_one_prompt_of_each_picture_is_drawn_by_the_seed() -> None:
    samples, pictures = samples_of(30, 4), [Picture(f"{p}", Path(), f"p{p}") for p in range(30)]
    chosen = draw_samples(samples, pictures, 2000, 0)
    assert [uid.split(".")[0] for uid in chosen] == [str(p) for p in range(30)]
    assert len({uid.split(".")[1] for uid in chosen}) == 4, "not the first prompt of each"
    assert chosen == draw_samples(samples, pictures, 2000, 0) != draw_samples(samples, pictures, 2000, 1)
    few = draw_samples(samples, pictures, 10, 0)
    assert len(few) == 10 and set(few) < set(chosen) and few != chosen[:10]
    films = [replace(picture, group=f"film{i % 5}") for i, picture in enumerate(pictures)]
    rows = draw_samples(samples, films, 2000, 0)
    assert sorted(int(uid.split(".")[0]) % 5 for uid in rows) == [0, 1, 2, 3, 4], "pictures that look alike count once"


def test_too_few_rows_are_refused_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match="has 3; at least 4 pictures"):
        check_rows(3, GeometrySettings(measures=["cka"]))
    with pytest.raises(ConfigError, match="geometry.k=10 must be below the number of rows, which is 10"):
        check_rows(10, GeometrySettings())
    check_rows(11, GeometrySettings())
    check_rows(4, GeometrySettings(measures=["cka"]))


class PlantedProbing:
    """Layer 0 tells the label in dimension 0; layer 1 tells it there faintly and in dimension 1 loudly, where layer 0
    has loud noise; layer 2 is constant and layer 3 wider. So 0 serves 1 but 1 does not serve 0."""

    kind, seeds = "binary", (0, 1)

    def __init__(self, experiment: object) -> None:
        self.experiment = experiment
        rng = np.random.default_rng(0)
        self.y = rng.integers(0, 2, size=600)
        self.split = np.repeat(["train", "val", "test"], [300, 100, 200])
        self.test = self.split == "test"
        self.groups = self.uids = np.arange(600)
        signal = 2.0 * self.y - 1
        noise = rng.normal(size=(4, 600, 3))
        self.layers = [noise[0], noise[1], np.ones((600, 3)), np.c_[noise[2], signal]]
        self.layers[0][:, 0] += 4 * signal
        self.layers[0][:, 1] *= 400
        self.layers[1] *= 0.1
        self.layers[1][:, 0] = signal + rng.normal(size=600) * 0.5
        self.layers[1][:, 1] += 40 * signal

    def headed(self, position: str) -> bool:
        return position == "mean_image"

    def readout(self, key: Key) -> Readout:
        return Readout.of(LayerData(torch.from_numpy(self.layers[key.site.layer]), name=str(key)))

    def problem(self, _: str, seed: int) -> Problem:
        return Problem(np.where(self.test, 0, self.y), self.split == "train", self.split == "val", seed=seed)


def test_transfer_goes_from_the_row_to_the_column(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mllm_probe.geometry.transfer.Probing", PlantedProbing)
    monkeypatch.setattr("mllm_probe.geometry.transfer.Source", lambda experiment, _: PlantedProbing(experiment))
    experiment = SimpleNamespace(sweep=SimpleNamespace(seeds=[0, 1]), probe=Logistic())
    keys, ticks = [Key(Site("lm", layer), "last") for layer in range(4)], []
    decided = transfer(experiment, None, keys, keys, lambda: ticks.append(1))  # type: ignore[arg-type]
    found = decided.compared(200, 0)
    assert len(decided.y) == 200 and len(ticks) == 8
    assert (np.diag(found.value)[[0, 1, 3]] > 0.95).all()
    assert found.value[0, 1] > 0.9 and found.value[1, 0] < 0.8
    empty = np.ones((4, 4), dtype=bool)
    empty[:2, :2] = empty[3, 3] = False
    for table in (found.value, found.null_mean, found.null_high):
        np.testing.assert_array_equal(np.isnan(table), empty)
    assert found.null_mean[0, 0] == pytest.approx(0.5, abs=0.02)
    assert found.null_high[0, 0] == pytest.approx(0.5 + 1.645 * 0.5 / np.sqrt(200), abs=0.02), "a binomial's quantile"


def test_where_categories_have_outputs_of_their_own_there_is_no_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    """One output for all would be at chance, whatever the layer knows."""
    monkeypatch.setattr("mllm_probe.geometry.transfer.Probing", PlantedProbing)
    monkeypatch.setattr("mllm_probe.geometry.transfer.Source", lambda experiment, _: PlantedProbing(experiment))
    experiment = SimpleNamespace(sweep=SimpleNamespace(seeds=[0, 1]), probe=Logistic())
    apart, told = ([Key(Site("lm", 0), position)] for position in ("mean_image", "last"))
    for a, b, empty in ((apart, apart, True), (apart, told, True), (told, apart, True), (told, told, False)):
        decided = transfer(experiment, None, a, b, lambda: None)  # type: ignore[arg-type]
        assert np.isnan(decided.compared(20, 0).value).all() == empty


def test_the_null_of_transfer_exchanges_pictures_not_rows() -> None:
    """One label a picture and 8 decisions that mostly agree: labels that move one by one are exceeded in 22 %."""
    rng, exceeded = np.random.default_rng(3), []
    groups, order = np.arange(40).repeat(8), np.arange(320)
    for seed in range(600):
        shown = rng.normal(size=40).repeat(8) + 0.5 * rng.normal(size=320)
        y = np.where(rng.permutation(40) < 20, 1.0, -1.0).repeat(8)
        found = Decided(np.sign(shown)[None, None].astype(np.float32), y, groups, order).compared(100, seed)
        exceeded.append(found.value[0, 0] > found.null_high[0, 0])
    assert binomtest(sum(exceeded), 600, 0.05, "greater").pvalue > 0.01


def test_labels_that_cannot_move_have_no_null() -> None:
    decided = Decided(np.ones((1, 1, 3), np.float32), np.ones(3), np.asarray(["a", "a", "b"]), np.arange(3))
    with pytest.raises(ProbeError, match="no two of the 2 pictures have the same number of rows"):
        decided.compared(10, 0)
    assert np.isnan(decided.compared(0, 0).null_high).all()


@pytest.mark.parametrize("draws", [19, 20, 41, 100])
def test_a_value_like_its_draws_exceeds_their_upper_end_in_5_percent_at_most(draws: int) -> None:
    ranks = np.arange(draws + 1.0)
    above = [Comparison.of(np.asarray(own), list(np.delete(ranks, i))) for i, own in enumerate(ranks)]
    assert 0.02 < np.mean([found.value > found.null_high for found in above]) <= 0.05


def relation(measure: str, a: str, b: str, value: float) -> Relation:
    return Relation("r", "c", "tiny", measure, "last", a, b, value, 0.1, 0.2, 30)


def test_the_table_sums_up_and_empty_cells_survive_the_file(tmp_path: Path) -> None:
    from rich.console import Console

    sites = ("lm.00", "lm.01", "lm.02")
    values = {("lm.01", "lm.02"): 0.25, ("lm.02", "lm.01"): 0.75}
    rows = [
        relation("cka", a, b, float("nan") if "lm.00" in (a, b) else values.get((a, b), 1.0))
        for a in sites
        for b in sites
    ]
    rows += [relation("entropy", a, "", value) for a, value in zip(sites, (float("nan"), 3.0, 2.0), strict=True)]
    save_relations(tmp_path / "geometry.csv", rows)
    table = load_relations(tmp_path / "geometry.csv")
    assert tuple(table.columns) == COLUMNS and table.value.isna().sum() == 6 and (table.site_b == "").sum() == 3
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
    print_relations(table, console)
    console.file.close()
    lines = [line.replace("│", " ").split() for line in console.export_text().splitlines()]
    assert ["cka", "last", "30", "0.25", "0.25", "0.25", "0.20", "5"] in lines
    assert ["entropy", "last", "30", "3", "3", "lm.01", "2"] in lines


def test_equal_tables_give_equal_pictures(tmp_path: Path) -> None:
    from matplotlib.image import imread

    sites = [*(f"vision.{i:02d}" for i in range(3)), "connector", *(f"lm.{i:02d}" for i in range(40))]
    table = pd.DataFrame(
        [relation("cka", a, b, 1 / (1 + abs(i - j))) for i, a in enumerate(sites) for j, b in enumerate(sites)]
    )
    paths = [tmp_path / "a.png", tmp_path / "a.pdf"]
    draw_geometry(table, paths)
    draw_geometry(table, [tmp_path / "b.png", tmp_path / "b.pdf"])
    for kind in ("png", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    assert imread(paths[0]).std() > 0.1
    table["value"] = float("nan")
    draw_geometry(table, [tmp_path / "c.png"])
    assert (tmp_path / "c.png").read_bytes() != paths[0].read_bytes()


def test_sites_stand_in_the_order_the_data_passes_them() -> None:
    read = ["lm.00", "lm.10", "lm.10.norm", "lm.02", "vision.01", "connector", "vision.00"]
    expected = ["vision.00", "vision.01", "connector", "lm.00", "lm.02", "lm.10", "lm.10.norm"]
    assert in_order(read) == expected


def results(folder: Path) -> list[Path]:
    return sorted(path.parent for path in (folder / "outputs" / "geometry").rglob("geometry.csv"))


def test_the_command_from_a_filled_cache(
    probe: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = (*tiny(checkpoint), *QUICK, "layers.stride=2", "sweep.seeds=[0,1]")
    code, _, err = probe("geometry", *args)
    assert code == 1 and "run `mllm-probe extract` with the same settings first" in err
    assert probe("run", *args)[0] == 0
    monkeypatch.setattr("mllm_probe.models.hf.load_model", lambda *_: pytest.fail("no model is needed"))
    wanted = ("geometry.permutations=20", "geometry.across=[[mean_image,mean_text]]", "geometry.max_rows=20")
    code, out, err = probe("geometry", *args, *wanted)
    assert code == 0, err
    assert "lm.00@last: the same row for all 20 pictures, so its cells are empty" in err
    assert "20 of 30 pictures" in err and "geometry cka: " in err
    assert "layers against layers" in out and "layers alone" in out
    (folder,) = results(tmp_path)
    assert {"geometry.csv", "geometry.png", "geometry.pdf", "config.yaml", "identity.json"} <= {
        path.name for path in folder.iterdir()
    }
    table = load_relations(folder / "geometry.csv")
    assert ",".join(table.columns) == "run,cache,model,measure,position,site_a,site_b,value,null_mean,null_high,n"
    assert table.run.nunique() == 1 and set(table.cache) == {
        json.loads((folder / "identity.json").read_text())["digest"]
    }
    check_tables(table)
    scores = load_scores(next((tmp_path / "outputs" / "run").rglob("scores.csv")))
    check_transfer(table[table.measure == "transfer"], scores)
    again = probe("geometry", *args, *wanted)
    assert again[0] == 0
    one, two = results(tmp_path)
    for name in ("geometry.csv", "geometry.png", "geometry.pdf"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), f"{name} differs between equal runs"


def check_tables(table: pd.DataFrame) -> None:
    """Every pair is there, diagonals are 1, what is constant is empty and nothing else."""
    alike = table[table.measure.isin(["cka", "svcca", "rsa", "mutual_knn"])]
    assert alike.measure.nunique() == 4 and (alike.n == 20).all()
    sizes = alike[alike.measure == "cka"].groupby("position").size().to_dict()
    lm, seen = 4, 7  # lm.00, .02, .04, .04.norm; and vision.00, .02, connector
    assert sizes == {
        "last": lm * lm,
        "mean_text": lm * lm,
        "mean_image": seen * seen,
        "mean_image x mean_text": seen * lm,
    }
    constant = (alike.position == "last") & ((alike.site_a == "lm.00") | (alike.site_b == "lm.00"))
    assert alike[constant].value.isna().all() and alike[~constant].notna().all().all()
    diagonal = alike[(alike.site_a == alike.site_b) & ~constant & ~alike.position.str.contains(" x ")]
    assert len(diagonal) == 4 * (3 + 4 + 7)
    np.testing.assert_allclose(diagonal.value, 1, atol=1e-5)
    assert (diagonal.null_high < 1).all() and (diagonal.value > diagonal.null_high).all()
    within = alike[~alike.position.str.contains(" x ")]
    for _, rows in within.groupby(["measure", "position"]):
        grid = rows.pivot(index="site_a", columns="site_b", values="value").to_numpy()
        np.testing.assert_allclose(grid, grid.T, atol=1e-5)
    alone = table[table.site_b == ""]
    assert set(alone.measure) == {"intrinsic_dimension", "entropy"} and len(alone) == 2 * (lm + lm + seen)
    assert alone[["null_mean", "null_high"]].isna().all().all() and alone.value.isna().sum() == 2


def check_transfer(table: pd.DataFrame, scores: pd.DataFrame) -> None:
    """On the diagonal stands what the sweep found."""
    swept = scores[
        (scores.seed == "all")
        & (scores.split == "test")
        & (scores.metric == "accuracy")
        & (scores.control == "")
        & (scores.features == "single")
    ]
    expected = {(row.position, row.site): row.value for row in swept.itertuples() if row.site}
    del expected["last", "lm.00"]  # constant
    diagonal = table[(table.site_a == table.site_b) & table.value.notna() & ~table.position.str.contains(" x ")]
    found = {(row.position, row.site_a): row.value for row in diagonal.itertuples()}
    assert found.keys() == expected.keys() and len(found) == 14
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-5), name
    assert (table.n == swept.n.max()).all() and table.null_mean.between(0.4, 0.6).sum() == table.value.notna().sum()


WRONG = [
    (("geometry.measures=[ckaa]",), "geometry.measures names the unknown measure 'ckaa'; did you mean 'cka'"),
    (("geometry.measures=[]",), "must hold at least one"),
    (("geometry.max_rows=3",), "geometry.max_rows=3 must be 4 or more"),
    (("geometry.k=0",), "geometry.k=0 must be 1 or more"),
    (("geometry.k=30",), "geometry.k=30 must be below the number of rows, which is 30"),
    (("geometry.clip=0",), "geometry.clip=0.0 must be above 0, or null"),
    (("geometry.permutations=-1",), "geometry.permutations=-1 must be 0 to 1,000,000"),
    (("geometry.across=[[last]]",), "must hold pairs of positions from extract.positions"),
    (
        ("geometry.across=[[last,mean_image]]", "layers.towers=[vision]"),
        "names position last, which none of the requested layers",
    ),
    (("extract.positions=[last,tokens:text]",), "position tokens:text holds a row for every token"),
    (("geometry.kk=5",), "'geometry.kk' is no setting of `geometry`; did you mean 'k'"),
    (("+geometry.typo=5",), "'geometry.typo' is no setting"),
]


@pytest.mark.parametrize(
    ("args", "message"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_wrong_settings_are_one_sentence(probe: Run, checkpoint: Path, args: tuple[str, ...], message: str) -> None:
    code, _, err = probe("geometry", *tiny(checkpoint), *QUICK, *args)
    (line,) = [line for line in err.splitlines() if line.startswith("mllm-probe: ")]
    assert code == 1 and message in line and "Traceback" not in err


def narrow_vision(checkpoint: Path, folder: Path) -> Path:
    """The tiny LLaVA with a vision tower of half the width of its language model."""
    shutil.copytree(checkpoint, folder)
    config = LlavaConfig.from_pretrained(checkpoint)
    config.vision_config.hidden_size = 32
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


def test_multirun_and_layers_of_other_widths(probe: Run, checkpoint: Path, tmp_path: Path) -> None:
    tiny_one = tiny(narrow_vision(checkpoint, tmp_path / "narrow"))
    args = (*tiny_one, *QUICK, "extract.positions=[mean_image]", "layers.stride=1", "layers.range=[0,1]")
    assert probe("extract", *args)[0] == 0
    measures = "geometry.measures=[cka,transfer]"
    code, _, err = probe("geometry", "-m", *args, measures, "geometry.seed=0,1", "geometry.permutations=0")
    assert code == 0, err
    one, two = (load_relations(path) for path in sorted((tmp_path / "outputs" / "multirun").rglob("geometry.csv")))
    assert "cells between layers of different width are empty (vision 32, connector 64, lm 64)" in err
    assert one.null_high.isna().all() and one.run[0] != two.run[0]
    mixed = one.site_a.str.startswith("vision") != one.site_b.str.startswith("vision")
    transfer = one.measure == "transfer"
    assert one[mixed & transfer].value.isna().all() and one[~(mixed & transfer)].value.notna().all()
    assert mixed.sum() == 2 * 2 * 2 * 3, "two vision layers, the connector and two of the language model"


def test_help_and_completion(probe: Run) -> None:
    code, out, _ = probe("--help")
    assert code == 0 and "compare the layers of a filled cache" in out
    code, out, _ = probe("geometry", "--help")
    assert code == 0 and "mllm-probe geometry [GROUP=OPTION ...]" in out and "geometry.max_rows=2000" in out


@pytest.mark.parametrize(
    ("line", "expected"),
    [("mllm-probe geo", {"geometry"}), ("mllm-probe geometry geometry.max", {"geometry.max_rows="})],
)
def test_completion(line: str, expected: set[str]) -> None:
    environment = os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    command = [sys.executable, "-m", "mllm_probe", "-sc", "query=bash"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert expected == set(done.stdout.split())
