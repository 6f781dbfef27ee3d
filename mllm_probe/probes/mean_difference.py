"""The direction from the mean of one class to that of the other, as it is or within-class whitened (LDA).

Marks and Tegmark 2023 (arXiv 2310.06824), section 5: p = sigmoid(theta.h) with theta = mean(h|1) - mean(h|0), and for
data like the training data p = sigmoid(theta' Sigma^-1 h). Nothing is tuned, so validation rows are never looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from mllm_probe.errors import ConfigError, ProbeError
from mllm_probe.probes.solving.class_means import Contrast
from mllm_probe.probes.solving.iterates import Solution
from mllm_probe.probes.solving.linear import SIGN, LinearFit
from mllm_probe.probes.solving.objectives import Squared, Work
from mllm_probe.probes.solving.solver import finish, solve
from mllm_probe.probes.solving.standardised import Basis, Features
from mllm_probe.records.problems import LayerData, Problem, check_problems


@dataclass(frozen=True)
class MeanDifference:
    """Plain, the means of the classes give the weights and the point halfway between them the threshold; two passes
    over the rows, and a logit that orders rows but is no log-odds.

    `covariance` = LDA: the weights are ((1 - s) Sigma + s tr(Sigma) / D I)^-1 theta with Sigma the covariance within
    the classes, s = `shrinkage` and D the columns that vary, and the logit is the log-odds of normal classes with that
    covariance. `standardise` divides each column by its deviation in training, so that a few columns of huge values
    do not decide alone; without it theta is in the model's own units, as in the paper. Deterministic.
    """

    covariance: bool = False
    shrinkage: float = 0.1
    standardise: bool = True
    name: ClassVar[str] = "mean_difference"
    kinds: ClassVar[tuple[str, ...]] = ("binary",)
    reads: ClassVar[str] = "vector"

    @property
    def log_odds(self) -> bool:
        return self.covariance

    def __post_init__(self) -> None:
        if not 0 < self.shrinkage < 1:
            raise ConfigError(f"probe.shrinkage={self.shrinkage} must be between 0 and 1")

    def fit(self, data: LayerData, problems: Sequence[Problem]) -> list[LinearFit]:
        """Raises ProbeError."""
        check_problems(data, problems, self.kinds, self.name)
        features = Features(data, np.any([p.train for p in problems], axis=0))
        basis = Basis.of(features) if self.covariance else None
        size = max(1, data.compute.memory // (32 * (10 * features.n + 40 * features.width)))
        fits = []
        for start in range(0, len(problems), size):
            block = problems[start : start + size]
            contrast = Contrast.of(features, block)
            scale = contrast.scale
            if not self.standardise:
                scale = torch.where(scale.isinf(), scale, 1.0)
            if basis is None:
                weights = contrast.delta / scale
                intercept = -(weights * (contrast.middle - contrast.mean) / scale).sum(1)
                facts = [{"converged": 1.0}] * len(block)
            else:
                weights, facts = self._whitened(features, basis, block, contrast, scale)
                intercept = torch.logit(contrast.share)
                intercept -= (weights * (contrast.middle - contrast.mean) / scale).sum(1)
            parts = [part.cpu().numpy() for part in (contrast.mean, scale, weights, intercept[:, None])]
            decides = SIGN if self.covariance else ""
            for mean, spread, slopes, threshold, own in zip(*parts, facts, strict=True):
                fits.append(LinearFit(mean, spread, slopes, threshold, own, decides))
        return fits

    def _whitened(
        self, features: Features, basis: Basis, problems: Sequence[Problem], contrast: Contrast, scale: torch.Tensor
    ) -> tuple[torch.Tensor, list[dict[str, float]]]:
        """LDA's weights [P, D] by ridge regression of the labels, and what each problem's fit says of itself.

        With p = share (1 - share), A = Sigma + s / (1 - s) tr(Sigma) / D I and targets -1 and 1, ridge solves
        (A + p theta theta') w = 2 p theta, and its objective there is 2 p / (1 + p theta' A^-1 theta). By Sherman and
        Morrison A^-1 theta is therefore w / objective.
        """
        trace = (contrast.within / scale.square()).sum(1)
        varying = (~scale.isinf()).sum(1).clamp_min(1)
        if bool(((trace <= 0) & (contrast.delta != 0).any(1)).any()):
            raise ProbeError("all training rows of a class are equal; probe.covariance=false needs no spread within")
        shrunk = self.shrinkage / (1 - self.shrinkage) * trace / varying
        penalty = torch.where(trace > 0, shrunk, 1.0)
        y, train = (
            torch.from_numpy(np.stack(part)[:, features.used]).to(features.device)
            for part in ([np.where(p.y > 0, 1.0, -1.0) for p in problems], [p.train.astype(float) for p in problems])
        )
        weight = train / train.sum(1, keepdim=True)
        work = Work(Squared(), y[:, None], weight, penalty, features.factors(scale))
        found = finish(features, basis, work, solve(features, basis, work))
        weights = found.weights[:, 0] / found.objective[:, None] / (1 - self.shrinkage)
        return weights, self._certified(found, weights, (contrast.middle - contrast.mean) / scale)

    def _certified(self, found: Solution, weights: torch.Tensor, middle: torch.Tensor) -> list[dict[str, float]]:
        """What each fit says of itself: an objective that is too high by a share e, at most penalty / 2 radius^2, makes
        weights too small by about e. The threshold lies at the middle of the classes [P, D], standardised."""
        high = found.gradient * found.radius / found.objective
        radius = found.radius / found.objective / (1 - self.shrinkage) + 2 * high * weights.norm(dim=1)
        facts = {"radius": radius, "reach": middle.norm(dim=1), "drift": found.drift}
        told = zip(found.converged.tolist(), *(part.tolist() for part in facts.values()), strict=True)
        return [
            {"converged": float(done), "shrinkage": self.shrinkage, **dict(zip(facts, own, strict=True))}
            for done, *own in told
        ]
