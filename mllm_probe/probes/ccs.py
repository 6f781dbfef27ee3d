"""Truth from contrast pairs, without labels but for its sign: CCS and its principal-component variant CRC.

Burns et al. 2022 (arXiv 2212.03827), section 2: two statements that contradict each other must have opposite truth.
Caveat (Farquhar et al. 2023, arXiv 2312.10029): whatever prominent feature tells the halves of a pair apart satisfies
that as well as truth does, so a high score needs a control of random labels or random features beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from mllm_probe.errors import ConfigError, ProbeError, choices
from mllm_probe.probes.solving.contrast_pairs import Halves, halves
from mllm_probe.probes.solving.standardised import Features, chunks
from mllm_probe.records.problems import LayerData, Problem, check_problems

VARIANTS = ("ccs", "crc")
FLAT = 1e-6  # the gradient's norm where a minimum is called reached


@dataclass(frozen=True)
class PairFit:
    """z = ((x - mean) / scale) @ weights + intercept, with mean and scale [2, D] of the side of x (+, then -).

    With z+ and z- of a pair, the + row's logit is the log-odds of (p+ + 1 - p-) / 2 (`averaged`), or z+ - z-, and the
    - row's is its negative. The weights are those of the objective, which does not know true from false; `sign`
    (1 or -1, by the labels of training) turns the logits.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    averaged: bool
    sign: float
    facts: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, data: LayerData) -> np.ndarray:
        """Raises ProbeError where a row has no counterpart."""
        plus, minus = halves(data, np.arange(len(data)))
        slopes = self.weights / self.scale
        moved = torch.from_numpy(slopes.T.copy()).to(data.compute.device)
        both = np.concatenate([(x @ moved).cpu().numpy() for _, _, x in chunks(data)])
        both += self.intercept - (slopes * self.mean).sum(1)
        logits = np.empty(len(data))
        logits[plus] = self.sign * self._pair(both[plus, 0], both[minus, 1])
        logits[minus] = -logits[plus]
        return logits

    def _pair(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if not self.averaged:
            return a - b
        yes, no = (np.logaddexp(-np.logaddexp(0, -s * a), -np.logaddexp(0, s * b)) for s in (1, -1))
        return yes - no

    def arrays(self) -> dict[str, np.ndarray]:
        line = {"mean": self.mean, "scale": self.scale, "weights": self.weights, "intercept": self.intercept}
        return {**line, "sign": np.asarray([self.sign])}


@dataclass(frozen=True)
class Ccs:
    """Each side of the training pairs is centred and scaled by itself. Deterministic but for the problem's seed.

    `ccs` minimises the mean of (p+ - (1 - p-))^2 + min(p+, p-)^2, plus `penalty` / 2 times the squared norm of the
    weights, by L-BFGS from `restarts` random directions, and keeps the lowest (a local minimum, where the gradient
    vanishes: `converged`); `crc` takes the leading principal
    component of x+ - x-, and its logits are no log-odds. Labels of training pairs give the sign alone.
    """

    variant: str = "ccs"
    restarts: int = 10
    penalty: float = 0.01
    max_steps: int = 500
    name: ClassVar[str] = "ccs"
    kinds: ClassVar[tuple[str, ...]] = ("binary",)
    reads: ClassVar[str] = "pairs"

    @property
    def log_odds(self) -> bool:
        return self.variant == "ccs"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ConfigError(f"probe.variant={self.variant} is unknown; {choices(self.variant, VARIANTS)}")
        if self.restarts < 1 or self.max_steps < 1 or self.penalty < 0:
            raise ConfigError(
                f"probe.restarts={self.restarts} and probe.max_steps={self.max_steps} must be 1 or more, "
                f"probe.penalty={self.penalty} not below 0"
            )

    def fit(self, data: LayerData, problems: Sequence[Problem]) -> list[PairFit]:
        """Raises ProbeError, also where rows are in no pair, a pair is cut by the split, or labels follow the side."""
        check_problems(data, problems, self.kinds, self.name)
        features = Features(data, np.any([p.train for p in problems], axis=0))
        return [self._fit(data, features, problem) for problem in problems]

    def _fit(self, data: LayerData, features: Features, problem: Problem) -> PairFit:
        plus, minus = halves(data, np.flatnonzero(problem.train))
        true = problem.y[plus] > 0
        if (true == (problem.y[minus] > 0)).any():
            raise ProbeError("the two rows of a contrast pair have the same label; one must be true and one false")
        if true.all() or not true.any():
            raise ProbeError("all + rows of the contrast pairs have the same label, so the side would reveal it")
        pairs = Halves.of(features, plus, minus)
        theta, bias, facts = self._truth(pairs, problem.seed) if self.variant == "ccs" else _component(pairs)
        arrays = [part.cpu().numpy() for part in (pairs.mean, pairs.scale, theta, bias)]
        found = PairFit(*arrays, self.variant == "ccs", 1.0, facts)  # type: ignore[call-arg, arg-type]
        a, b = (pairs.times(theta[None])[:, 0] + bias).cpu().numpy()
        sign = 1.0 if ((found._pair(a, b) > 0) == true).mean() >= 0.5 else -1.0
        return replace(found, sign=sign, facts={**facts, "sign": sign})

    def _truth(self, pairs: Halves, seed: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        """The best direction [D] and bias [1] of all restarts; they descend side by side and do not meet."""
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(self.restarts, pairs.width, generator=generator, dtype=torch.float64)
        theta = (start / pairs.width**0.5).to(pairs.device)
        bias = theta.new_zeros(self.restarts, 1)
        optimizer = torch.optim.LBFGS(
            [theta, bias],
            max_iter=self.max_steps,
            tolerance_grad=FLAT / 100,
            tolerance_change=1e-15,
            line_search_fn="strong_wolfe",
        )

        def objective() -> torch.Tensor:
            """[R]; leaves the gradient of the sum with the parameters."""
            z = (pairs.times(theta) + bias).requires_grad_()
            yes, no = torch.sigmoid(z)
            losses = ((yes + no - 1).square() + torch.minimum(yes, no).square()).mean(1)
            (slope,) = torch.autograd.grad(losses.sum(), z)
            theta.grad = pairs.back(slope) + self.penalty * theta
            bias.grad = slope.sum((0, 2))[:, None]
            return losses.detach() + self.penalty / 2 * theta.square().sum(1)

        optimizer.step(lambda: float(objective().sum()))  # type: ignore[no-untyped-call]
        found = objective()
        best = int(found.argmin())
        assert theta.grad is not None and bias.grad is not None
        gradient = float(torch.cat([theta.grad[best], bias.grad[best]]).norm())
        facts = {
            "converged": float(gradient <= FLAT),
            "objective": float(found[best]),
            "gradient": gradient,
            "iterations": float(optimizer.state[theta]["n_iter"]),
        }
        return theta[best], bias[best], facts


def _component(pairs: Halves) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """The leading principal component [D] of x+ - x- and a bias of 0."""

    def covariance(v: np.ndarray) -> np.ndarray:
        a, b = pairs.times(torch.from_numpy(v.reshape(1, -1)).to(pairs.device))
        return pairs.back(torch.stack([a - b, b - a]))[0].cpu().numpy()

    width = pairs.width
    start = np.random.default_rng(0).normal(size=width)
    axis = np.ones((width, 1)) if width == 1 else np.zeros((width, 1))
    if width > 1 and covariance(start).any():
        operator = LinearOperator((width, width), matvec=covariance, dtype=np.float64)
        _, axis = eigsh(operator, k=1, v0=start)
    theta = torch.from_numpy(axis[:, 0]).to(pairs.device)
    return theta, theta.new_zeros(1), {"converged": 1.0}
