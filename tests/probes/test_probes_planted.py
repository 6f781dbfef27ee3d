"""Each kind of probe against its oracle, a planted signal, and the input it must refuse."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from mllm_probe.config.build import build
from mllm_probe.errors import ConfigError, ProbeError
from mllm_probe.probes.attention import Attention, attend
from mllm_probe.probes.ccs import Ccs
from mllm_probe.probes.k_sparse import KSparse
from mllm_probe.probes.leace import Erased, Leace
from mllm_probe.probes.logistic import Logistic
from mllm_probe.probes.mean_difference import MeanDifference
from mllm_probe.probes.mlp import Mlp
from mllm_probe.probes.ridge import Ridge
from mllm_probe.records.problems import Compute, LayerData, Problem
from mllm_probe.records.protocols import Probe
from tests.support.planted import ccs_loss, layer, pairs, planted, problem, split, tokens

CONF = Path(__file__).resolve().parents[2] / "conf" / "probe"
SMALL = Compute(memory=1)  # nothing is kept: every product reads the rows again


def named(probe: Any) -> str:
    return probe.name + "-whitened" * getattr(probe, "covariance", False)


CLOSED = [MeanDifference(), MeanDifference(covariance=True), KSparse(k=2)]
VECTOR = [*CLOSED, Mlp(widths=(8,), rate=0.01)]


# What every probe of vectors must do.


@pytest.mark.parametrize("probe", CLOSED, ids=named)
def test_problems_fitted_together_are_fitted_as_alone_and_from_the_store_as_in_memory(probe: Any) -> None:
    x, y = planted(120, 6)
    problems = [problem(y, 0), problem(1 - y, 1), problem((x[:, 0] > x[:, 0].mean()).astype(int), 2)]
    together = probe.fit(layer(x), problems)
    streamed = probe.fit(layer(x, compute=SMALL), problems)
    for fit, other, one in zip(together, streamed, problems, strict=True):
        alone = probe.fit(layer(x), [one])[0]
        assert fit.facts["converged"] == 1 and fit(layer(x)).shape == (120,)
        assert np.allclose(fit(layer(x)), alone(layer(x)), rtol=1e-2, atol=1e-2)
        assert np.allclose(fit(layer(x)), other(layer(x)), rtol=1e-2, atol=1e-2)
        assert all(np.isfinite(part).all() or name == "scale" for name, part in fit.arrays().items())


@pytest.mark.parametrize("probe", VECTOR, ids=named)
def test_test_rows_have_no_say(probe: Any) -> None:
    x, y = planted(120, 6)
    _, _, test = split(120)
    changed, relabelled = x.copy(), y.copy()
    changed[test], relabelled[test] = np.nan, 1 - y[test]
    a, b = probe.fit(layer(x), [problem(y)])[0], probe.fit(layer(changed), [problem(relabelled)])[0]
    assert np.array_equal(a(layer(x)), b(layer(x)))


@pytest.mark.parametrize("probe", CLOSED, ids=named)
def test_constant_columns_say_nothing(probe: Any) -> None:
    x, y = planted(120, 5)
    padded = np.insert(x, 2, 7.0, axis=1)
    a, b = probe.fit(layer(x), [problem(y)])[0], probe.fit(layer(padded), [problem(y)])[0]
    assert np.allclose(a(layer(x)), b(layer(padded)), atol=1e-2)


@pytest.mark.parametrize("probe", VECTOR, ids=named)
def test_where_all_rows_are_equal_all_answers_are(probe: Any) -> None:
    y = planted(120, 5)[1]
    blind = probe.fit(layer(np.full((120, 4), 3.0)), [problem(y)])[0]
    assert np.ptp(blind(layer(np.full((9, 4), 3.0)))) == 0


@pytest.mark.parametrize("probe", VECTOR, ids=named)
def test_what_cannot_be_fitted_is_named(probe: Any) -> None:
    x, y = planted(40, 3)
    with pytest.raises(ProbeError, match="training rows have the label 1"):
        probe.fit(layer(x), [problem(np.ones(40, int))])
    with pytest.raises(ProbeError, match="the target is of kind nonsense"):
        probe.fit(layer(x), [problem(y, kind="nonsense")])
    x[np.flatnonzero(split(40)[0])[0], 1] = np.nan
    with pytest.raises(ProbeError, match="lm.03@last has 1 of"):
        probe.fit(layer(x), [problem(y)])


@pytest.mark.parametrize("name", ["mean_difference", "k_sparse", "mlp", "attention", "ccs"])
def test_the_option_of_that_name_builds_the_probe_with_its_own_defaults(name: str) -> None:
    node = OmegaConf.to_object(OmegaConf.load(CONF / f"{name}.yaml"))
    probe = build(node, Probe)  # type: ignore[type-abstract, arg-type]
    assert probe.name == name
    assert {key: getattr(type(probe)(), key) for key in node if key != "_target_"} == {
        key: tuple(value) if isinstance(value, list) else value for key, value in node.items() if key != "_target_"
    }
    assert set(node) - {"_target_"} == {each.name for each in fields(probe)}  # type: ignore[arg-type]


# Means of classes.


def test_the_mean_difference_is_that_of_the_means() -> None:
    x, y = planted()
    train, _, _ = split(len(y))
    fit = MeanDifference(standardise=False).fit(layer(x), [problem(y)])[0]
    one, zero = x[train & (y == 1)].mean(0), x[train & (y == 0)].mean(0)
    assert np.allclose(fit(layer(x)), (x - (one + zero) / 2) @ (one - zero), rtol=1e-4, atol=1e-3), (
        "rows are held in float32"
    )
    z = StandardScaler().fit(x[train]).transform(x)
    one, zero = z[train & (y == 1)].mean(0), z[train & (y == 0)].mean(0)
    fit = MeanDifference().fit(layer(x), [problem(y)])[0]
    assert np.allclose(fit(layer(x)), (z - (one + zero) / 2) @ (one - zero))


@pytest.mark.parametrize("shrinkage", [0.02, 0.5, 0.95])
@pytest.mark.parametrize(("n", "width"), [(300, 12), (60, 90)])
def test_whitened_it_is_scikit_learns_discriminant(n: int, width: int, shrinkage: float) -> None:
    x, y = planted(n, width)
    train, _, _ = split(n)
    z = StandardScaler().fit(x[train]).transform(x)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(z[train], y[train])
    fit = MeanDifference(covariance=True, shrinkage=shrinkage).fit(layer(x), [problem(y)])[0]
    assert fit.facts["converged"] == 1
    expected = theirs.decision_function(z)
    assert np.allclose(fit(layer(x)), expected, atol=2e-3 * np.abs(expected).max())


def test_whitening_needs_spread_within_a_class() -> None:
    y = np.arange(40) % 2
    with pytest.raises(ProbeError, match="all training rows of a class are equal"):
        MeanDifference(covariance=True).fit(layer(y[:, None] * np.ones((1, 3))), [problem(y)])
    with pytest.raises(ConfigError, match="probe.shrinkage=1.0 must be between 0 and 1"):
        MeanDifference(shrinkage=1.0)


# A few columns.


@pytest.mark.parametrize("k", [1, 4])
def test_k_columns_are_scikit_learns_choice_and_its_fit(k: int) -> None:
    x, y = planted()
    train, _, _ = split(len(y))
    fit = KSparse(k=k, selection="f_statistic", lambdas=(0.01,)).fit(layer(x), [problem(y)])[0]
    chosen = SelectKBest(f_classif, k=k).fit(x[train], y[train]).get_support(indices=True)
    assert fit.arrays()["columns"].tolist() == chosen.tolist() and fit.facts["k"] == k
    z = StandardScaler().fit(x[train][:, chosen]).transform(x[:, chosen])
    theirs = LogisticRegression(C=1 / (0.01 * train.sum()), tol=1e-10, max_iter=10_000).fit(z[train], y[train])
    assert np.allclose(fit(layer(x)), theirs.decision_function(z), atol=1e-2)


def test_mean_differences_choose_in_the_models_own_units() -> None:
    x, y = planted()
    x[:, 5] *= 1e4
    train, _, _ = split(len(y))
    fit = KSparse(k=3).fit(layer(x), [problem(y)])[0]
    gap = np.abs(x[train & (y == 1)].mean(0) - x[train & (y == 0)].mean(0))
    assert fit.arrays()["columns"].tolist() == sorted(np.argsort(-gap)[:3]) and 5 in fit.arrays()["columns"]


def test_more_columns_than_there_are_is_named() -> None:
    x, y = planted(40, 3)
    with pytest.raises(ProbeError, match="probe.k=4 is more than the 3 columns of lm.03@last"):
        KSparse(k=4).fit(layer(x), [problem(y)])
    with pytest.raises(ConfigError, match="did you mean 'f_statistic'"):
        KSparse(selection="f_statistics")
    with pytest.raises(ConfigError, match="probe.k=0 must be 1 or more"):
        KSparse(k=0)


# One hidden layer.


def exclusive(n: int = 500, width: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Columns of unequal scale and mean; 1 where the first two are on the same side, which no line can say."""
    x = np.random.default_rng(seed).normal(size=(n, width))
    return x * np.exp(np.arange(width)) - 20, (x[:, 0] * x[:, 1] > 0).astype(int)


