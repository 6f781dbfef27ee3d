"""The solver against scikit-learn: same optimum, in memory and streamed, whatever the shape, the loss and the split."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.preprocessing import StandardScaler

from mllm_probe.errors import ProbeError
from mllm_probe.probes.logistic import Logistic
from mllm_probe.probes.ridge import Ridge
from mllm_probe.probes.solving import linear as linear_module
from mllm_probe.probes.solving import standardised
from mllm_probe.probes.solving.iterates import GAP
from mllm_probe.probes.solving.linear import LinearFit, logits_of
from mllm_probe.probes.solving.objectives import newton_direction, newton_direction_of_classes
from mllm_probe.probes.solving.standardised import Basis, Features
from mllm_probe.records.problems import Compute, LayerData, Problem

LAMBDAS = (1e-4, 1e-2, 1.0)


def layer(n: int, width: int, seed: int = 0, **compute: int) -> LayerData:
    """Correlated features of very unequal scales and large means."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) * np.exp(rng.normal(size=width)) + 50
    return LayerData(torch.from_numpy(x).float(), name="lm.07@last", compute=Compute(**compute))  # type: ignore[arg-type]


def values(data: LayerData) -> np.ndarray:
    return data.rows[:].double().numpy()


def noisy(data: LayerData, classes: int = 2, seed: int = 1) -> np.ndarray:
    """Labels from noisy directions."""
    rng = np.random.default_rng(seed)
    x = StandardScaler().fit_transform(values(data))
    score = x @ rng.normal(size=(x.shape[1], classes)) / np.sqrt(x.shape[1]) + rng.gumbel(size=(len(x), classes))
    return score.argmax(axis=1)


def split(n: int, share: float = 0.7, seed: int = 0) -> np.ndarray:
    chosen = np.zeros(n, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(n)[: int(share * n)]] = True
    return chosen


