"""What a fit stores is what it said: logits and facts follow from the arrays alone, by formulas written out here."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from scipy.special import expit, log_softmax, logsumexp

from mllm_probe.cache.coverage import StoredRows
from mllm_probe.probes.attention import Attention
from mllm_probe.probes.ccs import Ccs
from mllm_probe.probes.k_sparse import KSparse
from mllm_probe.probes.logistic import Logistic
from mllm_probe.probes.majority import Majority
from mllm_probe.probes.mean_difference import MeanDifference
from mllm_probe.probes.mlp import Mlp
from mllm_probe.probes.ridge import Ridge
from mllm_probe.probes.solving import linear
from mllm_probe.probes.solving.standardised import Features
from mllm_probe.records.problems import LayerData, Problem
from tests.support.planted import ccs_loss, pairs, planted, problem, tokens

Stored = dict[str, np.ndarray]


def reloaded(fit: Any, folder: Path) -> Stored:
    save_file({name: np.ascontiguousarray(array) for name, array in fit.arrays().items()}, folder / "fit.safetensors")
    return load_file(folder / "fit.safetensors")


def line(a: Stored, x: np.ndarray) -> np.ndarray:
    z = ((x - a["mean"]) / a["scale"]) @ np.atleast_2d(a["weights"]).T + a["intercept"]
    return z[:, 0] if a["weights"].ndim == 1 else z


def hidden(a: Stored, x: np.ndarray) -> np.ndarray:
    inside = np.maximum((x - a["mean"]) / a["scale"] @ a["hidden"].T + a["hidden_bias"], 0)
    z = (inside @ a["out"].T + a["out_bias"]) * a["unit"] + a["origin"]
    return z[:, 0] if z.shape[1] == 1 else z


def loss(z: np.ndarray, one: Problem, rows: np.ndarray, by_cell: bool = False) -> float:
    """Mean over the rows; of several labels over each one's rows that count first, or over all cells."""
    if one.kind == "classes":
        return float(-log_softmax(z[rows], axis=1)[np.arange(rows.sum()), one.y[rows]].mean())
    if one.kind == "number":
        return float(((z - one.y)[rows] ** 2).mean() / 2)
    cells = np.logaddexp(0, np.where(one.y > 0, -z, z))
    if one.kind == "binary":
        return float(cells[rows].mean())
    counted = one.mask & rows[:, None]  # type: ignore[operator]
    return float(cells[counted].mean() if by_cell else ((cells * counted).sum(0) / counted.sum(0)).mean())


def made(kind: str) -> tuple[LayerData, Problem]:
    x, y = planted(240, 8)
    rng = np.random.default_rng(2)
    several, shown = np.stack([y, rng.integers(0, 2, 240)], axis=1), rng.random((240, 2)) < 0.8
    target = {"binary": y, "classes": y + (x[:, 0] > 30), "labels": several, "number": x[:, 1] + rng.normal(size=240)}
    return LayerData(torch.from_numpy(x)), problem(target[kind], kind=kind, mask=shown if kind == "labels" else None)


@pytest.mark.parametrize(
    ("probe", "kind"),
    [
        *((Logistic(), kind) for kind in ("binary", "classes", "labels")),
        *((Ridge(), kind) for kind in ("number", "binary")),
        (KSparse(k=3), "binary"),
        (MeanDifference(), "binary"),
        (MeanDifference(covariance=True), "binary"),
        (MeanDifference(covariance=True, standardise=False), "binary"),
        *((Mlp(widths=(8,), rate=0.01, max_epochs=20), kind) for kind in ("binary", "classes", "labels", "number")),
    ],
)
def test_probes_of_vectors_say_what_their_arrays_say(probe: Any, kind: str, tmp_path: Path) -> None:
    data, one = made(kind)
    (fit,) = probe.fit(data, [one])
    a, x = reloaded(fit, tmp_path), data.rows.numpy()  # type: ignore[attr-defined]
    x = x[:, a["columns"]] if "columns" in a else x
    z = hidden(a, x) if "hidden" in a else line(a, x)
    assert fit(data) == pytest.approx(z, rel=1e-4, abs=1e-4) if "hidden" in a else fit(data) == pytest.approx(z)
    squared = isinstance(probe, Ridge)
    scored = (
        Problem(np.where(one.y > 0, 1.0, -1.0), one.train, one.val, "number") if squared * (kind == "binary") else one
    )
    if "val_loss" in fit.facts:
        unit = a["unit"][0] ** 2 if kind == "number" and "unit" in a else 1.0  # an mlp learns numbers in deviations
        assert fit.facts["val_loss"] == pytest.approx(loss(z, scored, one.val, "hidden" in a) / unit, rel=1e-4)
    if "objective" in fit.facts:
        weights = np.atleast_2d(a["weights"])
        size = (weights**2).sum() / (len(weights) if kind == "labels" else 1)
        told = loss(z, scored, one.train) + fit.facts["lambda"] / 2 * size
        assert fit.facts["objective"] == pytest.approx(told, rel=1e-9)