def test_a_hidden_layer_reads_what_no_line_can_and_says_which_width_did() -> None:
    x, y = exclusive()
    _, _, test = split(len(y))
    fit = Mlp(widths=(1, 32), rate=0.01).fit(layer(x), [problem(y)])[0]
    line = Logistic().fit(layer(x), [problem(y)])[0]
    assert roc_auc_score(y[test], fit(layer(x))[test]) > 0.9 > 0.65 > roc_auc_score(y[test], line(layer(x))[test])
    assert fit.facts["width"] == 32 and fit.facts["converged"] == 1
    held_out = split(len(y))[1]
    margin = np.where(y > 0, 1, -1) * fit(layer(x))
    assert fit.facts["val_loss"] == pytest.approx(np.logaddexp(0, -margin[held_out]).mean(), rel=1e-4)


def test_the_hidden_layer_predicts_numbers_in_their_own_units() -> None:
    x, _ = exclusive()
    number = 1000 + 40 * np.abs((x[:, 1] + 20) / np.e) + np.random.default_rng(1).normal(size=len(x))
    _, _, test = split(len(x))
    fit = Mlp(widths=(16,), rate=0.01).fit(layer(x), [problem(number, kind="number")])[0]
    assert r2_score(number[test], fit(layer(x))[test]) > 0.8


