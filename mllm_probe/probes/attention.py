"""A probe that reads all tokens of a span and learns where to look.

Per head h and decision: a_t = softmax over t of (q_h . x_t), and the logits are the sum over heads and tokens of
a_t (v_h . x_t), plus b ("attention probes", EleutherAI 2025; McKenzie et al. 2025), in tokens standardised over all
training tokens. A cheaper probe that misses what one token says is the mean over tokens, given to the linear probe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from mllm_probe.errors import ConfigError
from mllm_probe.probes.solving.descent import Descent, Goal, Parameters
from mllm_probe.probes.solving.linear import LinearFit, check_lambdas, fit_linear
from mllm_probe.probes.solving.objectives import Sigmoid, Softmax
from mllm_probe.probes.solving.states import States, standardised
from mllm_probe.records.problems import LayerData, Problem, check_problems

BLOCK = 64  # decisions whose logits are computed at once
QUERY = 0.1  # standard deviation of the scores that random queries begin with


def attend(parameters: Parameters, rows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Logits [B, C] of standardised rows [t, D] of decisions with so many tokens each, lengths [B].

    `query` is [H, D], `value` [H * C, D], `bias` [C]. What pads the shorter decisions has a weight of exactly 0.
    """
    query, value, bias = (parameters[name] for name in ("query", "value", "bias"))
    heads, outputs = len(query), len(bias)
    filled = torch.arange(int(lengths.max()), device=rows.device) < lengths[:, None]
    padded = rows.new_zeros(*filled.shape, len(query) + len(value))
    padded[filled] = rows @ torch.cat([query, value]).T
    weights = padded[..., :heads].masked_fill(~filled[..., None], -torch.inf).softmax(1)
    values = padded[..., heads:].reshape(*weights.shape, outputs)
    return (weights[..., None] * values).sum((1, 2)) + bias


@dataclass(frozen=True)
class AttentionFit:
    """The weights of `attend`, float32, for tokens (x - mean) / scale; `single` drops the axis of one output."""

    mean: np.ndarray
    scale: np.ndarray
    parameters: Mapping[str, np.ndarray]
    single: bool
    facts: Mapping[str, float] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, data: LayerData) -> np.ndarray:
        states, device = States(data), data.compute.device
        mean, scale = (torch.from_numpy(part).to(device) for part in (self.mean, self.scale))
        parameters = {name: torch.from_numpy(part).to(device) for name, part in self.parameters.items()}
        parts = [np.zeros((0, len(self.parameters["bias"])), np.float32)]
        for start in range(0, len(data), BLOCK):
            rows, lengths = states.take(np.arange(start, min(start + BLOCK, len(data))))
            parts.append(attend(parameters, standardised(rows, mean, scale), lengths).cpu().numpy())
        logits = np.concatenate(parts)
        return logits[:, 0] if self.single else logits

    def arrays(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean, "scale": self.scale, **self.parameters}


@dataclass(frozen=True)
class Attention(Descent):
    """`heads` places to look at, trained twice, of which the better on validation is kept: from nothing, and from the
    logistic probe of the mean over tokens (with the best of `lambdas`), which validation can therefore not prefer.

    Queries start near 0, by the problem's seed. An epoch multiplies every training token with heads (1 + C) vectors
    forth and back, about 6 T D heads (1 + C) operations; validation says how many epochs there are.
    """

    heads: int = 8
    lambdas: Sequence[float] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    name: ClassVar[str] = "attention"
    kinds: ClassVar[tuple[str, ...]] = ("binary", "classes")
    reads: ClassVar[str] = "tokens"
    log_odds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_lambdas(self.lambdas)
        if self.heads < 1:
            raise ConfigError(f"probe.heads={self.heads} must be 1 or more")

    def fit(self, data: LayerData, problems: Sequence[Problem]) -> list[AttentionFit]:
        """Raises ProbeError."""
        check_problems(data, problems, self.kinds, self.name)
        states = States(data)
        moments = states.moments(problems)
        pooled = LayerData(states.means(), name=data.name, compute=data.compute)
        lines = fit_linear(pooled, problems, self.lambdas, {"binary": Sigmoid(), "classes": Softmax()})
        return [self._fit(states, *each) for each in zip(problems, moments, lines, strict=True)]

    def _fit(
        self, states: States, problem: Problem, moments: tuple[torch.Tensor, torch.Tensor], line: LinearFit
    ) -> AttentionFit:
        goal, (mean, scale) = Goal(problem, states.device), moments
        generator = torch.Generator().manual_seed(problem.seed)
        query = (torch.randn(self.heads, len(mean), generator=generator) * QUERY / len(mean) ** 0.5).to(mean.device)
        value, bias = (part.to(query) for part in _as_tokens(line, mean.cpu(), scale.cpu(), self.heads))

        def logits(now: Parameters, rows: np.ndarray) -> torch.Tensor:
            taken, lengths = states.take(rows)
            return attend(now, standardised(taken, mean, scale), lengths)

        tried = [
            self.descend({"query": query, "value": value * share, "bias": bias * share}, logits, goal, generator)
            for share in (1, 0)
        ]
        best = min(tried, key=lambda found: found.val_loss)
        facts = {
            "converged": float(line.facts["converged"] and all(found.converged for found in tried)),
            "from_mean": float(best is tried[0]),
            "epochs": float(best.epochs),
            "val_loss": best.val_loss,
        }
        kept = {name: part.cpu().numpy() for name, part in best.parameters.items()}
        return AttentionFit(mean.cpu().numpy(), scale.cpu().numpy(), kept, goal.single, facts)


def _as_tokens(
    line: LinearFit, mean: torch.Tensor, scale: torch.Tensor, heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A linear probe of means as `value` and `bias` for standardised tokens: the same logits at even attention."""
    slopes = torch.from_numpy(np.atleast_2d(line.weights / line.scale))
    bias = torch.from_numpy(line.intercept) + slopes @ (mean - torch.from_numpy(line.mean))
    return (slopes * scale.nan_to_num(posinf=0.0) / heads).repeat(heads, 1), bias