def test_attention_says_what_its_arrays_say(tmp_path: Path) -> None:
    data, y = tokens(80)
    one = problem(y)
    (fit,) = Attention(heads=2, rate=0.01, max_epochs=5).fit(data, [one])
    a, z = reloaded(fit, tmp_path), []
    for start, stop in zip(data.bounds[:-1], data.bounds[1:], strict=True):  # type: ignore[index]
        x = (data.rows.numpy()[start:stop] - a["mean"]) / a["scale"]  # type: ignore[attr-defined]
        scores = x @ a["query"].T
        z.append((np.exp(scores - logsumexp(scores, axis=0)) * (x @ a["value"].T)).sum() + a["bias"][0])
    assert fit(data) == pytest.approx(np.asarray(z), rel=1e-3, abs=1e-4)
    assert fit.facts["val_loss"] == pytest.approx(loss(np.asarray(z), one, one.val), rel=1e-4)


class Counted(Features):
    """Features that tell how many rows they hold."""

    seen: ClassVar[list[int]] = []

    def __init__(self, data: LayerData, used: np.ndarray) -> None:
        super().__init__(data, used)
        self.seen.append(self.n)


@pytest.mark.parametrize(
    ("probe", "kind"),
    [
        (Logistic(), "binary"),
        (Logistic(lambdas=(1e-6,)), "binary"),
        (Logistic(), "classes"),
        (Logistic(), "labels"),
        (Ridge(), "binary"),
    ],
)
def test_rows_that_many_read_are_fitted_once_and_say_the_same(
    probe: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 stored rows, read by 240 decisions of any labels; some are read in training and in validation."""
    monkeypatch.setattr(linear, "Features", Counted)
    data, one = made(kind)
    place = np.random.default_rng(3).integers(0, 80, 240)
    stored = StoredRows((data.rows[:40], data.rows[40:80]), place // 40, place % 40)
    apart, used = LayerData(stored[:]), one.train | one.val
    assert set(place[one.train]) & set(place[one.val])
    Counted.seen.clear()
    (whole,), (merged,) = probe.fit(apart, [one]), probe.fit(LayerData(stored), [one])
    assert Counted.seen == [used.sum(), used.sum() if isinstance(probe, Ridge) else len(np.unique(place[used]))]
    for name in ("lambda", "val_loss", "objective", "reach"):
        assert merged.facts[name] == pytest.approx(whole.facts[name], rel=1e-9), name
    for name, array in whole.arrays().items():
        assert merged.arrays()[name] == pytest.approx(array, rel=1e-7, abs=1e-9), name
    assert (np.sign(merged(apart)) == np.sign(whole(apart))).all()


@pytest.mark.parametrize("variant", ["ccs", "crc"])
@pytest.mark.parametrize("turned", [False, True])
def test_pairs_say_what_their_arrays_say(variant: str, turned: bool, tmp_path: Path) -> None:
    """The stored weights have the stored objective, whichever way the labels turn the logits."""
    data, _, one = pairs(40, 4)
    one = Problem(1 - one.y if turned else one.y, one.train, one.val)
    (fit,) = Ccs(variant=variant).fit(data, [one])
    a, x = reloaded(fit, tmp_path), data.rows.numpy()  # type: ignore[attr-defined]
    if variant == "ccs":
        told = ccs_loss(data, one.train, a["weights"], a["intercept"][0]) + 0.005 * (a["weights"] ** 2).sum()
        assert fit.facts["objective"] == pytest.approx(told, rel=1e-9)
    for pair in np.unique(data.pairs):  # type: ignore[arg-type]
        plus, minus = (int(np.flatnonzero((data.pairs == pair) & (data.sides == side))[0]) for side in (1, -1))
        up, down = (
            (x[row] - a["mean"][i]) / a["scale"][i] @ a["weights"] + a["intercept"][0]
            for i, row in enumerate((plus, minus))
        )
        p = (expit(up) + 1 - expit(down)) / 2
        z = a["sign"][0] * (up - down if variant == "crc" else np.log(p / (1 - p)))
        assert fit(data)[[plus, minus]] == pytest.approx([z, -z])


@pytest.mark.parametrize("kind", ["binary", "classes", "labels", "number"])
def test_the_floor_says_what_its_array_says(kind: str, tmp_path: Path) -> None:
    data, one = made(kind)
    (fit,) = Majority().fit(data, [one])
    stored = reloaded(fit, tmp_path)["intercept"]
    assert (fit(data) == (stored if fit(data).ndim > 1 else stored[0])).all()