def test_the_hidden_layer_tells_classes_and_labels_that_count() -> None:
    x, y = exclusive()
    _, _, test = split(len(y))
    kinds = y + 2 * (np.abs(x[:, 2] + 20) > np.exp(2) * 0.7)
    logits = Mlp(widths=(32,), rate=0.01).fit(layer(x), [problem(kinds, kind="classes")])[0](layer(x))
    assert logits.shape == (len(y), 4) and accuracy_score(kinds[test], logits[test].argmax(1)) > 0.6
    labels, mask = np.stack([y, 1 - y], axis=1), np.ones((len(y), 2), dtype=bool)
    labels[1::2, 1], mask[1::2, 1] = y[1::2], False  # half of the second label is wrong, and does not count
    logits = Mlp(widths=(32,), rate=0.01).fit(layer(x), [problem(labels, kind="labels", mask=mask)])[0](layer(x))
    assert logits.shape == (len(y), 2)
    assert roc_auc_score(y[test], logits[test, 0]) > 0.9 and roc_auc_score(1 - y[test], logits[test, 1]) > 0.85


DESCENDING = [Mlp(widths=(8,)), Attention(heads=2, max_epochs=30)]


@pytest.mark.parametrize("probe", DESCENDING, ids=lambda probe: probe.name)
def test_descent_follows_the_problems_seed_and_leaves_the_global_one_alone(probe: Any) -> None:
    data, y = tokens(200)
    if probe.reads == "vector":
        x, y = planted(200, 4)
        data = layer(x)
    state = torch.get_rng_state()
    one, same, other = (probe.fit(data, [replace(problem(y), seed=seed)])[0](data) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(one, same) and not np.allclose(one, other)


@pytest.mark.parametrize("probe", DESCENDING, ids=lambda probe: probe.name)
def test_descent_that_ran_out_of_epochs_says_so(probe: Any) -> None:
    x, y = planted(80, 4)
    assert replace(probe, max_epochs=2).fit(layer(x), [problem(y)])[0].facts["converged"] == 0
    with pytest.raises(ConfigError, match="probe.patience=0 must be 1 or more"):
        replace(probe, patience=0)
    with pytest.raises(ConfigError, match="probe.rate=0.0 must be above 0"):
        replace(probe, rate=0.0)
    with pytest.raises(ProbeError, match="no validation rows"):
        probe.fit(layer(x), [replace(problem(y), val=np.zeros(80, dtype=bool))])


def test_early_stopping_keeps_the_best_epoch_and_not_the_last() -> None:
    x, y = planted(80, 40)
    y = np.random.default_rng(3).permutation(y)  # nothing to learn: more epochs only make validation worse
    fit = Mlp(widths=(64,), rate=0.03).fit(layer(x), [problem(y)])[0]
    _, val, _ = split(80)
    loss = np.logaddexp(0, -np.where(y > 0, 1, -1) * fit(layer(x)))[val].mean()
    assert fit.facts["val_loss"] == pytest.approx(loss, rel=1e-4)
    assert fit.facts["converged"] == 1 and loss < 0.75


# All tokens of a span.


def test_attention_over_padded_spans_is_a_loop_over_tokens() -> None:
    rng = np.random.default_rng(0)
    lengths, heads, outputs, width = [3, 1, 7, 4], 2, 3, 5
    rows = rng.normal(size=(sum(lengths), width))
    query, value = rng.normal(size=(heads, width)), rng.normal(size=(heads * outputs, width))
    bias = rng.normal(size=outputs)
    parameters = {"query": torch.tensor(query), "value": torch.tensor(value), "bias": torch.tensor(bias)}
    ours = attend(parameters, torch.tensor(rows), torch.tensor(lengths)).numpy()
    start = 0
    for logits, length in zip(ours, lengths, strict=True):
        expected = bias.copy()
        for head in range(heads):
            score = [np.exp(query[head] @ rows[start + t]) for t in range(length)]
            for t in range(length):
                for c in range(outputs):
                    expected[c] += score[t] / sum(score) * (value[head * outputs + c] @ rows[start + t])
        assert np.allclose(logits, expected)
        start += length


@pytest.mark.parametrize("memory", [1, 1 << 30])
def test_attention_finds_a_token_that_the_mean_misses(memory: int) -> None:
    data, y = tokens()
    _, _, test = split(len(y))
    probe = Attention(heads=2, rate=0.01, batch=32)
    fit = probe.fit(replace(data, compute=Compute(memory=memory)), [problem(y)])[0]
    mean = layer(np.add.reduceat(data.rows.numpy(), data.bounds[:-1]) / np.diff(data.bounds)[:, None])
    line = Logistic().fit(mean, [problem(y)])[0]
    assert roc_auc_score(y[test], fit(data)[test]) > 0.95 > 0.85 > roc_auc_score(y[test], line(mean)[test])
    assert fit.facts["converged"] == 1 and fit.arrays()["query"].shape == (2, 16)
    held_out = split(len(y))[1]
    margin = np.where(y > 0, 1, -1) * fit(data)
    assert fit.facts["val_loss"] == pytest.approx(np.logaddexp(0, -margin[held_out]).mean(), rel=1e-3)


def test_attention_begins_at_the_probe_of_means() -> None:
    data, y = tokens()
    shift = np.repeat(np.diff(data.bounds) * 4.0, np.diff(data.bounds))  # so tokens and means have different averages
    data = replace(data, rows=data.rows + torch.from_numpy(shift)[:, None])
    fit = Attention(heads=3, rate=1e-12, max_epochs=1).fit(data, [problem(y)])[0]
    mean = layer(np.add.reduceat(data.rows.numpy(), data.bounds[:-1]) / np.diff(data.bounds)[:, None])
    line = Logistic().fit(mean, [problem(y)])[0]
    assert fit.facts["from_mean"] == 1
    assert fit.facts["val_loss"] == pytest.approx(line.facts["val_loss"], rel=0.05)
    assert np.abs(fit(data) - line(mean)).mean() < 0.1 * line(mean).std()


def test_attention_tells_classes() -> None:
    data, y = tokens()
    _, _, test = split(len(y))
    kinds = y + (np.arange(len(y)) % 3 == 2) * (2 - y)  # a third class that nothing tells apart
    logits = Attention(heads=2, rate=0.01, batch=32).fit(data, [problem(kinds, kind="classes")])[0](data)
    known = test & (kinds < 2)
    assert logits.shape == (len(y), 3) and accuracy_score(y[known], logits[known, :2].argmax(1)) > 0.85


def test_spans_that_attention_cannot_read_are_named() -> None:
    data, y = tokens(40)
    bounds = data.bounds.copy()
    bounds[3] = bounds[2]
    with pytest.raises(ProbeError, match="lm.03@tokens: 40 decisions cut .* 1 of them empty"):
        Attention().fit(replace(data, bounds=bounds), [problem(y)])
    with pytest.raises(ProbeError, match="is of kind number"):
        Attention().fit(data, [problem(y * 1.0, kind="number")])
    data.rows[int(data.bounds[np.flatnonzero(split(40)[1])[0]]), 0] = torch.inf
    with pytest.raises(ProbeError, match="lm.03@tokens has 1 of"):
        Attention().fit(data, [problem(y)])
    with pytest.raises(ConfigError, match="probe.heads=0"):
        Attention(heads=0)
    with pytest.raises(ConfigError, match="probe.widths="):
        Mlp(widths=())


# Contrast pairs.


@pytest.mark.parametrize("variant", ["ccs", "crc"])
@pytest.mark.parametrize("memory", [1, 1 << 30])
def test_truth_is_found_without_labels_and_labels_give_its_sign(variant: str, memory: int) -> None:
    data, test, one = pairs()
    data = replace(data, compute=Compute(memory=memory))
    fit, reverse = Ccs(variant=variant).fit(data, [one, replace(one, y=1 - one.y)])
    logits = fit(data)
    assert accuracy_score(one.y[test], logits[test] > 0) > 0.95
    assert np.allclose(logits, -reverse(data), atol=1e-3) and fit.facts["converged"] == 1
    assert all(np.allclose(logits[data.pairs == pair].sum(), 0) for pair in np.unique(data.pairs))


def test_the_loss_of_pairs_is_the_published_one_at_its_minimum() -> None:
    data, _, one = pairs(40, 4)
    fit = Ccs(penalty=0.05).fit(data, [one])[0]
    theta, bias = fit.weights, fit.intercept[0]
    here = ccs_loss(data, one.train, theta, bias) + 0.025 * theta @ theta
    assert fit.facts["objective"] == pytest.approx(here, rel=1e-6)
    rng = np.random.default_rng(0)
    for _ in range(20):
        other = theta + rng.normal(size=4) * 0.05
        assert ccs_loss(data, one.train, other, bias) + 0.025 * other @ other > here
    stopped = Ccs(penalty=0.05, max_steps=3).fit(data, [one])[0]
    assert fit.facts["gradient"] <= 1e-6 < stopped.facts["gradient"] and not stopped.facts["converged"]
    one_start = Ccs(penalty=0.05, restarts=1).fit(data, [one])[0]
    assert fit.facts["objective"] <= one_start.facts["objective"] + 1e-9


def test_the_logit_of_a_pair_is_the_log_odds_of_both_halves() -> None:
    data, _, one = pairs(40, 4)
    fit = Ccs().fit(data, [one])[0]
    for pair in np.unique(data.pairs)[:5]:
        yes, no = (
            1 / (1 + np.exp(-((data.rows[row].numpy() - fit.mean[i]) / fit.scale[i] @ fit.weights + fit.intercept)))
            for i, row in enumerate(np.flatnonzero((data.pairs == pair) & (data.sides == side))[0] for side in (1, -1))
        )
        p = (yes + 1 - no) / 2
        plus = (data.pairs == pair) & (data.sides == 1)
        assert fit(data)[plus] == pytest.approx(fit.facts["sign"] * np.log(p / (1 - p)))


def test_the_component_of_pairs_is_that_of_a_singular_value_decomposition() -> None:
    data, _, one = pairs()
    x = data.rows.numpy()
    scaled = {side: StandardScaler().fit(x[one.train & (data.sides == side)]).transform(x) for side in (1, -1)}
    order = np.argsort(data.pairs, kind="stable")
    plus, minus = (order[one.train[order] & (data.sides[order] == side)] for side in (1, -1))
    axis = np.linalg.svd(scaled[1][plus] - scaled[-1][minus])[2][0]
    found = Ccs(variant="crc").fit(data, [one])[0].weights
    assert abs(axis @ found) == pytest.approx(1, abs=1e-8)


def test_pairs_of_equal_rows_have_no_direction() -> None:
    data, _, one = pairs(20, 3)
    for variant in ("ccs", "crc"):
        blind = replace(data, rows=torch.full((40, 3), 2.0))
        assert np.ptp(np.abs(Ccs(variant=variant).fit(blind, [one])[0](blind))) == 0
    narrow = replace(data, rows=data.rows[:, :1])
    assert np.isfinite(Ccs(variant="crc").fit(narrow, [one])[0](narrow)).all()


def test_pairs_that_cannot_be_used_are_named() -> None:
    data, _, one = pairs(20, 3)
    with pytest.raises(ProbeError, match="lm.03@last has no contrast pairs"):
        Ccs().fit(replace(data, pairs=None), [one])
    lonely = data.pairs.copy()
    lonely[np.flatnonzero(one.train)[0]] = -1
    with pytest.raises(ProbeError, match="1 of 20 rows belong to no contrast pair"):
        Ccs().fit(replace(data, pairs=lonely), [one])
    cut = one.train.copy()
    cut[np.flatnonzero(cut)[0]] = False
    with pytest.raises(ProbeError, match="1 of 10 contrast pairs are incomplete"):
        Ccs().fit(data, [replace(one, train=cut)])
    with pytest.raises(ProbeError, match="1 of 20 contrast pairs are incomplete"):
        sides = data.sides.copy()
        sides[np.flatnonzero(~one.train)[0]] *= -1
        Ccs().fit(data, [one])[0](replace(data, sides=sides))
    with pytest.raises(ProbeError, match="so the side would reveal it"):
        Ccs().fit(data, [replace(one, y=(data.sides > 0).astype(int))])
    with pytest.raises(ProbeError, match="have the same label; one must be true"):
        Ccs().fit(data, [replace(one, y=data.pairs % 2)])
    data.rows[np.flatnonzero(one.train)[0]] = torch.nan
    with pytest.raises(ProbeError, match="lm.03@last has 1 of"):
        Ccs().fit(data, [one])
    with pytest.raises(ConfigError, match="choose one of: ccs, crc"):
        Ccs(variant="pca")
    with pytest.raises(ConfigError, match="probe.restarts=0"):
        Ccs(restarts=0)


# Erasure.


def concept(kind: str, n: int = 400, width: int = 12) -> tuple[LayerData, Problem, np.ndarray]:
    """Rows that hold a concept of this kind in a few directions, and the concept as columns [N, K]."""
    rng = np.random.default_rng(1)
    z = {"binary": rng.integers(0, 2, n), "classes": rng.integers(0, 4, n), "number": rng.normal(size=n) * 3}[kind]
    columns = (z[:, None] == np.arange(4)).astype(float) if kind == "classes" else z[:, None].astype(float)
    x = (
        rng.normal(size=(n, width)) @ rng.normal(size=(width, width))
        + columns @ rng.normal(size=(columns.shape[1], width)) * 2
    )
    return layer(x * np.exp(np.arange(width) / 3) + 40), problem(z, kind=kind), columns


KINDS = ["binary", "classes", "number"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "lambdas"), [(400, Leace().lambdas), (60, Leace().lambdas), (60, (100.0,))])
def test_erased_training_rows_have_no_covariance_with_the_concept(
    kind: str, n: int, lambdas: tuple[float, ...]
) -> None:
    """Also where they are fewer than the columns; the edit is then larger than it must be, and says how much."""
    data, one, z = concept(kind, n, 12 if n > 60 else 40)
    x = data.rows.numpy()[one.train]
    eraser = Leace(lambdas=lambdas).fit(data, one)
    erased = eraser(data.rows).numpy()[one.train]
    centred = z[one.train] - z[one.train].mean(0)
    between = x - x.mean(0) - (centred @ np.linalg.lstsq(centred, x - x.mean(0), rcond=None)[0])
    least = (
        (x - x.mean(0) - between).var(0).sum()
    )  # what the labels themselves tell of the rows: all others must go too
    edit = np.square(erased - x).sum(1).mean()
    assert eraser.facts["edit"] == pytest.approx(edit) and ("lambda" in eraser.facts) == (n == 60)
    assert eraser.facts["edit_ratio"] == pytest.approx(edit / least if n == 60 else 1.0)
    assert edit >= least * (1 - 1e-9)
    left = (erased - erased.mean(0)).T @ (z[one.train] - z[one.train].mean(0)) / one.train.sum()
    before = (x - x.mean(0)).T @ (z[one.train] - z[one.train].mean(0)) / one.train.sum()
    assert np.abs(left).max() < 1e-9 * np.abs(before).max()
    assert np.allclose(erased.mean(0), x.mean(0))