def by_scikit_learn(x: np.ndarray, y: np.ndarray, train: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Logits of all rows and the objective of one problem."""
    scaler = StandardScaler().fit(x[train])
    z = scaler.transform(x)
    model = LogisticRegression(C=1 / (penalty * train.sum()), tol=1e-10, max_iter=50_000).fit(z[train], y[train])
    w, b = model.coef_, model.intercept_
    logits = z @ w.T + b
    return logits, cross_entropy(logits[train], y[train]) + penalty / 2 * float((w * w).sum())


def cross_entropy(logits: np.ndarray, y: np.ndarray) -> float:
    if logits.shape[1] == 1:
        return float(np.logaddexp(0, -np.where(y > 0, 1, -1) * logits[:, 0]).mean())
    shifted = logits - logits.max(axis=1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]).mean())


@pytest.mark.parametrize(("n", "width"), [(400, 20), (120, 300), (600, 128)])
@pytest.mark.parametrize("classes", [2, 4])
def test_every_problem_of_a_layer_has_scikit_learns_optimum(n: int, width: int, classes: int) -> None:
    """Two seeds with their own train rows and standardisation, real and shuffled labels, three strengths, at once."""
    data = layer(n, width)
    y, kind = noisy(data, classes), "binary" if classes == 2 else "classes"
    shuffled = np.random.default_rng(5).permutation(y)
    trains = [split(n, seed=seed) for seed in (0, 1)]
    for penalty in LAMBDAS:
        problems = [Problem(labels, train, ~train, kind) for labels in (y, shuffled) for train in trains]
        fits = Logistic(lambdas=(penalty,)).fit(data, problems)
        for problem, fit in zip(problems, fits, strict=True):
            theirs, objective = by_scikit_learn(values(data), problem.y, problem.train, penalty)
            ours = fit(data) if classes > 2 else fit(data)[:, None]
            assert fit.facts["converged"] and fit.facts["gap"] <= GAP
            assert abs(fit.facts["objective"] - objective) <= 1e-6 * objective
            reached = cross_entropy(ours[problem.train], problem.y[problem.train])
            assert reached + penalty / 2 * float((fit.weights**2).sum()) == pytest.approx(objective, rel=2e-6)
            decide = (lambda z: z[:, 0] > 0) if classes == 2 else (lambda z: z.argmax(axis=1))
            assert np.mean(decide(ours) == decide(theirs)) >= 0.99
            assert np.abs(ours - theirs).max() <= 0.02 * np.abs(theirs).max()


def test_predictions_equal_scikit_learns_on_a_large_layer() -> None:
    data = layer(3000, 200)
    y, train = noisy(data), split(3000)
    for penalty in LAMBDAS:
        (fit,) = Logistic(lambdas=(penalty,)).fit(data, [Problem(y, train, ~train)])
        theirs, _ = by_scikit_learn(values(data), y, train, penalty)
        assert np.mean((fit(data) > 0) == (theirs[:, 0] > 0)) >= 0.999


def test_masked_labels_are_problems_of_their_own() -> None:
    """Each label's optimum is that of scikit-learn on the rows where it counts; the strength is common."""
    data = layer(500, 30)
    y = np.stack([noisy(data, seed=s) for s in (1, 2, 3)], axis=1)
    mask = np.random.default_rng(0).random(y.shape) < 0.6
    train = split(500)
    (fit,) = Logistic(lambdas=(1e-2,)).fit(data, [Problem(y, train, ~train, "labels", mask)])
    scaler = StandardScaler().fit(values(data)[train])
    for label in range(3):
        rows = train & mask[:, label]
        model = LogisticRegression(C=1 / (1e-2 * rows.sum()), tol=1e-10, max_iter=50_000)
        model.fit(scaler.transform(values(data)[rows]), y[rows, label])
        assert np.allclose(fit(data)[:, label], model.decision_function(scaler.transform(values(data))), atol=2e-3)


@pytest.mark.parametrize(("n", "width"), [(300, 40), (90, 200)])
def test_ridge_has_scikit_learns_optimum(n: int, width: int) -> None:
    data, train = layer(n, width), split(n)
    y = values(data)[:, :3].sum(axis=1) / 50 + np.random.default_rng(0).normal(size=n)
    for penalty in LAMBDAS:
        (fit,) = Ridge(lambdas=(penalty,)).fit(data, [Problem(y, train, ~train, "number")])
        scaler = StandardScaler().fit(values(data)[train])
        model = SklearnRidge(alpha=penalty * train.sum(), solver="svd").fit(
            scaler.transform(values(data)[train]), y[train]
        )
        theirs = model.predict(scaler.transform(values(data)))
        assert fit.facts["converged"]
        assert np.abs(fit(data) - theirs).max() <= 5e-3 * np.ptp(theirs)


def test_the_strength_is_chosen_on_validation_rows() -> None:
    data = layer(400, 30)
    y, train = noisy(data), split(400)
    val = ~train & split(400, 0.6, seed=3)
    (fit,) = Logistic().fit(data, [Problem(np.where(train | val, y, 0), train, val)])
    losses = {}
    for penalty in Logistic().lambdas:
        logits, _ = by_scikit_learn(values(data), y, train, penalty)
        losses[penalty] = cross_entropy(logits[val], y[val])
    assert fit.facts["lambda"] == min(losses, key=losses.__getitem__)
    assert fit.facts["val_loss"] == pytest.approx(min(losses.values()), rel=1e-4)


def test_the_strength_does_not_depend_on_the_size_of_the_target() -> None:
    data, train = layer(200, 40), split(200)
    y = values(data)[:, 0] / 50 + np.random.default_rng(0).normal(size=200)
    chosen = {Ridge().fit(data, [Problem(y * size, train, ~train, "number")])[0].facts["lambda"] for size in (1, 1e-7)}
    assert len(chosen) == 1


def test_a_strength_that_cannot_be_solved_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = torch.tensor([[3.0, torch.nan, 1.0], [torch.nan, 2.0, torch.nan]])
    assert linear_module.first_best(losses).tolist() == [2, 1]
    with pytest.raises(ProbeError, match="no strength of probe.lambdas could be solved"):
        linear_module.first_best(torch.full((1, 2), torch.nan))


def test_streaming_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same problems with room for no feature at all: every product reads the rows in chunks."""
    data = layer(700, 60)
    y, train = noisy(data), split(700)
    (held,) = Logistic().fit(data, [Problem(y, train, ~train)])
    monkeypatch.setattr("mllm_probe.probes.solving.standardised.CHUNK_BYTES", 8 * 60 * 64)
    streamed_data = LayerData(data.rows, compute=Compute(memory=1000))
    assert Features(streamed_data, train).streamed
    (streamed,) = Logistic().fit(streamed_data, [Problem(y, train, ~train)])
    assert streamed.facts["lambda"] == held.facts["lambda"]
    assert np.allclose(streamed(streamed_data), held(data), atol=1e-7)


def test_problems_that_do_not_fit_together_are_solved_in_turns() -> None:
    data = layer(300, 20, memory=300 * 20 * 4 + 60_000)
    y = noisy(data)
    problems = [Problem(y, train, ~train) for train in (split(300, seed=s) for s in range(4))]
    alone = [Logistic().fit(data, [problem])[0] for problem in problems]
    together = Logistic().fit(LayerData(data.rows), problems)
    for a, b in zip(alone, together, strict=True):
        assert a.facts["lambda"] == b.facts["lambda"] and np.allclose(a(data), b(data), atol=1e-7)


@pytest.mark.parametrize(("n", "width", "full"), [(500, 80, 1536), (60, 90, 1536), (500, 80, 32)])
def test_the_basis_is_an_approximate_inverse(n: int, width: int, full: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full, from rows, and leading directions only: applied to the true curvature it gives almost the identity."""
    monkeypatch.setattr(standardised, "FULL", full)
    monkeypatch.setattr(standardised, "LEADING", 48)
    data = layer(n, width)
    features = Features(data, np.ones(n, dtype=bool))
    basis, x = Basis.of(features), StandardScaler().fit_transform(values(data))
    curvature = torch.from_numpy(0.25 * x.T @ x / n + 0.01 * np.eye(width)).float()
    one = torch.ones(1)
    inverse = basis.solve(torch.eye(width)[None], 0.25 * one[None], 0.01 * one)[0]
    condition = torch.linalg.eigvals(inverse @ curvature).real
    plain, reached = float(torch.linalg.cond(curvature)), float(condition.max() / condition.min())
    assert plain > 30
    assert reached < ((1.5 if n < width else 1.01) if full > 1000 else plain / 3)


@pytest.mark.parametrize("way", ["leading directions only", "no Newton", "neither"])
def test_every_way_to_the_optimum_ends_there(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly separable labels and a weak penalty, where the ways differ most: the optimum does not."""
    if way != "no Newton":
        monkeypatch.setattr(standardised, "FULL", 16)
        monkeypatch.setattr(standardised, "LEADING", 8)
    if way != "leading directions only":
        monkeypatch.setattr("mllm_probe.probes.solving.objectives.AFFORDABLE", 0)
    data = layer(150, 60)
    y, train = noisy(data), split(150)
    (fit,) = Logistic(lambdas=(1e-4,)).fit(data, [Problem(y, train, ~train)])
    theirs, objective = by_scikit_learn(values(data), y, train, 1e-4)
    assert fit.facts["converged"] and abs(fit.facts["objective"] - objective) <= 1e-6 * objective
    assert np.mean((fit(data) > 0) == (theirs[:, 0] > 0)) == 1


@pytest.mark.parametrize("way", ["exact", "blocks", "shared steps only"])
def test_every_way_to_the_optimum_of_classes_ends_there(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shuffled labels of four classes and a weak penalty: the softmax optimum of scikit-learn."""
    monkeypatch.setattr("mllm_probe.probes.solving.iterates.TRIED", 2)
    if way != "exact":
        monkeypatch.setattr("mllm_probe.probes.solving.objectives.AFFORDABLE", 0)
    if way == "shared steps only":
        monkeypatch.setattr("mllm_probe.probes.solving.iterates.BLOCKS", 0)
    data, train = layer(160, 24), split(160)
    y = np.random.default_rng(5).permutation(noisy(data, 4))
    (fit,) = Logistic(lambdas=(1e-4,)).fit(data, [Problem(y, train, ~train, "classes")])
    theirs, objective = by_scikit_learn(values(data), y, train, 1e-4)
    assert fit.facts["converged"] and abs(fit.facts["objective"] - objective) <= 1e-6 * objective
    assert np.mean(fit(data).argmax(1) == theirs.argmax(1)) == 1


def test_hard_classes_take_few_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise labels of rows that are nearly alike: steps that all problems share take more than 500 products."""
    rng = np.random.default_rng(0)
    kinds, turned = rng.normal(size=(12, 128)), np.linalg.qr(rng.normal(size=(128, 128)))[0]
    x = kinds[rng.integers(0, 12, 240)] + 0.05 * (rng.normal(size=(240, 128)) / np.arange(1, 129) ** 1.5) @ turned
    products, times = [], Features.times
    monkeypatch.setattr(Features, "times", lambda self, weights: products.append(1) or times(self, weights))
    train = split(240)
    problem = Problem(rng.integers(0, 3, 240), train, ~train, "classes")
    (fit,) = Logistic().fit(LayerData(torch.from_numpy(x).float()), [problem])
    assert fit.facts["converged"] and len(products) < 250


@pytest.mark.parametrize("classes", [2, 5])
def test_newtons_direction_of_classes_solves_the_second_order_system(classes: int) -> None:
    """Against the full matrix with the intercepts written out; directions that move all intercepts alike are free."""
    rng = np.random.default_rng(0)
    x, weight, g = rng.normal(size=(50, 6)), rng.random(50), rng.normal(size=(classes, 6))
    weight[:5] = 0  # rows outside training
    p = rng.dirichlet(np.ones(classes), 50).T
    ones = np.c_[x, np.ones(50)]
    bend = np.einsum("an,ab->nab", p, np.eye(classes)) - np.einsum("an,bn->nab", p, p)
    hessian = np.einsum("n,nab,ni,nj->aibj", weight, bend, ones, ones).reshape(7 * classes, -1)
    hessian += np.kron(np.eye(classes), np.diag([0.01] * 6 + [0.0]))
    expected = -np.linalg.lstsq(hessian, np.c_[g, np.zeros(classes)].ravel())[0].reshape(classes, 7)[:, :6]
    tensors = (torch.from_numpy(part) for part in (x, p, weight))
    found = newton_direction_of_classes(*tensors, 0.01, torch.from_numpy(g))
    assert np.allclose(found.numpy(), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("n", "width"), [(60, 20), (20, 60)])
def test_newtons_direction_solves_the_second_order_system(n: int, width: int) -> None:
    """By columns and by rows (Woodbury), against the full matrix with the intercept written out."""
    rng = np.random.default_rng(0)
    x, s, g = rng.normal(size=(n, width)), rng.random(n), rng.normal(size=width)
    s[:5] = 0  # rows outside training
    ones = np.c_[x, np.ones(n)]
    hessian = ones.T @ (ones * s[:, None]) + np.diag([0.01] * width + [0.0])
    expected = -np.linalg.solve(hessian, np.append(g, 0.0))[:-1]
    x, s, g = (torch.from_numpy(part) for part in (x, s, g))
    assert np.allclose(newton_direction(x, s, 0.01, g).numpy(), expected, rtol=1e-8, atol=1e-8)


def test_linear_fits_predict_together_as_alone() -> None:
    data = layer(100, 12)
    y = noisy(data, 3)
    fits = [
        *Logistic().fit(data, [Problem(y, split(100), ~split(100), "classes")]),
        *Logistic().fit(data, [Problem((y > 0).astype(int), split(100), ~split(100))]),
    ]
    x = values(data)
    for fit, z in zip(fits, logits_of(fits, data), strict=True):
        assert isinstance(fit, LinearFit)
        by_hand = ((x - fit.mean) / fit.scale) @ fit.weights.T + fit.intercept
        assert np.allclose(z, by_hand.reshape(z.shape), atol=1e-8) and np.allclose(fit(data), z)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_solves_as_the_cpu_does() -> None:
    data = layer(600, 100)
    y, train = noisy(data), split(600)
    problem = Problem(y, train, ~train)
    (here,) = Logistic().fit(data, [problem])
    (there,) = Logistic().fit(LayerData(data.rows, compute=Compute("cuda")), [problem])
    assert there.facts["objective"] == pytest.approx(here.facts["objective"], rel=1e-6)
    assert np.allclose(here(data), there(data), atol=1e-7)
