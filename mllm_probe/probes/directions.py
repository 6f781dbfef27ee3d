"""Directions in the states of one site along which a label lies, their null, and erasers with theirs. Not a probe.

All are made of training rows alone, in raw units and float64, and none but leace needs a D x D matrix. Letters in
shapes: n training rows (where a position has several, one for each token), D width, R random draws.

class_mean   mean of label 1 less that of label 0 (Marks and Tegmark 2023, arXiv 2310.06824, section 5)
weights      w of the logistic probe for raw states: what is read
pattern      Sigma w / (w' Sigma w), Sigma the covariance of all training rows: what the states do as the logit rises by
             one (Haufe et al. 2014, doi 10.1016/j.neuroimage.2013.10.067, theorem 1)
leace        Sigma^+ Sigma_xz, the rows' coordinate that LEACE takes away (see `leace`). What it takes it away along is
             Sigma_xz, which for two labels is class_mean but for its length
random       X'z / |X'z|, z normal with mean 0 in each class: the covariance of rows of one label. That of all rows
             would be no null: where the label is most of what differs between rows, it gives that direction again
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from mllm_probe.probes.leace import Eraser, Leace
from mllm_probe.probes.logistic import Logistic
from mllm_probe.probes.solving.class_means import Contrast
from mllm_probe.probes.solving.standardised import Features
from mllm_probe.records.problems import LayerData, Problem, check_problems

ROUNDING = 1e-9  # of the rows' norm: sums of nothing else are no direction


@dataclass(frozen=True)
class Directions:
    """Of one site. `units` {name: unit vector [D]}, a step along which is one towards label 1; those that the rows do
    not give are missing, as where all rows are equal. `scale` is the root mean square of the training rows' Euclidean
    norms. `random` [R, D] are unit vectors, draw by draw from the same random numbers at every site; `control` is the
    class_mean of the control task, None without one. `facts` are those of the logistic fit.
    """

    units: Mapping[str, np.ndarray]
    scale: float
    random: np.ndarray
    control: np.ndarray | None = None
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Erasers:
    """Of one site: LEACE of the label, and the control, random directions taken away whole; none where the rows of a
    class are all equal. Their fact `edit` is the mean squared change of a training row."""

    label: Eraser
    random: tuple[Eraser, ...]


def directions_of(
    data: LayerData,
    problem: Problem,
    control: Problem | None = None,
    random_draws: int = 100,
    seed: int = 0,
    probe: Logistic | None = None,
) -> Directions:
    """`problem` is binary, `control` that of the control task on the same rows; validation rows only choose the
    strength of the `probe` (None: the default one). Raises ProbeError."""
    check_problems(data, [problem], ("binary",), "directions")
    (data, problem), own = _by_row(data, problem), control and _by_row(data, control)[1]
    features = Features(data, problem.train)
    fit = (probe or Logistic()).fit(data, [problem])[0]
    weights = fit.weights / fit.scale
    vectors = {
        "class_mean": _class_mean(features, problem),
        "pattern": _pattern(features, weights),
        "weights": weights,
        "leace": Leace().fit(data, problem).right[0],
    }
    scale = _norm(features)
    units = {name: unit for name, vector in vectors.items() if (unit := _unit(vector)) is not None}
    told = None if own is None else _unit(_class_mean(features, own))
    return Directions(units, scale, random_directions(data, problem, random_draws, seed), told, fit.facts)


def random_directions(data: LayerData, problem: Problem, n: int, seed: int) -> np.ndarray:
    """Unit vectors [n, D]: sums of the training rows with normal weights of mean 0 in each class, so that before they
    are given length 1 their covariance is that within the classes. The weights are those of `seed` whatever the site.
    Where all rows of a class are equal there are none, [0, D]."""
    data, problem = _by_row(data, problem)
    features, y = Features(data, problem.train), problem.y[problem.train]
    z = np.random.default_rng(seed).normal(size=(n, features.n))
    for label in np.unique(y):
        z[:, y == label] -= z[:, y == label].mean(axis=1, keepdims=True)
    drawn = features.back(torch.from_numpy(z).to(features.device)) * _spread(features)
    length = drawn.norm(dim=1, keepdim=True)
    return np.asarray((drawn / length)[length[:, 0] > ROUNDING * features.n**0.5 * _norm(features)].cpu())


def erasers_of(
    data: LayerData, problem: Problem, random_draws: int = 10, seed: int = 0, leace: Leace | None = None
) -> Erasers:
    """LEACE of the label, and the control: r(x) = x - u u'(x - mean) for each of the `random_directions` u.

    The control takes away as many directions, out of the covariance of rows of one label, and nobody's label. LEACE of
    shuffled labels would be a weak one: the less a label can be read, the less its erasure changes. Raises ProbeError.
    """
    check_problems(data, [problem], ("binary",), "erasure")
    data, problem = _by_row(data, problem)
    features = Features(data, problem.train)
    units = random_directions(data, problem, random_draws, seed)
    along = features.times(torch.from_numpy(units).to(features.device) * _spread(features))
    edits = along.square().mean(1).tolist()
    mean = features.mean.cpu().numpy()
    random = (Eraser(mean, u[None], u[None], {"edit": edit}) for u, edit in zip(units, edits, strict=True))
    return Erasers((leace or Leace()).fit(data, problem), tuple(random))


def _by_row(data: LayerData, problem: Problem) -> tuple[LayerData, Problem]:
    """Where decisions have a row for each token, each of these with its decision's label and split."""
    if data.bounds is None:
        return data, problem
    y, train, val = (np.repeat(part, np.diff(data.bounds)) for part in (problem.y, problem.train, problem.val))
    return replace(data, bounds=None, pairs=None, sides=None), replace(problem, y=y, train=train, val=val)


def _spread(features: Features) -> torch.Tensor:
    """Deviations [D], 0 where a column is constant."""
    return features.scale.nan_to_num(posinf=0.0)


def _norm(features: Features) -> float:
    """Root mean square of the rows' Euclidean norms."""
    return float((_spread(features).square().sum() + features.mean.square().sum()).sqrt())


def _class_mean(features: Features, problem: Problem) -> np.ndarray:
    found: np.ndarray = Contrast.of(features, [problem]).delta[0].cpu().numpy()
    return found


def _pattern(features: Features, weights: np.ndarray) -> np.ndarray:
    """Sigma w / (w' Sigma w), 0 where w reads nothing."""
    spread = _spread(features)
    read = features.times(torch.from_numpy(weights).to(features.device)[None] * spread)
    found = (features.back(read) * spread)[0] / read.square().sum().clamp_min(torch.finfo(torch.float64).tiny)
    return np.asarray(found.cpu())


def _unit(vector: np.ndarray) -> np.ndarray | None:
    length = np.linalg.norm(vector)
    return vector / length if length > 0 else None