@pytest.mark.parametrize("kind", KINDS)
def test_erasure_is_the_published_projection(kind: str) -> None:
    """Theorem 4.3 by matrices: x - W^+ P W (x - mu), W the inverse root of the covariance."""
    data, one, z = concept(kind)
    x = data.rows.numpy()
    mu, centred = x[one.train].mean(0), x[one.train] - x[one.train].mean(0)
    sigma = centred.T @ centred / len(centred)
    shared = centred.T @ (z[one.train] - z[one.train].mean(0)) / len(centred)
    values, vectors = np.linalg.eigh(sigma)
    whiten, colour = (vectors * values**power @ vectors.T for power in (-0.5, 0.5))
    basis = np.linalg.svd(whiten @ shared, full_matrices=False)
    basis = basis[0][:, basis[1] > 1e-9 * basis[1][0]]
    expected = x - (x - mu) @ (colour @ basis @ basis.T @ whiten).T
    assert basis.shape[1] == {"classes": 3}.get(kind, 1)
    scale = np.abs(x - expected).max()
    assert np.allclose(Leace().fit(data, one)(data.rows).numpy(), expected, atol=1e-5 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_erasure_is_that_of_the_reference_library(kind: str) -> None:
    library = pytest.importorskip("concept_erasure")
    data, one, z = concept(kind)
    fitter = library.LeaceFitter(
        12, z.shape[1], dtype=torch.float64, shrinkage=False, constrain_cov_trace=False, svd_tol=1e-9
    )
    theirs = fitter.update(data.rows[one.train], torch.from_numpy(z[one.train])).eraser(data.rows)
    scale = float((data.rows - theirs).abs().max())
    assert torch.allclose(Leace().fit(data, one)(data.rows), theirs, atol=1e-5 * scale)


@pytest.mark.parametrize(("n", "width"), [(400, 12), (400, 60), (600, 140)])
def test_the_edit_is_no_larger_than_that_of_the_reference_library(n: int, width: int) -> None:
    """Where the label is faint, a strong penalty predicts best, and would take far more than must be taken."""
    library = pytest.importorskip("concept_erasure")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    x = rng.normal(size=(n, width)) / np.arange(1, width + 1) @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    data, one = layer(x + y[:, None] * rng.normal(size=width) * 0.03 / np.sqrt(width)), problem(y)
    fitter = library.LeaceFitter(
        width, 1, dtype=torch.float64, shrinkage=False, constrain_cov_trace=False, svd_tol=1e-12
    )
    before = data.rows[one.train]
    theirs = fitter.update(before, torch.from_numpy(y[one.train, None] * 1.0)).eraser(before)
    eraser = Leace().fit(data, one)
    sizes = [float((erased - before).square().sum()) for erased in (eraser(before), theirs)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    assert eraser.facts["edit_ratio"] == pytest.approx(1.0, abs=1e-6)


def test_rows_that_repeat_count_once() -> None:
    """Four decisions a picture that read one row: as many rows as four times the columns determine nothing."""
    data, one, _ = concept("binary", 60, 40)
    again = Problem(*(np.repeat(part, 4) for part in (one.y, one.train, one.val)))
    assert "lambda" in Leace().fit(replace(data, rows=data.rows.repeat_interleave(4, 0)), again).facts


def test_no_probe_beats_a_constant_after_erasure_and_other_rows_are_at_chance() -> None:
    data, one, _ = concept("binary")
    test = split(len(one.y))[2]
    erased = replace(data, rows=Erased(data.rows, Leace().fit(data, one)))
    before, after = (Logistic(lambdas=(1e-4,)).fit(rows, [one])[0] for rows in (data, erased))
    share = one.y[one.train].mean()
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert before.facts["objective"] < 0.5 * entropy
    assert after.facts["objective"] == pytest.approx(entropy, rel=1e-6) and np.ptp(after(erased)) < 1e-3
    assert roc_auc_score(one.y[test], before(data)[test]) > 0.95
    again = Logistic().fit(erased, [Problem(one.y, test, one.val)])[0]  # even one trained on what it was not fitted to
    assert erased.rows.shape == data.rows.shape and len(erased) == 400
    assert abs(roc_auc_score(one.y[one.val], again(erased)[one.val]) - 0.5) < 0.15
    data, number, _ = concept("number")
    erased = replace(data, rows=Erased(data.rows, Leace().fit(data, number)))
    assert r2_score(number.y[test], Ridge().fit(data, [number])[0](data)[test]) > 0.8
    assert abs(r2_score(number.y[test], Ridge().fit(erased, [number])[0](erased)[test])) < 0.1


def test_an_eraser_takes_chunks_of_any_type_and_keeps_low_rank_factors_only() -> None:
    data, one, _ = concept("classes")
    eraser = Leace().fit(data, one)
    halves = data.rows.half()
    assert eraser(halves).dtype is torch.float32 and eraser(data.rows[:0]).shape == (0, 12)
    assert torch.allclose(eraser(halves[3:9]), eraser(halves)[3:9])
    assert {part.shape for part in eraser.arrays().values()} == {(12,), (4, 12)}
    assert eraser.facts["converged"] == 1
    nothing = replace(data, rows=torch.full((400, 5), 3.0))
    assert torch.equal(Leace().fit(nothing, one)(nothing.rows), nothing.rows)


def test_what_cannot_be_erased_is_named() -> None:
    data, one, _ = concept("binary")
    with pytest.raises(ProbeError, match="probe leace fits binary, classes, number, and the target is of kind labels"):
        Leace().fit(data, replace(one, kind="labels", y=one.y[:, None]))
    with pytest.raises(ProbeError, match="training rows have the label 0"):
        Leace().fit(data, replace(one, y=0 * one.y))
    data.rows[int(np.flatnonzero(one.train)[0]), 2] = torch.nan
    with pytest.raises(ProbeError, match="lm.03@last has 1 of 200 rows"):
        Leace().fit(data, one)
    with pytest.raises(ConfigError, match="probe.lambdas="):
        Leace(lambdas=())
